"""The synchronous client: the slices' own clients on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self, TypeVar

import msgspec

from holdfast.client.appending import Appends
from holdfast.client.producing import Producer
from holdfast.kernel.cli import checked_address, leaves_unencrypted, running_on, whole_file
from holdfast.kernel.clock import SystemClock, parse_timestamp
from holdfast.kernel.errors import (
    Denied,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    Unsupported,
)
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.http.paging import Page
from holdfast.kernel.ids import id_source
from holdfast.kernel.principal import operator
from holdfast.ledger.client import LedgerClient, pipeline
from holdfast.ledger.model import Append, Appended, Entry, NewEvent, Placed
from holdfast.records.client import RecordsClient
from holdfast.records.model import (
    Freshness,
    Notice,
    Record,
    RecordChange,
    RecordFilter,
    Run,
    RunFilter,
    RunStatus,
    StoredReject,
)
from holdfast.registry.client import RegistryClient
from holdfast.registry.model import Profile
from holdfast.registry.versions import ProfileStatus
from holdfast.reports.client import QueryClient
from holdfast.reports.query import Query, QueryResult

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")
Vintage = Literal["latest", "first"]
Format = Literal["ndjson", "csv", "parquet"]

PAGE = 1_000
IDS_TOLD = 5
ATTEMPTS = 3
BATCH_ROWS = 65_536
FOLLOW_PAUSE_SECONDS = 1.0
# Over HTTP it is the credential that says who asks; the slices' clients take this and drop it.
_SELF = operator()


class Client(Appends[Placed]):
    """The system at ``url``. Use it as a context manager, or :meth:`close` it.

    ``token`` is the operator's (``operator.token`` in the data directory) or any other credential
    of the system. ``ca_file`` names certificates to trust beside the machine's own;
    ``certificate_files`` the certificate and the key to present. Without TLS nothing is sent beyond
    this machine unless ``insecure`` says that the way is safe. Every wait for the network ends
    after ``timeout_seconds``, that for the answer to a query after five minutes, that for a sign of
    life while the log is followed after two. May be used from
    several threads: what one waits for while another closes it fails as :class:`Unavailable`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_seconds: float = 60.0,
        ca_file: Path | None = None,
        certificate_files: tuple[Path, Path] | None = None,
        insecure: bool = False,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise Invalid(f"cannot connect to {url[:80]!r}: it is no http:// or https:// address")
        checked_address(url, "Client")
        if not insecure and leaves_unencrypted(url):
            raise Invalid(
                f"cannot use {url[:200]}: without TLS what is said could be read on the way",
                hint="write https://, or insecure=True where the network between is your own",
            )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="holdfast-client", daemon=True
        )
        self._thread.start()
        self._lock = threading.Lock()
        self._closed = False  # under the lock: nothing is begun on a loop that is being ended
        try:
            self._verify = _certificates(ca_file, certificate_files)
            self._api = self._do(self._connected(url, token, timeout_seconds, self._verify))
        except BaseException:
            self._stop()
            raise
        self._where = url, token
        self._timeout_seconds = timeout_seconds
        self._new_id = id_source(SystemClock())
        self._records = RecordsClient(self._api, projections=None)
        self._registry = RegistryClient(self._api)
        self._queries = QueryClient(self._api)
        self._ledger = LedgerClient(self._api)

    @classmethod
    def of(cls, data_dir: str | Path = "data", **options: Any) -> Client:
        """The program that runs on this data directory, with its operator's token.

        :class:`Unavailable` if none runs there.
        """
        folder = Path(data_dir)
        found = running_on(folder)
        if found is None:
            raise Unavailable(
                f"cannot find a running system in {folder}", hint="start it with `holdfast up`"
            )
        path = folder / "operator.token"
        try:
            token = path.read_text("ascii").strip()
        except OSError as error:
            raise Invalid(f"cannot read the operator token {path}: {error.strerror}") from error
        except UnicodeError as error:
            raise Invalid(f"cannot use the operator token: {path} holds something else") from error
        # The program's own word for where it is, on this machine.
        return cls(found.url, token=token, **{"insecure": True, **options})

    @staticmethod
    async def _connected(
        url: str, token: str | None, timeout_seconds: float, verify: ssl.SSLContext | None
    ) -> ApiClient:
        return ApiClient.connect(
            url,
            token=token,
            timeout_seconds=timeout_seconds,
            attempts=ATTEMPTS,
            verify=verify or True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, end the thread, remove our copies. Twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._ended(), self._loop).result()
        self._stop()
        self._records.drop_copies()

    async def _ended(self) -> None:
        """End what other threads wait for, each of which hears of it; then the connections."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._api.aclose()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """``work`` on our loop; its answer or failure here. It ends with whoever waits for it."""
        with self._lock:
            if self._closed:
                work.close()
                raise Unavailable("cannot ask: this client is closed")
            waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return waiting.result()
        except CancelledError as error:
            raise Unavailable("cannot go on: this client was closed meanwhile") from error
        finally:
            waiting.cancel()  # an interrupt ended the wait, and nobody wants the answer any more

    def _pages(
        self, page: Callable[[str | None], Coroutine[Any, Any, Page[T]]], *, profile: str = ""
    ) -> Iterator[T]:
        """The items of all pages; where there is none, a ``profile`` that there is not is told."""
        cursor: str | None = None
        while True:
            found = self._do(page(cursor))
            if profile and cursor is None and not found.items:
                self._check(profile)
            yield from found.items
            cursor = found.next
            if cursor is None:
                return

    def _check(self, profile: str) -> None:
        """Raises if there is no such profile, or if that cannot be told just now. Whoever may not
        ask for it is told what was found: nothing."""
        with contextlib.suppress(Denied):
            self._do(self._registry.status(_SELF, profile))

    # --- profiles -----------------------------------------------------------------------------

    def profiles(self) -> Iterator[ProfileStatus]:
        """Every profile that is published."""
        return self._pages(lambda cursor: self._registry.list(_SELF, cursor=cursor, limit=PAGE))

    def profile(self, name: str, digest: str | None = None) -> Profile:
        """What a profile says: its newest version, or the one with that digest."""
        return self._do(self._registry.show(_SELF, name, digest)).profile

    def freshness(self) -> list[Freshness]:
        """How old each profile's data is, whether that is normal, and what is wrong if not."""
        return self._do(self._records.freshness(_SELF))

    # --- records ------------------------------------------------------------------------------

    def records(
        self,
        profile: str,
        *,
        as_of: str | None = None,
        vintage: Vintage = "latest",
        run: str | None = None,
        start: str | None = None,
        end: str | None = None,
        dimensions: Mapping[str, str] | None = None,
        withdrawn: bool = False,
        provenance: bool = False,
    ) -> Iterator[Record]:
        """The records of a profile, all of one publication, in the order of their first coming.

        ``as_of`` (RFC 3339) is what was known then; ``vintage="first"`` what was said first of each
        key. ``start`` ≤ the period's start < ``end``. ``run``: what that run wrote, even if it is
        hidden. ``provenance``: with where each came from. :class:`NotFound` for a profile that
        there is not; one without records yields none.
        """
        which = RecordFilter(
            profile=profile,
            as_of=as_of,
            vintage=vintage,
            run=run,
            start=start,
            end=end,
            dimensions=dict(dimensions or {}),
            withdrawn=withdrawn,
            provenance=provenance,
        )
        cursor: str | None = None
        while True:
            page = self._do(self._records.records(_SELF, which, cursor=cursor, limit=PAGE))
            if cursor is None and not page.items:
                self._check(profile)
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def record(self, record: str, *, as_of: str | None = None) -> Record:
        """One record, as published now or at ``as_of``, with its provenance."""
        return self._do(self._records.record(_SELF, record, as_of=as_of)).record

    def history(self, record: str) -> list[Record]:
        """Every published revision of a record, the first one first."""
        return self._do(self._records.record(_SELF, record)).revisions

    def receipt(self, record: str, *, revision: int | None = None) -> bytes:
        """What shows, offline, that a record's revision (the newest) is in the signed log."""
        return self._do(self._records.receipt(_SELF, record, revision=revision))

    # --- SQL ----------------------------------------------------------------------------------

    def query(
        self,
        sql: str,
        *,
        as_of: str | None = None,
        position: int | None = None,
        vintage: Vintage = "latest",
        events_from: int = 0,
    ) -> QueryResult:
        """The answer to one ``SELECT`` over records, events, runs, tasks and a table a profile.

        Everything is as it was at ``as_of`` (RFC 3339), or when the ledger had ``position``
        entries, or is now. ``events_from`` leaves earlier entries out of the table ``events``.
        """
        wanted = Query(
            sql=sql, as_of=as_of, position=position, vintage=vintage, events_from=events_from
        )
        return self._do(self._queries.query(_SELF, wanted))

    # --- the log --------------------------------------------------------------------------------

    def append_all(
        self, events: Sequence[NewEvent], *, expected: Mapping[str, int] | None = None
    ) -> Appended:
        """Append events to one stream or several, together or not at all.

        ``expected`` has versions by stream; 0 says that there must be none. The answer's
        ``repeated`` says that all of it had been there before.
        """
        wanted = Append(
            events=[self._named(each) for each in events], expected=dict(expected or {})
        )
        try:
            return self._do(self._ledger.append(_SELF, wanted))
        except OutcomeUnknown as error:
            ids = ", ".join(f"id={each.id}" for each in wanted.events[:IDS_TOLD])
            more = "" if len(wanted.events) <= IDS_TOLD else " and so on, in the order of `append`"
            raise OutcomeUnknown(
                error.detail,
                code=error.code,
                hint=f"append it again with the same ids, and it is there once: {ids}{more}",
            ) from error

    def _append_one(self, append: Append) -> Placed:
        return self.append_all(append.events, expected=append.expected).events[0]

    def _named(self, event: NewEvent) -> NewEvent:
        return event if event.id else msgspec.structs.replace(event, id=self._new_id())

    def read(
        self, stream: str | None = None, *, first: int = 0, as_of: str | None = None
    ) -> Iterator[Entry]:
        """Entries in their order: of the log from position ``first``, of a stream from version
        ``first`` (the first event's is 1); with ``as_of`` those that were recorded by then."""
        moment = None if as_of is None else _moment(as_of)
        return self._pages(
            lambda cursor: self._ledger.read(
                _SELF, stream=stream, first=first, limit=PAGE, as_of=moment, cursor=cursor
            )
        )

    def follow(self, stream: str | None = None, *, first: int | None = None) -> Iterator[Entry]:
        """What is there from position ``first`` on (a position of the log also for a stream), then
        what comes, without end; without ``first`` it begins now. The system ends each answer after
        some minutes, and it asks again: after a pause if that brought nothing.

        ``Unavailable`` when the system does not answer: go on with ``first=entry.position + 1``.
        ``Unauthenticated`` when the credential has ended meanwhile.
        """
        following = self._do(self._ledger.moment(_SELF)).position if first is None else first
        while True:
            begun = following
            entries: Any = self._ledger.follow(_SELF, first=following, stream=stream)
            try:
                while (entry := self._do(_next(entries))) is not None:
                    following = entry.position + 1
                    yield entry
            finally:
                with contextlib.suppress(Unavailable):  # closed meanwhile: that ended it, too
                    self._do(entries.aclose())
            if following == begun:
                # A door that ends every answer at once is not asked as fast as it can say so.
                chance = random.uniform(0.5, 1.5)  # noqa: S311 - spreads, hides nothing
                self._do(asyncio.sleep(FOLLOW_PAUSE_SECONDS * chance))

    @contextlib.contextmanager
    def pipeline(self, *, in_flight_max: int = 256) -> Iterator[Producer]:
        """Appends on one connection that do not wait for each other's answers.

        Leaving the block waits for every answer; the first refusal that nobody was told of is
        raised then. If no answer comes for ``timeout_seconds``, those that are owed are
        ``OutcomeUnknown``. When the credential has ended meanwhile, what was not appended by then
        is ``Unauthenticated``, and so is every further append.
        """
        url, token = self._where
        opening = pipeline(
            url,
            token=token,
            in_flight_max=in_flight_max,
            timeout_seconds=self._timeout_seconds,
            verify=self._verify,
        )
        producer = Producer(self._do(opening.__aenter__()), self._do, self._named)
        try:
            try:
                yield producer
            except BaseException as error:
                self._do(opening.__aexit__(type(error), error, error.__traceback__))
                raise
            self._do(opening.__aexit__(None, None, None))
        finally:
            producer.abandon()
        producer.check()

    # --- whole publications -------------------------------------------------------------------

    def table(
        self, profile: str, *, as_of: str | None = None, vintage: Vintage = "latest"
    ) -> pyarrow.Table:
        """All records of a publication as an Arrow table; its columns are the data dictionary's.

        Exact decimals are text (``price``), with a double beside them (``price__double``). Needs
        ``pyarrow``.
        """
        parquet = _parquet()
        return parquet.read_table(self._projection(profile, as_of, vintage))

    def batches(
        self,
        profile: str,
        *,
        as_of: str | None = None,
        vintage: Vintage = "latest",
        columns: list[str] | None = None,
        rows: int = BATCH_ROWS,
    ) -> Iterator[pyarrow.RecordBatch]:
        """The same as record batches of at most ``rows`` rows; memory stays flat."""
        parquet = _parquet()
        with parquet.ParquetFile(self._projection(profile, as_of, vintage)) as file:
            yield from file.iter_batches(batch_size=rows, columns=columns)

    def _projection(self, profile: str, as_of: str | None, vintage: str) -> str:
        """A checked copy of the publication's Parquet file, kept while this client lives."""
        found = self._do(self._records.projection(_SELF, profile, as_of=as_of, vintage=vintage))
        return found.path

    def export(
        self,
        profile: str,
        path: str | Path,
        *,
        format: Format = "ndjson",  # noqa: A002 - the parameter's name everywhere
        as_of: str | None = None,
        vintage: Vintage = "latest",
        exact: bool = True,
    ) -> Path:
        """All records of a publication as a file; it is there whole, or not at all.

        In CSV ``exact=False`` escapes cells that a spreadsheet would take for formulas.
        """
        target = Path(path)

        async def write(file: BinaryIO) -> None:
            found = await self._records.export(
                _SELF, profile, format=format, as_of=as_of, vintage=vintage, exact=exact
            )
            chunks: Any = found.chunks
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)

        with whole_file(target, replace=True) as file:
            self._do(write(file))
        return target

    def data_package(self, profile: str, *, as_of: str | None = None) -> dict[str, Any]:
        """The data dictionary: a Frictionless data package that describes the export."""
        return self._do(self._records.data_package(_SELF, profile, as_of=as_of))

    # --- runs ---------------------------------------------------------------------------------

    def runs(self, profile: str = "", *, status: str = "") -> Iterator[Run]:
        """Runs, the last one opened first; :class:`NotFound` for a profile that there is not."""
        try:
            chosen = RunStatus(status) if status else None
        except ValueError as error:
            raise Invalid(
                f"cannot list runs of the status {status[:40]!r}",
                hint=f"there are {', '.join(RunStatus)}",
            ) from error
        which = RunFilter(profile=profile, status=chosen)
        return self._pages(
            lambda cursor: self._records.runs(_SELF, which, cursor=cursor, limit=PAGE),
            profile=profile,
        )

    def run(self, run: str) -> Run:
        """One run as it stands."""
        return self._do(self._records.run(_SELF, run))

    def last_run(self, profile: str) -> Run:
        """The profile's last run that published; ``NotFound`` if there is none."""
        for run in self.runs(profile, status="succeeded"):
            return run
        raise NotFound(f"cannot find a run of {profile} that published")

    def diff(self, run: str, *, base: str = "") -> Iterator[RecordChange]:
        """What the run changed, or what changed between ``base`` and it."""
        cursor: str | None = None
        while True:
            page = self._do(
                self._records.run_diff(_SELF, run, base=base, cursor=cursor, limit=PAGE)
            )
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def rejects(self, profile: str = "", *, run: str = "") -> Iterator[StoredReject]:
        """Rows that failed typing, with the reason; :class:`NotFound` for a profile that there is
        not."""
        which = RunFilter(profile=profile, run=run)
        return self._pages(
            lambda cursor: self._records.rejects(_SELF, which, cursor=cursor, limit=PAGE),
            profile=profile,
        )

    def notices(self, profile: str = "") -> Iterator[Notice]:
        """What somebody should be told about sources, the newest first; :class:`NotFound` for a
        profile that there is not."""
        return self._pages(
            lambda cursor: self._records.notices(_SELF, profile=profile, cursor=cursor, limit=PAGE),
            profile=profile,
        )


async def _next(entries: AsyncIterator[Entry]) -> Entry | None:
    return await anext(entries, None)


def _moment(text: str) -> datetime:
    try:
        return parse_timestamp(text)
    except ValueError as error:
        raise Invalid(
            f"cannot read the time {text[:40]!r}: it is not RFC 3339 with an offset",
            hint="such as 2026-11-01T00:00:00Z",
        ) from error


def _certificates(
    ca_file: Path | None, certificate_files: tuple[Path, Path] | None
) -> ssl.SSLContext | None:
    """What TLS is done with, if not with what the machine trusts."""
    if ca_file is None and certificate_files is None:
        return None
    verify = ssl.create_default_context()
    try:
        if ca_file is not None:
            verify.load_verify_locations(cafile=str(ca_file))
        if certificate_files is not None:
            verify.load_cert_chain(*certificate_files)
    except OSError as error:  # what the library says of a file's content is one, too
        raise Invalid(f"cannot use the certificates: {error.strerror or error}") from error
    return verify


def _parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise Unsupported(
            "cannot make a table: pyarrow is not installed",
            hint="pip install 'holdfast[reports]', or use records() or export()",
        ) from error
    return parquet
