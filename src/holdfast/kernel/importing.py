"""Sees to what is imported: our message types are finished first, and some of others' is left out.

msgspec works a Struct out at its first use, and two threads that do so at once can end the process
(``kernel.structs`` says how). Whoever defines a type, and whoever imports a module late and from
any thread, would have to remember that. So nobody has to: ``import holdfast`` installs a finder for
the modules below it, and what it loads is prepared as the last step of the import, while Python
still makes other threads wait for the module.

The same finder refuses what libraries would load on the chance that it is there, though nothing of
ours uses it through them (:data:`REFUSED`): they have their own way of doing without.

Standard library only, and nothing is done for a program that never loads msgspec. What is imported
here comes before the first line of the program, which says what an interrupt does: so it is little.
"""

from __future__ import annotations

import sys
from _thread import RLock
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

PREPARING = RLock()
"""Held by whoever has msgspec work a type out. Taken after an import lock, never before one."""

REFUSED = {
    "httpx._main": "httpx",  # its command line: click, rich and all of pygments' lexers
    "rich": "structlog",  # colours in tracebacks, which we write as plain text
    "greenlet": "structlog",  # for structlog.threadlocal, unused; PostgreSQL's engine gets it
    "pydantic": "litestar",  # types of bodies that are none of ours
    "attr": "litestar",
    "mako.ext.pygmentplugin": "mako",  # colours in pages about a template that failed
}
"""Modules that do not exist for one package, and whose absence that package provides for. They are
a fifth of what a drone would hold, and 9 MiB and a sixth of a second of a server."""

_PREFIX = f"{__name__.partition('.')[0]}."


class PreparingLoader(SourceFileLoader):
    """Loads a module and prepares the types that it defines."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        prepare_module(module)


class PreparingFinder:
    """Finds modules of ours as usual and has them loaded by :class:`PreparingLoader`."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """As Python asks every finder; nothing for modules of others."""
        if name in REFUSED and _requester().partition(".")[0] == REFUSED[name]:
            raise ModuleNotFoundError(f"{name} is left out for {REFUSED[name]}", name=name)
        if not name.startswith(_PREFIX):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = PreparingLoader(spec.loader.name, spec.loader.path)
        return spec


def _requester() -> str:
    """The module that asks for an import."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


def install() -> None:
    """Prepare what is imported from now on; once is enough, again does nothing."""
    if not any(isinstance(finder, PreparingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, PreparingFinder())


def prepare_module(module: ModuleType) -> None:
    """Have msgspec finish the types that ``module`` defines, also inside of classes."""
    msgspec = sys.modules.get("msgspec")
    if msgspec is None:
        return
    found = [value for value in vars(module).values() if isinstance(value, type)]
    found += [value for outer in found for value in vars(outer).values() if isinstance(value, type)]
    mine = [each for each in found if each.__module__ == module.__name__]
    with PREPARING:
        for each in mine:
            if issubclass(each, msgspec.Struct):
                try:
                    msgspec.json.Decoder(each)
                except Exception:  # noqa: S112 - one that is only ever encoded need not decode
                    continue
