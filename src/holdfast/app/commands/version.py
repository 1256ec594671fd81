"""``holdfast version``."""

from __future__ import annotations

import platform
import sys

import typer

from holdfast import __version__
from holdfast.kernel.cli import print_json
from holdfast.kernel.options import JsonOption

app = typer.Typer(add_completion=False)


@app.command(help="Print the version.", epilog="Example: holdfast version --json")
def version(json: JsonOption = False) -> None:
    """The version of Holdfast and of what it runs on."""
    if json:
        print_json(
            {
                "version": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
            }
        )
        return
    sys.stdout.write(f"holdfast {__version__}\n")
