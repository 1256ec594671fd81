"""What an interrupt (Ctrl-C) does to a program that is still being loaded.

Python raises KeyboardInterrupt at whatever line it is at. Among imports that is a traceback of no
use to anybody, or, in a callback of the import system, one that is printed and forgotten: the
program went on as if nobody had asked. Nothing was begun that early, so the process just ends.
Once a command does something, an interrupt is raised again, for it has things to put right.

Built-in modules only: it is loaded before everything else, and to load ``signal`` (which is nearly
all ``enum``) takes four times as long as all that comes before it.
"""

import _signal as signal  # type: ignore[import-not-found]  # built in
import os


def while_loading() -> None:
    """From here on an interrupt ends the process at once, silently.

    Left alone where somebody handles interrupts otherwise: a shell has background jobs ignore them.
    """
    # The default is what the first lines of the package left; the interpreter leaves none.
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL):
        signal.signal(signal.SIGINT, _end)


def loaded() -> None:
    """From here on an interrupt is raised as usual."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    os._exit(130)  # as a shell calls what SIGINT has ended
