"""Who signs a tenant's log: its origins, its keys, and what was published under them.

A checkpoint is released only after its origin, size and root are durable in two places: in the
database by compare-and-set, and in a file that no restore brings back. So whatever is restored,
nothing is ever signed below what the outside has seen. Instances that share a database have a file
each: it knows what its instance answered, and what was published when it began to sign.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from holdfast.kernel.canonical import canonical
from holdfast.kernel.errors import Corrupt
from holdfast.kernel.files import write_new, write_over
from holdfast.kernel.signing import SigningKey
from holdfast.ledger.errors import KeyMissing, PublishedDamaged
from holdfast.ledger.head import Head
from holdfast.ledger.notes import Checkpoint, VerifierKey
from holdfast.ledger.store import LogKey, Origin, Published

PUBLISHED_FILE = "the file of what was published"


@dataclass(frozen=True, slots=True)
class SignerPaths:
    """Where the private keys and the published sizes of a tenant's log are."""

    keys: Path
    published: Path

    def key(self, tenant: str, number: int) -> Path:
        """The file of a private key."""
        return self.keys / f"ledger-{tenant}-{number}.key.jwk"

    def published_file(self, tenant: str) -> Path:
        """The file that no restore brings back."""
        return self.published / f"{tenant}.json"


def origin_name(base: str, tenant: str, generation: int) -> str:
    """The name under which a log is signed; another one after each new beginning."""
    return f"{base}/{tenant}" if generation == 0 else f"{base}/{tenant}/{generation}"


def first_origin(base: str, tenant: str, now: str, random: Callable[[int], bytes]) -> Origin:
    """The origin of a log that begins."""
    name = base or f"holdfast/{random(8).hex()}"
    return Origin(0, origin_name(name, tenant, 0), 0, now, "the log begins")


def following_origin(
    before: Origin,
    size: int,
    now: str,
    reason: str,
    taken: Iterable[Checkpoint],
    *,
    more: bool = False,
) -> Origin:
    """The origin that continues ``before`` from ``size`` on; none of those ``taken`` elsewhere.

    Where nobody knows whether ``more`` are taken its number is the time: those before it were
    small, or an earlier time.
    """
    base = before.origin
    if before.generation:
        base = base.rpartition("/")[0]
    generation = 1 + max([before.generation, *(generation_of(each.origin) for each in taken)])
    if more:
        generation = max(generation, int(moment_digits(now)))
    return Origin(generation, f"{base}/{generation}", size, now, reason)


def moment_digits(now: str) -> str:
    """Year to second of a time as it is kept, as digits alone."""
    return re.sub(r"[^0-9]", "", now)[:14]


def generation_of(origin: str) -> int:
    """The number at the end of a name that :func:`origin_name` made; 0 without one.

    Of a first origin whose tenant is a number it is that number: the next one is larger, no worse.
    """
    last = origin.rpartition("/")[2]
    return int(last) if last.isdecimal() and last.isascii() else 0


def unknown_origins(
    published: Mapping[str, Checkpoint], origins: Sequence[Origin]
) -> list[Checkpoint]:
    """What was published under origins that the database does not know, and should.

    It is from before them: continued, it would tell the outside another story under a name that is
    taken. A restart passes over them to a later generation; from then on they are no concern.
    """
    known = {each.origin for each in origins}
    present = origins[-1].generation if origins else 0
    return [
        each
        for name, each in published.items()
        if name not in known and generation_of(name) >= present
    ]


def is_evidence(said: Mapping[str, Checkpoint], rows: Mapping[str, Published]) -> bool:
    """Whether a file that says this may be from after a backup with these rows.

    The newest one of whoever signed is: nothing is told before the file knows it, and whoever
    begins to sign has it learn all that the database has. One that knows less, of any origin, is
    from before the backup, or of a log elsewhere. How much newer than the backup it is, nothing
    in it tells.
    """
    return all(
        origin in said
        and (said[origin].size > row.size or (said[origin].size, said[origin].root) == _end(row))
        for origin, row in rows.items()
    )


def _end(row: Published) -> tuple[int, bytes]:
    return row.size, row.root


def binds(origins: Sequence[Origin], origin: str, size: int) -> bool:
    """Whether the log has to be what it was said to be at ``size`` under ``origin``.

    What an origin told of beyond the size that a later one began at is lost: the log has other
    entries there now. Whether the entry of that beginning cites all of it, :func:`untold` says.
    What a restart passed over is another log's.
    """
    names = [each.origin for each in origins]
    if origin not in names:
        return bool(unknown_origins({origin: Checkpoint(origin, size, b"")}, origins))
    later = origins[names.index(origin) + 1 :]
    return all(size <= each.started_size for each in later)


@dataclass(frozen=True, slots=True)
class Untold:
    """Entries that were in the log, are not any more, and of which no origin tells."""

    first: int
    last: int
    detail: str


