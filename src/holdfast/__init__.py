"""Holdfast: collect with a fleet, keep what you collected, prove where every number came from."""

__version__ = "0.1.0"
