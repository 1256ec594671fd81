"""The drone: fetch, parse, map. See README.md for the life of a fetched page."""
