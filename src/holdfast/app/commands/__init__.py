"""The commands that belong to the program as a whole."""
