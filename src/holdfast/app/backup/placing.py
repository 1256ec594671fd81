"""Where the keys and secrets of a restore belong: where the settings have them.

In the data directory they get there with everything else, in one step; unless what is there is a
link that leads out of it: then the link is made anew, and they lie where it leads. Elsewhere they
are put there before the data has its name, the lists of what no restore goes back behind first of
all: so whoever finds the data finds its keys, and whoever finds a key finds the list of those who
were erased.
Nothing that is there is written over: all of it is looked at before anything is written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast.app.settings import Settings
from holdfast.kernel.errors import Conflict
from holdfast.kernel.files import flush_folder, write_new
from holdfast.keyring.lines import FILES, join

KEYS, SECRETS = "keys", "secrets"
TENANT_SECRET = "tenant-secrets"  # noqa: S105 - a file's name
_TRUSTED = "trusted"


@dataclass(frozen=True, slots=True)
class Link:
    """A link in the data directory: where it is in there, and what it says."""

    within: Path
    text: str


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of the stage, and where the settings have what is in it."""

    name: str
    folder: Path
    within: Path | None
    """Relative to the data directory; None if it lies elsewhere."""
    link: Link | None = None
    """By which the data directory has what lies elsewhere."""

    def _files(self, stage: Path) -> Iterator[tuple[Path, Path]]:
        """Each file of the stage, and where it belongs. Without the two lists: they are joined."""
        root = stage / self.name
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root)
            listed = self.name == KEYS and str(relative) in FILES
            if path.is_file() and not path.name.startswith(".") and not listed:
                yield path, self.folder / relative

    def _stays(self, path: Path) -> bool:
        """Whether another one that is there is as good: the data does not depend on this file.

        A secret of a source is the operator's, and newer than the backup's; public keys of roles
        are left there anew by each of them at its start.
        """
        relative = path.relative_to(self.folder)
        if self.name == KEYS:
            return relative.parts[0] == _TRUSTED
        return str(relative) != TENANT_SECRET

    def check(self, stage: Path) -> None:
        """``Conflict`` if a file that the data depends on would have to be written over."""
        if self.within is not None:
            return
        for path, wanted in self._files(stage):
            if not wanted.exists() or self._stays(wanted):
                continue
            if wanted.read_bytes() != path.read_bytes():
                raise Conflict(
                    f"cannot restore: {wanted} is there, and it is another than the backup's",
                    code="key-there",
                    hint="nothing was written; name a folder of its own for the keys of what is "
                    "restored, or move that file away if nothing depends on it any more",
                )

    def put(self, stage: Path) -> None:
        """Everything where it belongs, durable on return; what is there stays.

        What belongs elsewhere is in the stage no more: keys that were kept apart from the data
        stay apart.
        """
        if self.within is not None:
            self._move(stage, stage / self.within)
            return
        _make(self.folder)
        if self.name == KEYS:
            join(self.folder, [stage / KEYS])
        for path, wanted in self._files(stage):
            _make(wanted.parent)
            write_new(wanted, path.read_bytes())
        shutil.rmtree(stage / self.name, ignore_errors=True)
        if self.link is not None and not (stage / self.link.within).is_symlink():
            _make((stage / self.link.within).parent)
            (stage / self.link.within).symlink_to(self.link.text)

    def _move(self, stage: Path, home: Path) -> None:
        """To the name that the folder has in the data directory."""
        if home == stage / self.name or not (stage / self.name).is_dir():
            return
        for path in sorted((stage / self.name).rglob("*")):
            wanted = home / path.relative_to(stage / self.name)
            if path.is_file() and not wanted.exists():
                wanted.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.rename(wanted)
        shutil.rmtree(stage / self.name)


def places_of(settings: Settings) -> list[Place]:
    """Where keys and secrets belong. ``Conflict`` for a link in the data directory that leads to
    nowhere: what it led to is perhaps a disk that is not mounted."""
    return [
        _place_of(KEYS, settings.keys_dir, settings.data_dir),
        _place_of(SECRETS, settings.secrets_dir, settings.data_dir),
    ]


def _place_of(name: str, folder: Path, data_dir: Path) -> Place:
    root = data_dir.resolve()
    within = _below(Path(os.path.abspath(folder)), Path(os.path.abspath(data_dir)))  # noqa: PTH100 - links
    if within is None:
        return Place(name, folder, _below(folder.resolve(), root))
    for part in reversed([within, *within.parents]):
        path = data_dir / part
        if part.name and path.is_symlink() and not path.resolve().is_relative_to(root):
            if not path.exists():
                raise Conflict(
                    f"cannot restore: {path} is a link to {path.readlink()}, which is not there",
                    code="link-broken",
                    hint="nothing was written; bring back what it leads to, or remove the link",
                )
            return Place(name, folder.resolve(), None, Link(part, str(path.readlink())))
    return Place(name, folder, within)


def _below(folder: Path, root: Path) -> Path | None:
    """``folder`` relative to ``root``; None if it lies elsewhere."""
    return folder.relative_to(root) if folder.is_relative_to(root) else None


def _make(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        flush_folder(folder.parent)
