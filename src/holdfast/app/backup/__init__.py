"""Backups: everything in two files, the data and apart from it the keys; and the way back."""
