"""The public keys of whoever is trusted to sign: given once, or in a folder that is read again.

``<issuer>.pub.jwk`` holds the keys of one issuer, a JWK or a JWK Set. A start takes all files or
none. From then on each file is judged by itself, so that one that is broken neither ends the keys
of the others nor keeps alive one that was taken out:

- a file that is gone ends its keys at the next reading;
- a file that is there and cannot be used keeps the keys it gave last, for as long as it is there;
- a folder that is gone as a whole (or cannot be read, or has an empty one in its place, as when a
  volume is not mounted any more) keeps its keys for ``FOLDER_GONE_SECONDS``, and then ends them.

Whatever is not as it should be is a line in the log, once, and :meth:`TrustedFolder.check`.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.kernel.canonical import decode_strict
from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Corrupt, Invalid
from holdfast.kernel.telemetry import get_logger

if TYPE_CHECKING:
    from joserfc.jwk import OKPKey

PUBLIC_SUFFIX = ".pub.jwk"
PUBLIC_BYTES_MAX = 256 * 1024
"""Of one file; a key has about 150."""
REREAD_SECONDS = 5.0
"""A key that was taken out of the folder is good for so long at most."""
KEPT_SECONDS = 4.0
"""It is read for nobody in particular that often."""
FOLDER_GONE_SECONDS = 600.0
"""The keys of a folder that is gone are good for so long at most.

Long enough to notice and to mount it again before the roles refuse each other; and no longer, for
whoever removed the folder may have meant its keys.
"""

MEND = (
    "bring the file back; or remove it and restart that role, which leaves it anew: what it signs "
    "is not taken in between"
)

log = get_logger("trusted")

Jwk = dict[str, str]
"""A public key: ``kty``, ``crv``, ``x`` and ``kid``."""


class TrustedKeys:
    """The public keys of the issuers that a verifier trusts.

    An issuer may have several keys at a time, so that a new one can be spread before it is used.
    """

    def __init__(self, issuers: Mapping[str, Sequence[Jwk]] | None = None) -> None:
        self._of: dict[str, dict[str, OKPKey]] = {}
        self._by_kid: dict[str, tuple[str, OKPKey]] = {}
        for issuer, keys in (issuers or {}).items():
            self._trust(self._of | {issuer: _imported(keys, issuer)})

    @property
    def issuers(self) -> frozenset[str]:
        """Whom these keys belong to."""
        return frozenset(issuer for issuer, _ in self._by_kid.values())

    def find(self, kid: str) -> tuple[str, OKPKey] | None:
        """The issuer and the key of this id, if it is trusted."""
        return self._by_kid.get(kid)

    def look(self) -> None:
        """Read them again if that is due."""

    def reread(self) -> None:
        """Read them again now."""

    def outdated(self) -> bool:
        """Whether they are known to have changed since they were read."""
        return False

    def _trust(self, keys: dict[str, dict[str, OKPKey]]) -> None:
        """``keys`` by issuer and id from now on; :class:`Corrupt` if two issuers have one."""
        by_kid: dict[str, tuple[str, OKPKey]] = {}
        for issuer, own in keys.items():
            for kid, key in own.items():
                if by_kid.setdefault(kid, (issuer, key))[0] != issuer:
                    raise _shared(issuer)
        self._of, self._by_kid = keys, by_kid


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look at the folder: which it was, or why there was none; and its keys, by issuer."""

    changed_at: int
    place: tuple[int, int] | Corrupt
    files: Mapping[str, Sequence[object] | Corrupt]