def untold(
    origins: Sequence[Origin], head: Head | Checkpoint, who: str = "the head file"
) -> Untold | None:
    """What ``head`` knows of that was lost before a later origin began, which knew less.

    Each instance has a head file of its own, and one of what was published (``who``). Whoever
    restarts cites only what it can see: how long the log was (``known_size``), its own head, and
    what was published. What cites no such length is of a version that did not; of that nobody can
    tell.
    """
    names = [each.origin for each in origins]
    if head.origin not in names:
        return None
    before = names.index(head.origin)
    later = origins[before + 1 :]
    cut = next((each for each in later if each.started_size < head.size), None)
    if cut is None:
        return None
    known = _cited(cut, "known_size")
    if known is None:
        return None
    # Those in between grew from what the head speaks of; later ones may have heard of it, too.
    same = names[before : names.index(cut.origin)]
    for each in later:
        for who in ("head", "published"):
            if _cited(each, f"{who}_origin") in same:
                known = max(known, _cited(each, f"{who}_size"))
    if known >= head.size:
        return None
    return Untold(
        known,
        head.size - 1,
        f"{who} knows of {head.size} entries of {head.origin}, and {cut.origin}, which "
        f"began at {cut.started_size}, tells of {known}",
    )


def _cited(origin: Origin, name: str) -> Any:
    """What ``origin`` cites under this name; none where that is nothing, or cannot be read."""
    try:
        return json.loads(origin.cites).get(name)
    except (ValueError, AttributeError):
        return None


def load_key(paths: SignerPaths, tenant: str, key: LogKey) -> SigningKey:
    """The private half of ``key``; ``KeyMissing`` if the file holds another key or is gone."""
    path = paths.key(tenant, key.number)
    try:
        found = SigningKey.load(path)
    except Corrupt as error:
        raise KeyMissing(error.detail) from error
    if found.public_bytes() != key.public:
        raise KeyMissing(f"cannot sign: {path} is not the key that the log knows")
    return found


def made_key(
    paths: SignerPaths, tenant: str, number: int, random: Callable[[int], bytes]
) -> SigningKey:
    """A private key of that number: a new one, or the one in its file."""
    try:
        return SigningKey.load_or_create(paths.key(tenant, number), random)
    except Corrupt as error:
        raise KeyMissing(error.detail) from error


def verifier_of(key: LogKey) -> VerifierKey:
    """The key as verifiers name it."""
    return VerifierKey(key.origin, key.public)


class PublishedFile:
    """The largest checkpoint of each origin that was ever released. Blocking.

    Of one that only a witness knows there is no root: it is empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = Lock()

    def read(self) -> dict[str, Checkpoint]:
        """By origin; ``PublishedDamaged`` if it is not what was written."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            said = json.loads(data)
            return {
                origin: Checkpoint(origin, int(size), b64decode(root, validate=True))
                for origin, (size, root) in said.items()
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise PublishedDamaged(
                f"cannot read what was published: {self._path} is damaged",
                hint="compare with a checkpoint that a witness or a verifier holds",
            ) from error

    def write(self, published: Published) -> None:
        """Add a checkpoint, flushed when this returns. Never takes one back."""
        with self._writing:
            found = self.read()
            before = found.get(published.origin)
            if before is not None and before.size > published.size:
                raise Corrupt(
                    f"cannot publish size {published.size}: {before.size} was published before"
                )
            if before is not None and _contradicts(before, published):
                raise Corrupt(
                    f"cannot publish size {published.size}: it was published with another root"
                )
            self._write(found | {published.origin: _told(published)})

    def is_there(self) -> bool:
        """Whether anything was ever released here, as far as anybody can see."""
        return self._path.exists()

    def learn(self, known: Iterable[Published]) -> None:
        """Add checkpoints that are known elsewhere, but those of which a later one is here."""
        with self._writing:
            found = self.read()
            learnt = {
                each.origin: _told(each)
                for each in known
                if each.origin not in found or found[each.origin].size < each.size
            }
            if learnt:
                self._write(found | learnt)

    def begin_anew(self, known: Iterable[Published], name: str) -> None:
        """Keep what is there under ``name`` beside it; from here on ``known`` is in its place."""
        with self._writing:
            write_new(self._path.with_name(f"{self._path.name}.{name}"), self._path.read_bytes())
            self._write({each.origin: _told(each) for each in known})

    def _write(self, found: Mapping[str, Checkpoint]) -> None:
        said = {name: [each.size, b64encode(each.root).decode()] for name, each in found.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_over(self._path, canonical(said) + b"\n")


def _told(published: Published) -> Checkpoint:
    return Checkpoint(published.origin, published.size, published.root)


def _contradicts(before: Checkpoint, published: Published) -> bool:
    return before.size == published.size and before.root != published.root
