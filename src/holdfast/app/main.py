"""The program's entry, which loads as little as the line asks for.

``holdfast version`` must answer within a third of a second, and a program that stays (``up``,
``serve``, ``drone``) must not hold for weeks the library that reads command lines: 9 MiB and a
third of a second, in each drone again. So the lines of those are read by ``app.straight`` where
they are plainly right, and everything else by ``app.commandline``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from holdfast import __version__

GLOBAL_OPTIONS = ("--data-dir", "--control-plane", "--log-level", "--log-format")


def main() -> None:
    """Entry point of the ``holdfast`` command."""
    arguments = sys.argv[1:]
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
