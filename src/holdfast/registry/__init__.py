"""Profiles: what sources there are, versioned by content. See the README of this package."""
