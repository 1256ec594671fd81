"""From spooled pages to batches. Synchronous and deterministic: it runs in the drone's thread.

Batches are filled over the borders of pages, so their content depends on the bytes and the profile
only: the same pages give the same batches with the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.collect.columns import Columns
from holdfast.collect.content import Content
from holdfast.collect.cursor import CursorState
from holdfast.collect.errors import LimitReached, ParseFailed
from holdfast.collect.formats import Reader, reader_of
from holdfast.collect.mapping import Mapping
from holdfast.collect.model import Bounds, RawRow
from holdfast.collect.occurrences import Occurrences
from holdfast.kernel import merkle
from holdfast.records.content import encode_sorted
from holdfast.records.model import Batch, MappedRecord, Reject, SignedHeader
from holdfast.records.signed import SEED_BYTES, posted, salts_of
from holdfast.records.within import within as _within
from holdfast.registry.model import Profile

RECORDS_MAX = 5_000
BYTES_MAX = 4 * 1024 * 1024
REJECTS_KEPT_BEYOND = 1_000
"""How many rejects beyond ``max_rejects`` are kept for people to look at before a run gives up."""

_LOOK_RECORDS = 250
_LOOK_CHARACTERS = 1024 * 1024
"""A look at how many bytes a batch has is due after so many records, or so much of the source."""


class TooManyRejects(ParseFailed):
    """So many rows fail that the profile and the source do not fit each other."""

    code = "rejects"


class Stopped(Exception):
    """The run was told to stop while a page was being read."""


@dataclass(frozen=True, slots=True)
class Filled:
    """The content of one batch, its records encoded: a third of the memory, and ready to send.

    And what there is to sign of it: two batches with the same content differ by their seeds.
    """

    pieces: tuple[bytes, ...]
    """JSON of records with commas between them, some records to a piece."""
    records: int
    rejects: list[Reject]
    responses: frozenset[int] = frozenset()
    """The raw responses that records and rejects came from."""
    seed: bytes = field(default=b"", compare=False)
    root: bytes = field(default=b"", compare=False)
    """Over the commitments to the records."""

    def encoded(
        self, run: str, fence: int, sequence: int, signed: SignedHeader | None = None
    ) -> Iterator[bytes]:
        """The JSON of the :class:`~holdfast.records.model.Batch`, a piece at a time.

        In pieces it can be sent without ever being held whole: bodies of megabytes, made and
        dropped many times, would leave the process's memory in tatters. Its members are sorted as
        those of the records are: a body to the byte as the server would write it is one of which
        it need not ask whether a key is repeated.
        """
        whole = encode_sorted(
            Batch(run=run, fence=fence, sequence=sequence, rejects=self.rejects, signed=signed)
        )
        fence_member, _, others = whole.partition(b",")
        yield fence_member
        for number, piece in enumerate(self.pieces):
            yield (b"," if number else b',"records":[') + piece
        yield (b"]," if self.pieces else b",") + others


class BatchMaker:
    """Reads pages in order and fills batches. One per run, used from one thread at a time.

    ``within`` (days of the source, or UTC times; empty: no bounds) keeps the records whose period
    begins in that half-open range. ``stopped`` is asked
    now and then; when it says so, :class:`Stopped` is raised. ``random`` makes the seeds of what is
    signed of batches.
    """

    def __init__(
        self,
        profile: Profile,
        bounds: Bounds,
        *,
        cursor: CursorState | None = None,
        occurrences: Occurrences | None = None,
        stopped: Callable[[], bool] = lambda: False,
        within: tuple[str, str] = ("", ""),
        records_max: int = RECORDS_MAX,
        bytes_max: int = BYTES_MAX,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._profile = profile
        self._spec = profile.source.format
        self._mapping = Mapping(profile, occurrences)
        self._reader: Reader = reader_of(self._spec)
        self._context = replace(self._mapping.context(bounds), left_out=self._left_out)
        self._cursor = cursor
        self.columns = Columns()
        self._stopped = stopped
        self._within = _within(*within, profile.timezone) if within[0] else None
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._fresh: list[MappedRecord] = []
        self._pieces: list[bytes] = []
        self._encoded = self._size = 0
        self._room = min(_LOOK_RECORDS, records_max)
        self._rejects: list[Reject] = []
        self._responses: set[int] = set()
        self._random = random
        self._begin_batch()
        self.records = 0
        self.rejects = 0
        self.rows = 0
        """Rows of the page read last, as the source sent it: with those that are skipped."""
        self.skipped = 0
        """How many of them the profile's ``skip_rows`` leave out."""
        self._ends: tuple[Any, Any] | None = None

    def _begin_batch(self) -> None:
        self._seed = self._random(SEED_BYTES)
        self._salt_of = salts_of(self._seed)
        self._leaves: list[bytes] = []

    def page(self, content: Content, response: int) -> Iterator[Filled]:
        """The batches that become full while one page is read.

        Raises :class:`ParseFailed`, :class:`LimitReached` (``limit-records``) and
        :class:`TooManyRejects`; what was mapped before is in :meth:`rest` then.
        """
        self._begin_page()
        observe = self._cursor.observe if self._cursor else None
        # Names of members can be names of people; where there may be any, they are not told.
        private = bool(self._profile.subject or self._profile.personal)
        look_at = None if private else self.columns.observe
        read = look = 0
        for row in self._reader(content, self._spec, self._context):
            self._seen(row)
            for found in self._mapping.map(row, response):
                self._take(found)
                if len(self._fresh) >= self._room and self._full():
                    yield self._flush()
            if observe is not None:
                observe(row.value)
            if look_at is not None:
                look_at(row.value)
            read += row.size
            if self.rows >= look or read >= _LOOK_CHARACTERS:
                look, read = self.rows + _LOOK_RECORDS, 0
                if self._stopped():
                    raise Stopped
                if self._full():
                    yield self._flush()

    def _begin_page(self) -> None:
        self.rows = self.skipped = 0
        self._ends = None

    def _seen(self, row: RawRow) -> None:
        self.rows += 1
        self._ends = (self._ends[0] if self._ends else row.value, row.value)

    def _left_out(self) -> None:
        self.rows += 1
        self.skipped += 1

    def _take(self, found: MappedRecord | Reject) -> None:
        if isinstance(found, Reject):
            self.rejects += 1
            self._rejects.append(found)
            self._responses.add(found.response)
            if self.rejects > self._profile.max_rejects + REJECTS_KEPT_BEYOND:
                raise TooManyRejects(
                    f"cannot go on: {self.rejects} of {self.records + self.rejects} rows fail",
                    hint="the rejects name field and reason",
                )
            return
        if self._within is not None and not (
            found.period is not None and self._within.holds(found.period.start)
        ):
            return  # a backfill is about its range, whatever else the source sends with it
        if self.records >= self._profile.limits.max_records:
            raise LimitReached(
                f"cannot keep more than {self._profile.limits.max_records} records",
                code="limit-records",
                hint="`limits.max_records` sets it",
            )
        self.records += 1
        self._responses.add(found.response)
        self._fresh.append(found)

    def _full(self) -> bool:
        if self._fresh:
            wholes = list(map(encode_sorted, self._fresh))
            self._leaves += posted(self._salt_of, wholes, self._encoded).leaves
            piece = b",".join(wholes)
            self._pieces.append(piece)
            self._size += len(piece) + 1
            self._encoded += len(self._fresh)
            self._fresh.clear()
            self._room = min(_LOOK_RECORDS, max(1, self._records_max - self._encoded))
        return (
            self._encoded + len(self._rejects) >= self._records_max or self._size >= self._bytes_max
        )

    def _flush(self) -> Filled:
        filled = Filled(
            tuple(self._pieces),
            self._encoded,
            self._rejects,
            frozenset(self._responses),
            self._seed,
            merkle.root(self._leaves),
        )
        self._pieces.clear()
        self._rejects = []
        self._responses.clear()
        self._begin_batch()
        self._encoded = self._size = 0
        self._room = min(_LOOK_RECORDS, self._records_max)
        return filled

    def rest(self) -> Filled | None:
        """What is left after the last page, or after the one that failed."""
        self._full()
        if not self._encoded and not self._rejects:
            return None
        return self._flush()

    def count(self, content: Content) -> int:
        """How many rows a page has, without mapping them."""
        self._begin_page()
        for row in self._reader(content, self._spec, self._context):
            self._seen(row)
            if self.rows % 10_000 == 0 and self._stopped():
                raise Stopped
        return self.rows

    @property
    def mark(self) -> str:
        """Tells the rows of the page read last from another page's: by its ends and their number.

        Pages that bring the same rows differ in what surrounds them: a time, a page number. A page
        of skipped rows alone has no mark: they may well be the same everywhere.
        """
        return f"{self.rows} {self._ends!r}" if self._ends else ""
