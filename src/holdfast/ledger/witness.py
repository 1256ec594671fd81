"""Witnesses: others who cosign a checkpoint once they have seen that the log only grew.

The log calls a witness (C2SP tlog-witness, ``add-checkpoint``) with the size that it last signed,
the proof that the new tree extends that one, and the checkpoint; the witness answers with its
cosignature line. A witness that does not answer in time holds nothing up: the checkpoint goes
without it, and the next one asks again. A cosignature is checked before it is handed on.

One that says the log is not what it has seen may be right: then the log is from before that, and
whoever is given a checkpoint has another story than the witness. So none is given while it says so.
But nothing of that is signed, and nothing of it is kept: its last word counts, in this process.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx

from holdfast.kernel.cli import leaves_unencrypted
from holdfast.kernel.errors import HoldfastError, Invalid
from holdfast.kernel.http.client import FAILURES
from holdfast.kernel.telemetry import get_logger
from holdfast.ledger.errors import NoteRefused, WitnessDisagrees
from holdfast.ledger.notes import COSIGNATURE, Note, Signature, VerifierKey, parse_note

log = get_logger("ledger")

WITNESS_SECONDS = 5.0
ANSWER_BYTES_MAX = 16 * 1024
SIZE_TYPE = "text/x.tlog.size"
SIZE_DIGITS_MAX = 15

Prove = Callable[[int, int], Awaitable[Sequence[bytes]]]
"""The proof that the tree of the second size extends that of the first."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness: where it answers, and the key it signs with."""

    url: str
    key: VerifierKey

    @classmethod
    def parse(cls, text: str) -> Witness:
        """``KEY@URL`` as the operator writes it; :class:`Invalid` if it is none."""
        key, separator, url = text.partition("@")
        try:
            found = cls(url.rstrip("/"), VerifierKey.parse(key))
        except NoteRefused as error:
            raise Invalid(f"cannot use the witness {text[:80]!r}: {error.detail}") from error
        if not separator or not url.startswith(("http://", "https://")):
            raise Invalid(
                f"cannot use the witness {text[:80]!r}: KEY@URL is needed",
                hint="the key is the witness's verifier key, name+hash+key",
            )
        if leaves_unencrypted(url):
            raise Invalid(
                f"cannot use the witness {text[:80]!r}: beyond this machine it is asked by https",
                hint="anybody on the way could say in its name that the log is not what it was",
            )
        if found.key.algorithm != COSIGNATURE:
            raise Invalid(f"cannot use the witness {text[:80]!r}: its key makes no cosignatures")
        return found


class Witnesses:
    """The witnesses of a log, and what each has signed last, as far as we know."""

    def __init__(self, witnesses: Sequence[Witness], client: httpx.AsyncClient) -> None:
        self.witnesses = tuple(witnesses)
        self._client = client
        self._seen: dict[tuple[str, str], int] = {}
        self._against: dict[tuple[str, str], WitnessDisagrees] = {}

    async def cosigned(self, note: Note, origin: str, size: int, prove: Prove) -> Note:
        """``note`` with the cosignatures of the witnesses that answered in time.

        :class:`WitnessDisagrees` if one says that the log is not what it has seen, or said so last.
        """
        if not self.witnesses:
            return note
        lines = await asyncio.gather(
            *(self._ask(each, note, origin, size, prove) for each in self.witnesses),
            return_exceptions=True,
        )
        for witness, line in zip(self.witnesses, lines, strict=True):
            place = witness.url, origin
            if isinstance(line, WitnessDisagrees):
                self._against[place] = line
            elif isinstance(line, BaseException):
                raise line
            elif line is not None:
                self._against.pop(place, None)
        for witness in self.witnesses:
            if (against := self._against.get((witness.url, origin))) is not None:
                raise against
        more = tuple(line for line in lines if isinstance(line, Signature))
        return Note(note.text, (*note.signatures, *more))

    def have_signed(self, note: Note) -> bool:
        """Whether the note has a line of each of them."""
        there = {(each.name, each.hash) for each in note.signatures}
        return all((each.key.name, each.key.hash) in there for each in self.witnesses)

    async def _ask(
        self, witness: Witness, note: Note, origin: str, size: int, prove: Prove
    ) -> Signature | None:
        try:
            async with asyncio.timeout(WITNESS_SECONDS):
                return await self._signed(witness, note, origin, size, prove)
        except WitnessDisagrees:
            raise
        except (TimeoutError, *FAILURES, HoldfastError) as error:
            log.warning(
                "a witness did not sign",
                witness=witness.key.name,
                origin=origin,
                size=size,
                detail=str(error) or type(error).__name__,
            )
            return None

    async def _signed(
        self, witness: Witness, note: Note, origin: str, size: int, prove: Prove
    ) -> Signature:
        place = witness.url, origin
        for _ in range(2):
            old = min(self._seen.get(place, 0), size)
            proof = await prove(old, size)
            lines = [f"old {old}", *(b64encode(part).decode() for part in proof), "", note.encode()]
            async with self._client.stream(
                "POST",
                f"{witness.url}/add-checkpoint",
                content="\n".join(lines).encode(),
                headers={"accept-encoding": "identity"},
            ) as answer:
                text = await _text(answer)
            if answer.status_code == 409 and answer.headers.get("content-type") == SIZE_TYPE:
                # It has seen more, or less, of this log than we remember.
                seen = _size(text)
                if seen > size:
                    said = f"that it has seen {seen} entries of {origin}, and there are {size}"
                    raise WitnessDisagrees(witness.key.name, said, seen)
                if seen == old:
                    said = f"that the first {seen} entries of {origin} are not those it has seen"
                    raise WitnessDisagrees(witness.key.name, said, seen)
                self._seen[place] = seen
                continue
            if answer.status_code == 422 and old:
                said = f"that {origin} does not go on from the {old} entries that it has seen"
                raise WitnessDisagrees(witness.key.name, said, old)
            if answer.status_code != 200:
                raise NoteRefused(f"cannot use the witness's answer: {answer.status_code}")
            found = self._checked(witness, note, text)
            self._seen[place] = size
            return found
        raise NoteRefused("cannot agree with the witness on the size that it has seen")

    def _checked(self, witness: Witness, note: Note, text: str) -> Signature:
        key = witness.key
        for each in parse_note(f"{note.text}\n{text}").signatures:
            if (each.name, each.hash) == (key.name, key.hash):
                key.check(note.text, each.signature)
                return each
        raise NoteRefused(f"cannot use the witness's answer: it is not signed by {key.name}")


async def _text(answer: httpx.Response) -> str:
    """The answer's text, no more of it taken than there may be."""
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise NoteRefused("cannot use the witness's answer: it is encoded, which nobody asked for")
    data = b""
    async for piece in answer.aiter_raw():
        data += piece
        if len(data) > ANSWER_BYTES_MAX:
            raise NoteRefused(f"cannot use the witness's answer: over {ANSWER_BYTES_MAX} bytes")
    return data.decode("utf-8", "replace")


def _size(text: str) -> int:
    stripped = text.strip()
    if not (stripped.isascii() and stripped.isdecimal()) or len(stripped) > SIZE_DIGITS_MAX:
        raise NoteRefused("cannot use the witness's answer: it is no size")
    return int(stripped)