class TrustedFolder(TrustedKeys):
    """The keys in a folder, as they are there now; see the module.

    After the start nothing here raises: whoever asks for a key is told of those that hold.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        """Reads the folder; :class:`Corrupt` if that cannot be, or a file there is of no use."""
        super().__init__()
        self._folder = folder
        self._clock = clock
        self._place: tuple[int, int] | None = None
        self._gone_since: float | None = None
        self._problems: dict[str, Corrupt] = {}
        self._readings = 0
        self._read_at = 0
        self._reread_at = 0.0
        self.reread(first=True)

    def look(self) -> None:
        """Read the folder again, unless that was done in the last ``REREAD_SECONDS``."""
        if self._clock.monotonic() >= self._reread_at:
            self.reread()

    def outdated(self) -> bool:
        """Whether somebody came into the folder, or left it, since it was read."""
        return self._changed_at() != self._read_at

    async def check(self) -> str | None:
        """Readiness: degraded while a file, or all of the folder, is not what is in force."""
        self.look()
        return "degraded" if self._problems else None

    async def keep(self) -> None:
        """A loop: what is taken out ends, and what is broken is told of, though nobody asks.

        It reads in a thread, and before anybody who asks would have to: however slow the place is
        that the folder is on, nobody waits for it here.
        """
        while True:
            await self._clock.sleep(KEPT_SECONDS)
            self._reread_at = self._clock.monotonic() + REREAD_SECONDS
            readings = self._readings
            seen = await asyncio.to_thread(self._look_at)
            if readings == self._readings:  # else somebody has looked since
                self._take(seen)

    def reread(self, *, first: bool = False) -> None:
        """Read the folder again now."""
        self._reread_at = self._clock.monotonic() + REREAD_SECONDS
        self._take(self._look_at(), first=first)

    def _take(self, seen: _Seen, *, first: bool = False) -> None:
        """What was seen is in force from now on."""
        self._readings += 1
        try:
            self._place_of(seen)
        except Corrupt as error:
            if first:
                raise
            self._without_folder(error)
        else:
            self._gone_since = None
            found, problems = self._read(seen.files)
            if first and problems:
                raise next(iter(problems.values()))
            ended = self.issuers - frozenset(issuer for issuer, keys in found.items() if keys)
            self._trust(found)
            if ended:
                log.info("trusted.ended", issuers=sorted(ended), folder=str(self._folder))
            self._tell(problems)
        self._read_at = seen.changed_at

    def _look_at(self) -> _Seen:
        """The folder and what is in its files, as they are now; in force is nothing of it yet."""
        changed_at = self._changed_at()
        try:
            opened = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                about = os.fstat(opened)
                with os.scandir(opened) as entries:
                    names = sorted(entry.name for entry in entries)
            finally:
                os.close(opened)
        except OSError as error:
            gone = Corrupt(
                f"cannot read the folder of trusted keys {self._folder}: {error.strerror}",
                hint="bring it back, or mount it again",
            )
            gone.__cause__ = error
            return _Seen(changed_at, gone, {})
        files: dict[str, Sequence[object] | Corrupt] = {}
        for name in names:
            if name.endswith(PUBLIC_SUFFIX):
                issuer = name.removesuffix(PUBLIC_SUFFIX)
                try:
                    files[issuer] = read_public(self._folder / name, issuer)
                except Corrupt as error:
                    files[issuer] = error
        return _Seen(changed_at, (about.st_dev, about.st_ino), files)

    def _place_of(self, seen: _Seen) -> None:
        """Note which folder it was; :class:`Corrupt` if that which had them is not there."""
        if isinstance(seen.place, Corrupt):
            raise seen.place
        had_some = self._of or self._gone_since is not None
        if not seen.files and had_some and self._place not in (None, seen.place):
            raise Corrupt(
                f"cannot read the folder of trusted keys {self._folder}: an empty one is in its "
                "place",
                hint="mount it again; if all keys shall end, restart the roles",
            )
        self._place = seen.place

    def _read(
        self, files: Mapping[str, Sequence[object] | Corrupt]
    ) -> tuple[dict[str, dict[str, OKPKey]], dict[str, Corrupt]]:
        """Issuer → what holds of the keys in its file; file → what is wrong with it."""
        found: dict[str, dict[str, OKPKey]] = {}
        problems: dict[str, Corrupt] = {}
        for issuer, listed in files.items():
            try:
                if isinstance(listed, Corrupt):
                    raise listed
                keys = _imported(listed, issuer)
                for kid in keys:
                    # Whoever has a key already keeps it: nobody takes another's by a file.
                    known = self.find(kid)
                    taken = known is not None and known[0] != issuer and known[0] in files
                    if taken or any(kid in others for others in found.values()):
                        raise _shared(issuer)
                found[issuer] = keys
            except Corrupt as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    continue  # it went while we looked
                problems[f"{issuer}{PUBLIC_SUFFIX}"] = error
                found[issuer] = self._of.get(issuer, {})
        return found, problems

    def _without_folder(self, error: Corrupt) -> None:
        now = self._clock.monotonic()
        if self._gone_since is None:
            self._gone_since = now
        if now - self._gone_since >= FOLDER_GONE_SECONDS and self._of:
            log.error(
                "trusted.ended",
                issuers=sorted(self.issuers),
                folder=str(self._folder),
                detail=f"{error.detail}, for {FOLDER_GONE_SECONDS:.0f} s: nobody is trusted now",
                hint=error.hint,
            )
            self._trust({})
        self._tell({str(self._folder): error})

    def _tell(self, problems: dict[str, Corrupt]) -> None:
        """Say what is wrong once, and that it is well again."""
        for place, error in problems.items():
            before = self._problems.get(place)
            if before is None or before.detail != error.detail:
                log.warning(
                    "trusted.kept",
                    detail=error.detail,
                    hint=error.hint,
                    kept="the keys that it gave last, "
                    + (
                        "as long as it is there"
                        if self._gone_since is None
                        else f"for {FOLDER_GONE_SECONDS:.0f} s"
                    ),
                )
        if self._problems and not problems:
            log.info("trusted.well", folder=str(self._folder), issuers=sorted(self.issuers))
        self._problems = problems

    def _changed_at(self) -> int:
        try:
            return self._folder.stat().st_mtime_ns
        except OSError:
            return 0


# --- key files ----------------------------------------------------------------------------------


def read_public(path: Path, issuer: str) -> Sequence[object]:
    """What a file has as keys: a JWK, or those of a JWK Set. :class:`Corrupt`."""
    try:
        read = decode_strict(_bytes_of(path, issuer))
    except OSError as error:
        raise Corrupt(f"cannot trust {issuer}: {path}: {error.strerror}", hint=MEND) from error
    except Invalid as error:
        raise Corrupt(
            f"cannot trust {issuer}: {path} cannot be read as a JWK", hint=MEND
        ) from error
    found = read.get("keys", [read]) if isinstance(read, dict) else [read]
    if not isinstance(found, list):
        raise Corrupt(f"cannot trust {issuer}: {path} is no JWK Set", hint=MEND)
    return found


def _bytes_of(path: Path, issuer: str) -> bytes:
    """What is in a file that is one: a pipe would be waited for, a device read without end."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise Corrupt(f"cannot trust {issuer}: {path} is not a file", hint=MEND)
        data = file.read(PUBLIC_BYTES_MAX + 1)
    if len(data) > PUBLIC_BYTES_MAX:
        raise Corrupt(f"cannot trust {issuer}: {path} is over {PUBLIC_BYTES_MAX} bytes", hint=MEND)
    return data


