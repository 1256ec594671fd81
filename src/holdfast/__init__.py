"""Holdfast: collect with a fleet, keep what you collected, prove where every number came from."""

from holdfast.kernel.importing import install as _install

__version__ = "0.1.0"

_install()
