"""The profiles' folder: what lies there is what is published.

A reconciler. It looks at the folder and at what was last seen of it, and moves the registry one
step towards the folder: publishes files that changed, says what is wrong with bad ones while the
last good version runs on, and takes profiles whose file is gone out of the schedule. Repeating it
changes nothing; starting is the same as any other look. Nothing is kept in memory but the hope of
not reading an unchanged file again.

A profile that was published by hand is left alone until its file changes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.kernel.canonical import digest
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import HoldfastError, Invalid, Kind, Problem
from holdfast.kernel.ids import is_name
from holdfast.kernel.principal import Principal
from holdfast.kernel.telemetry import get_logger
from holdfast.registry.code_lists import stamp, with_code_lists
from holdfast.registry.document import DOCUMENT_BYTES_MAX, SUFFIXES, media_type_of
from holdfast.registry.service import FromFile, RegistryService
from holdfast.registry.store import FileSeen
from holdfast.registry.validate import examine

FILES_MAX = 10_000
LOOK_SECONDS = 2.0

log = get_logger(__name__)

Look = tuple[int, int, int, int]
"""What tells that a file may have changed without reading it: mtime, size, inode, code lists."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What one look at the folder came to: names published, files refused, files gone."""

    published: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return bool(self.published or self.refused or self.gone)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file as it lies there: its bytes, and the name it gives as far as that can be told."""

    file: str
    data: bytes
    digest: str
    name: str


class ProfilesFolder:
    """Keeps one tenant's profiles what the files of one folder say."""

    def __init__(
        self,
        service: RegistryService,
        principal: Principal,
        folder: Path,
        clock: Clock,
        *,
        asked: bool = True,
        apart: Path | None = None,
    ) -> None:
        """Without ``asked`` nobody named the folder, and there need not be one.

        ``apart`` is not looked into if it lies there: the data directory has documents of its own.
        """
        self._service = service
        self._principal = principal
        self._folder = folder
        self._clock = clock
        self._asked = asked
        self._apart = apart
        self._unreadable = ""
        self._looks: dict[str, Look] = {}
        self._handled: dict[str, Look] = {}
        self._wake = asyncio.Event()

    def nudge(self) -> None:
        """Look now instead of at the next turn (a signal came)."""
        self._wake.set()

    async def watch(self, *, every_seconds: float = LOOK_SECONDS) -> None:
        """Reconcile at once and then at every turn, until cancelled.

        A failure is logged and the next turn tries again: the registry may be restarting.
        """
        settled = True
        while True:
            try:
                await self.reconcile(settled=settled)
                settled = False
            except HoldfastError as error:
                log.warning("profiles.folder_failed", kind=error.kind.value, detail=error.detail)
            settled = await self._turn(every_seconds) or settled

    async def _turn(self, seconds: float) -> bool:
        """Wait for the next turn or a nudge; whether it was a nudge."""
        self._wake.clear()
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        nudged = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({timer, nudged}, return_when=asyncio.FIRST_COMPLETED)
            return nudged.done()
        finally:
            timer.cancel()
            nudged.cancel()
            await asyncio.gather(timer, nudged, return_exceptions=True)

    async def reconcile(self, *, settled: bool = True) -> Reconciled:
        """One look. Without ``settled``, a file that changed waits until it looks the same twice:
        it may still be being written.

        A folder that cannot be read changes nothing: it is not the same as an empty one.
        """
        try:
            looks = await asyncio.to_thread(_scan, self._folder, self._apart)
        except OSError as error:
            self._note_unreadable(error)
            return Reconciled()
        if self._unreadable:
            log.info("profiles.folder_readable", folder=str(self._folder))
            self._unreadable = ""
        seen = {each.file: each for each in await self._service.files(self._principal)}
        gone = [file for file in seen if file not in looks]
        if gone:
            self._try_again(seen)
        changed = [file for file, look in looks.items() if self._is_news(file, look, settled)]
        self._looks = looks
        found = await asyncio.to_thread(_read_all, self._folder, changed, seen)
        names = {each.name for each in found}
        for file in gone:
            await self._service.file_gone(self._principal, file, renamed=seen[file].name in names)
        published, refused = [], []
        for each in found:
            before = seen.get(each.file)
            if before is None or before.digest != each.digest or before.problem:
                if await self._take(each):
                    published.append(each.name)
                else:
                    refused.append(each.file)
            self._handled[each.file] = looks[each.file]
        return Reconciled(tuple(published), tuple(refused), tuple(gone))

    def _note_unreadable(self, error: OSError) -> None:
        """Said when it begins and when the reason changes, not at every look."""
        missed = self._asked or bool(self._looks)
        if isinstance(error, FileNotFoundError) and not missed:
            return
        if str(error) != self._unreadable:
            self._unreadable = str(error)
            log.warning(
                "profiles.folder_unreadable", folder=str(self._folder), reason=self._unreadable
            )

    def _is_news(self, file: str, look: Look, settled: bool) -> bool:
        """Whether a file must be read: not handled as it looks now, and at rest.

        Nothing is handled when a process starts, so files refused by an older one are tried again.
        """
        if self._handled.get(file) == look:
            return False
        return settled or self._looks.get(file) == look

    def _try_again(self, seen: dict[str, FileSeen]) -> None:
        """A file that went may have stood in the way of one that was refused."""
        for file, before in seen.items():
            if before.problem:
                self._handled.pop(file, None)

    async def _take(self, found: _Found) -> bool:
        """Publish a file, or say in the list why not; the running version is untouched then."""
        file = FromFile(found.file, found.digest)
        try:
            result = await self._service.publish(
                self._principal, found.data, media_type=media_type_of(Path(found.file)), file=file
            )
        except HoldfastError as error:
            if error.kind not in {Kind.INVALID, Kind.UNSUPPORTED, Kind.TOO_LARGE}:
                raise
            problems: Sequence[Problem] = error.problems or (Problem("", error.detail),)
            await self._service.file_refused(self._principal, file, found.name, problems)
            log.warning(
                "profiles.refused", file=found.file, problems=[str(each) for each in problems]
            )
            return False
        if result.changed:
            log.info("profiles.published", profile=found.name, digest=result.version.digest)
        return True


