"""The program's entry, which loads as little as the line asks for.

``holdfast version`` must answer within a third of a second, and a program that stays (``up``,
``serve``, ``drone``) must not hold for weeks the library that reads command lines: 9 MiB and a
third of a second, in each drone again. So the lines of those are read by ``app.straight`` where
they are plainly right, and everything else by ``app.commandline``.
"""

from __future__ import annotations

import io
import os
import sys

from holdfast import __version__

# Whatever is imported here takes time in which an interrupt is a traceback: no typing, no more
# than the interpreter has already.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from _typeshed import ReadableBuffer

GLOBAL_OPTIONS = ("--data-dir", "--control-plane", "--log-level", "--log-format")
INTERRUPTED = 130


def main() -> None:
    """Entry point of the ``holdfast`` command.

    An interrupt, also while modules are being loaded, and an output that takes no more end it as
    any other failure does: with a status and at most one line.
    """
    output = None
    ended: BaseException = SystemExit(0)
    try:
        from holdfast.kernel.interrupts import while_loading

        while_loading()
        output = _noting()
        _main(sys.argv[1:])
    except KeyboardInterrupt:
        ended = SystemExit(INTERRUPTED)
    except (SystemExit, OSError, ExceptionGroup) as error:
        ended = error
    # What is left to be written is written now, while it can be told that it could not be.
    from contextlib import suppress

    with suppress(OSError):
        sys.stdout.flush()
    if output is not None and output.lost is not None:
        _let_go()
        if not isinstance(output.lost, BrokenPipeError):
            from holdfast.kernel.cli import fail
            from holdfast.kernel.errors import Invalid

            fail(
                Invalid(
                    f"cannot write standard output: {output.lost.strerror}",
                    hint="where it leads takes no more: lead it to where there is room",
                )
            )
        if not isinstance(ended, SystemExit) or _of_the_pipe(ended):
            ended = SystemExit(0)  # the reader went away (`| head`): not a failure of ours
    raise ended


def _of_the_pipe(ended: BaseException) -> bool:
    """Whether it ended because nobody read on: the libraries that print and that read the line make
    a status 1 of that. What a command found before (``doctor``: not well) stays its status."""
    found: BaseException | None = ended
    while found is not None:
        if isinstance(found, BrokenPipeError):
            return True
        found = found.__context__
    return False


class _Output(io.FileIO):
    """Standard output, and why it took no more: whoever writes to it need not tell it apart."""

    lost: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int | None:  # type: ignore[override]  # FileIO's own
        try:
            return super().write(data)
        except OSError as error:
            self.lost = error
            raise


def _noting() -> _Output | None:
    """Put it in the place of the interpreter's own; not where that is no file, as in a test."""
    old = sys.stdout
    if not isinstance(old, io.TextIOWrapper) or old is not sys.__stdout__:
        return None
    raw = _Output(old.fileno(), "w", closefd=False)
    unbuffered: BinaryIO = raw  # as the interpreter's own is
    buffered = isinstance(old.buffer, io.BufferedWriter)  # not so under PYTHONUNBUFFERED
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw) if buffered else unbuffered,
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.line_buffering,
        write_through=not buffered,
    )
    return raw


def _let_go() -> None:
    """What could not be written is not tried again when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _main(arguments: list[str]) -> None:
    if arguments in (["version"], ["--version"]):
        sys.stdout.write(f"holdfast {__version__}\n")
        return
    arguments = hoist(arguments)
    from holdfast.app.straight import read, start

    said = read(arguments)
    if said is not None:
        sys.exit(start(said))
    from holdfast.app import commandline

    commandline.main(arguments)


def hoist(arguments: list[str]) -> list[str]:
    """Move the global options to the front, so that they are understood anywhere on the line."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, _ = argument.partition("=")
        if argument == "--":
            rest += [argument, *waiting]
        elif name in GLOBAL_OPTIONS:
            front += [argument] if equals else [argument, *_next(waiting)]
        else:
            rest.append(argument)
    return front + rest


def _next(waiting: Iterator[str]) -> list[str]:
    following = next(waiting, None)
    return [] if following is None else [following]


if __name__ == "__main__":
    main()
