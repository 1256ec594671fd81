"""Where the keys and secrets of a restore belong: where the settings have them.

In the data directory they get there with everything else, in one step. Elsewhere they are put there
before the data has its name, the lists of what no restore goes back behind first of all: so whoever
finds the data finds its keys, and whoever finds a key finds the list of those who were erased.
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
class Place:
    """A folder of the stage, and where the settings have what is in it."""

    name: str
    folder: Path
    within: Path | None
    """Relative to the data directory; None if it lies elsewhere."""

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
    """Where keys and secrets belong."""
    return [
        Place(KEYS, settings.keys_dir, _within(settings.keys_dir, settings.data_dir)),
        Place(SECRETS, settings.secrets_dir, _within(settings.secrets_dir, settings.data_dir)),
    ]


def _within(folder: Path, data_dir: Path) -> Path | None:
    """``folder`` relative to the data directory, by its name or by what its name leads to."""
    named = Path(os.path.abspath(folder)), Path(os.path.abspath(data_dir))  # noqa: PTH100 - links
    for path, root in (named, (folder.resolve(), data_dir.resolve())):
        if path != root and path.is_relative_to(root):
            return path.relative_to(root)
    return None


def _make(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        flush_folder(folder.parent)
