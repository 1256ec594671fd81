"""Holdfast: collect with a fleet, keep what you collected, prove where every number came from."""

import _signal  # type: ignore[import-not-found]  # built in
import sys as _sys

# In our own program (the command, or ``python -m`` of it) an interrupt from here on ends the
# process: the next line that imports is one of which a traceback tells nobody anything. What
# happens later says ``kernel.interrupts``, which itself takes a moment to load.
if (
    _sys.argv[0].endswith(("/holdfast", "/holdfast/app/main.py"))
    or "holdfast.app.main" in _sys.orig_argv[1:4]
) and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from holdfast.kernel.importing import install as _install

__version__ = "0.1.0"

_install()