def is_text32(value: object) -> bool:
    """Whether ``value`` is the base64url text of 32 bytes."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{43}", value) is not None


def is_key(jwk: object) -> bool:
    """Whether ``jwk`` has the form of an Ed25519 key."""
    return (
        isinstance(jwk, dict)
        and jwk.get("kty") == "OKP"
        and jwk.get("crv") == "Ed25519"
        and is_text32(jwk.get("x"))
    )


def _imported(keys: Sequence[object], issuer: str) -> dict[str, OKPKey]:
    return dict(_import_public(jwk, issuer) for jwk in keys)


def _import_public(jwk: object, issuer: str) -> tuple[str, OKPKey]:
    if not isinstance(jwk, dict) or not is_key(jwk):
        raise Corrupt(f"cannot trust {issuer}: its key is not an Ed25519 public key", hint=MEND)
    if "d" in jwk:
        raise Corrupt(
            f"cannot trust {issuer}: the file holds its private key",
            hint="that key is no longer secret; replace it",
        )
    from joserfc.errors import JoseError
    from joserfc.jwk import OKPKey

    try:
        key = OKPKey.import_key({name: jwk[name] for name in ("kty", "crv", "x")})
        kid = key.thumbprint()
    except (JoseError, ValueError) as error:
        raise Corrupt(
            f"cannot trust {issuer}: its key is not an Ed25519 public key", hint=MEND
        ) from error
    if jwk.get("kid", kid) != kid:
        raise Corrupt(f"cannot trust {issuer}: the key's id is not its thumbprint", hint=MEND)
    return kid, key


def _shared(issuer: str) -> Corrupt:
    return Corrupt(f"cannot trust {issuer}: its key belongs to another issuer too", hint=MEND)


__all__ = [
    "FOLDER_GONE_SECONDS",
    "PUBLIC_SUFFIX",
    "REREAD_SECONDS",
    "Jwk",
    "TrustedFolder",
    "TrustedKeys",
    "is_key",
    "is_text32",
    "read_public",
]
