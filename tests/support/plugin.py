"""The format of the guide for authors, as a package that is installed: its files, on the path."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import invalidate_caches
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "formats.md"
MODULE = "fixed_width"


def blocks(language: str) -> list[str]:
    """The guide's blocks of code in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text("utf-8"), re.M | re.S)


def install(folder: Path, entry: str = "", code: str = "") -> Path:
    """What pip would have put there: the module, and who it is. The folder is to be on the path."""
    folder.mkdir(parents=True, exist_ok=True)
    [project] = blocks("toml")
    named = re.search(r"^(fixed-width) = \"(.*)\"$", project, re.M)
    assert named
    (folder / f"{MODULE}.py").write_text(code or blocks("python")[0], "utf-8")
    info = folder / "holdfast_fixed_width-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: holdfast-fixed-width\nVersion: 1.0\n"
    )
    target = entry or named[2]
    (info / "entry_points.txt").write_text(f"[holdfast.formats]\n{named[1]} = {target}\n")
    return folder


@contextmanager
def installed(folder: Path, entry: str = "", code: str = "") -> Iterator[None]:
    """Installed in this process while the block runs."""
    path = str(install(folder, entry, code))
    sys.path.insert(0, path)
    invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(path)
        sys.modules.pop(MODULE, None)
        invalidate_caches()