def look(folder: Path, *, apart: Path | None = None) -> Iterator[tuple[str, list[Problem]]]:
    """What is wrong with each file of ``folder``; nothing is published, and nothing noted.

    ``OSError`` if the folder cannot be read whole.
    """
    for file in _scan(folder, apart):
        path, media_type = folder / file, media_type_of(Path(file))
        with path.open("rb") as stream:
            data = stream.read(DOCUMENT_BYTES_MAX + 1)
        try:
            found = examine(
                with_code_lists(data, path.parent, media_type=media_type), media_type=media_type
            )
        except HoldfastError as error:
            yield file, [Problem("", error.detail, error.hint)]
            continue
        yield file, [*found.problems, *found.unsupported]


def _scan(folder: Path, apart: Path | None) -> dict[str, Look]:
    """Every profile file below ``folder``; ``OSError`` if the folder cannot be read whole.

    Names that begin with a dot are passed over (editors' files, the ``..data`` of a mounted
    ConfigMap); a link counts if what it names lies inside the folder.
    """
    left_out = apart.resolve() if apart is not None else None
    return dict(sorted(_walk(folder.resolve(strict=True), left_out)))


def _walk(root: Path, apart: Path | None) -> Iterator[tuple[str, Look]]:
    count = 0
    lists = stamp(root)
    for directory, folders, names in os.walk(root, onerror=_raise):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(directory, name) != apart
        )
        for name in names:
            path = Path(directory, name)
            if name.startswith(".") or path.suffix not in SUFFIXES:
                continue
            if not path.is_file() or not path.resolve().is_relative_to(root):
                continue
            stat = path.stat()
            count += 1
            if count > FILES_MAX:
                raise OSError(f"more than {FILES_MAX} profile files")
            look = (stat.st_mtime_ns, stat.st_size, stat.st_ino, lists)
            yield str(path.relative_to(root)), look


def _raise(error: OSError) -> None:
    raise error


def _read_all(folder: Path, files: Sequence[str], seen: dict[str, FileSeen]) -> list[_Found]:
    """The files that can be read; one that vanished meanwhile is gone at the next look."""
    found = []
    for file in files:
        try:
            with (folder / file).open("rb") as stream:
                data = stream.read(DOCUMENT_BYTES_MAX + 1)
            if len(data) <= DOCUMENT_BYTES_MAX:
                data = with_code_lists(
                    data, (folder / file).parent, media_type=media_type_of(Path(file))
                )
        except OSError:
            continue
        except Invalid as error:  # told where the list is used: the profile has no such list
            log.warning("profiles.code_list_refused", file=file, detail=error.detail)
        before, found_digest = seen.get(file), digest(data)
        if before is not None and before.digest == found_digest and not before.problem:
            name = before.name  # the same bytes give the same name: nothing to examine
        else:
            name = _name_of(file, data, before.name if before else "")
        found.append(_Found(file, data, found_digest, name))
    return found


def _name_of(file: str, data: bytes, before: str) -> str:
    """The name a file gives; else the one it gave before; else its own."""
    small = len(data) <= DOCUMENT_BYTES_MAX
    given = examine(data, media_type=media_type_of(Path(file))).name if small else ""
    if is_name(given):
        return given
    stem = Path(file).stem.lower()
    return before or (stem if is_name(stem) else "unnamed")
