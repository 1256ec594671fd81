"""How people sign in, and what lasts of it."""
