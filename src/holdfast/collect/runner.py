"""One attempt of one run: from a lease to what it came to. README.md tells the life of a page.

What goes wrong is sorted into three. What may heal by itself (a source that does not answer) ends
the *attempt*: the run stays open and the next attempt takes it over with a higher fence. What will
not (bytes that are no JSON) ends the *run* as failed. A limit ends it as partial: what was kept is
kept, hidden, and the cursor stays where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from holdfast.collect.batches import BatchMaker, TooManyRejects
from holdfast.collect.channel import Channel, Outcome
from holdfast.collect.content import SpooledContent
from holdfast.collect.cursor import CursorState
from holdfast.collect.errors import (
    BoundReached,
    HostBusy,
    LimitReached,
    ParseFailed,
    QuotaReached,
    SourceRefused,
    SourceTruncated,
)
from holdfast.collect.formats.json import lookup
from holdfast.collect.mapping_fields import zone_of
from holdfast.collect.model import Bounds
from holdfast.collect.occurrences import Occurrences
from holdfast.collect.pages import Ask, PageFacts, Section, Walk
from holdfast.collect.ports import Opening, RunLog
from holdfast.collect.taking import Attempt, Page, Pages, Tools, charset_of
from holdfast.collect.threads import in_thread, next_of
from holdfast.collect.windows import sections_of
from holdfast.kernel.clock import Clock, parse_timestamp
from holdfast.kernel.errors import Conflict, HoldfastError
from holdfast.kernel.outbound import (
    AddressRefused,
    RedirectRefused,
    ResponseTooLarge,
    SourceBusy,
    SourceUnavailable,
    is_retryable,
)
from holdfast.kernel.telemetry import get_logger
from holdfast.records.model import Run, RunFinish, RunPlan, RunStatus
from holdfast.registry.parts import duration_seconds

T = TypeVar("T")
log = get_logger("collect")

REASON_MAX = 2000
_LEAVING_SECONDS = 5.0
_KEEPING_OPEN_SECONDS_MAX = 60.0
"""What is not kept by then the next attempt fetches again."""
_RETRY_AFTER_SECONDS_MAX = 86_400.0
LEASE_IS_GONE = frozenset({"stale-fence", "run-not-open", "run-overtaken", "run-ended"})


class LeaseLost(Exception):
    """Somebody else has the run: nothing more of this attempt counts."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What an attempt came to, in the terms the coordinator is told.

    ``retry``: the run is still open, and another attempt may end better.
    """

    succeeded: bool
    status: str
    code: str = ""
    reason: str = ""
    retry: bool = False
    retry_after_seconds: float | None = None
    result: dict[str, Any] = field(default_factory=dict)


class Collection:
    """One attempt of one run. Use once: ``await Collection(...).run()``.

    Cancelling it stops the thread within a few rows and leaves no file in ``spool``; the run stays
    open. If the process dies, files ``fetch-*`` stay in ``spool`` and are removed at the next
    start; what was staged is dropped when the next attempt opens the run.
    """

    def __init__(self, attempt: Attempt, target: RunLog, tools: Tools, spool: Path) -> None:
        self._attempt = attempt
        self._profile = attempt.profile
        self._source = attempt.profile.source
        self._tools = tools
        self._spool = spool
        self._channel = Channel(
            target,
            tools.clock,
            attempt.run,
            attempt.fence,
            ordered=attempt.profile.duplicates != "error",
        )
        self._stopped = False
        self._cursor: CursorState | None = None
        self._maker: BatchMaker | None = None
        self._occurrences = Occurrences(spool / "occurrences")
        self._sources: Pages | None = None

    async def run(self) -> Ending:
        """Collect; the answer says how it ended. Raises :class:`LeaseLost`, and nothing else."""
        ending = await self._ending()
        if ending.retry:
            await self._left(ending)
        return ending

    async def _ending(self) -> Ending:
        try:
            opened = await self._channel.open(self._opening())
            if opened.status is not RunStatus.RUNNING:
                return ended(opened)  # an earlier attempt ended it and could not tell the task
            return await self._collected()
        except HoldfastError as error:
            return await self._told(error)
        except Exception:
            await self._kept(ended=False)
            raise
        finally:
            self._stopped = True
            if self._sources is not None:
                await self._sources.close()
            await self._channel.abandon()
            self._occurrences.close()
            for path in self._spool.glob("fetch-*"):
                path.unlink(missing_ok=True)

    async def _left(self, ending: Ending) -> None:
        """Say why the run waits for another attempt; if nobody hears it, its lease runs out."""
        with contextlib.suppress(HoldfastError, TimeoutError):
            async with asyncio.timeout(_LEAVING_SECONDS):
                await self._channel.leave(self._account("interrupted", ending.code, ending.reason))

    async def _left_open(
        self, code: str, error: Exception, retry_after_seconds: float | None = None
    ) -> Ending:
        """End the attempt, once what it fetched is kept."""
        await self._kept(ended=False)
        return left_open(code, error, retry_after_seconds)

    async def _kept(self, *, ended: bool) -> str:
        """Return once what was fetched is durable, whatever came of it; else why it is not.

        ``ended``: no other attempt of the run will go on from it. An attempt whose lease is gone is
        cancelled here as anywhere. The wait is bounded: the beats go on while the aggregator takes
        nothing, and neither lease nor ``max_duration`` would ever end it.
        """
        seconds = self._tools.keep_seconds
        if not ended:
            seconds = min(seconds, _KEEPING_OPEN_SECONDS_MAX)
        failures: list[str] = []
        try:
            async with asyncio.timeout(seconds) as scope:
                failures.append(await self._channel.settled())
                if self._sources is not None:
                    failures += await self._sources.keep_rest(ended=ended)
                    failures.append(await self._channel.settled())
        except TimeoutError:
            if not scope.expired():
                raise
            await self._channel.abandon()
            failures.append(f"the aggregator did not take it within {seconds:g} s")
        failure = "; ".join(filter(None, failures))
        if failure:
            log.warning("response.not_kept", run=self._attempt.run, error=failure)
        return failure

    def _opening(self) -> Opening:
        attempt = self._attempt
        if not attempt.range_start:
            return Opening(rehearsal=attempt.rehearsal)
        return Opening("backfill", attempt.range_start, attempt.range_end, attempt.rehearsal)

    async def cancelled(self) -> Ending:
        """Tell that the run was cancelled, once the task of :meth:`run` is."""
        try:
            return await self._finish("cancelled", "cancelled", "the run was cancelled")
        except HoldfastError as error:
            raise LeaseLost(error.detail) from error

    # --- how it ends --------------------------------------------------------------------------

    async def _told(self, error: HoldfastError) -> Ending:
        """End the run as failed, if it is still ours to end; else leave it open."""
        try:
            if not isinstance(error, Conflict):
                return await self._ended_with(error.code, error)
        except HoldfastError as refused:
            error = refused
        if error.code in LEASE_IS_GONE:
            raise LeaseLost(error.detail) from error
        return left_open(error.code, error)

    async def _collected(self) -> Ending:
        limit = self._profile.limits.max_duration
        try:
            async with asyncio.timeout(duration_seconds(limit)) as scope:
                outcome = await self._pages()
        except TimeoutError as error:
            if not scope.expired():
                return await self._left_open("spool", error)
            return await self._partial("deadline", f"cannot finish: not done within {limit}")
        except LimitReached as error:
            return await self._partial(error.code, error.detail)
        except (ResponseTooLarge, BoundReached) as error:
            return await self._beyond(error)
        except (SourceUnavailable, SourceBusy) as error:
            return await self._unanswered(error)
        except (SourceTruncated, SourceRefused) as error:
            self._add_said(error)
            return await self._left_open(error.code, error)
        except (QuotaReached, HostBusy) as error:
            return await self._left_open(error.code, error, error.retry_after_seconds)
        except (AddressRefused, RedirectRefused) as error:
            guarded = isinstance(error, AddressRefused)
            return await self._ended_with("guard-refused" if guarded else error.code, error)
        except TooManyRejects as error:
            await self._drained()  # people will want to see them
            return await self._ended_with(error.code, error)
        except OSError as error:
            return await self._left_open("spool", error)
        return await self._finish(outcome)

    async def _beyond(self, error: ResponseTooLarge | BoundReached) -> Ending:
        """Bytes beyond the profile's limit: partial if something was kept, else failed."""
        if error.bound not in {"size_bytes_max", "bytes"}:
            code = error.code if isinstance(error, BoundReached) else "too-large"
            return await self._ended_with(code, error)
        if self._channel.responses:
            return await self._partial("limit-bytes", error.detail)
        return await self._ended_with("too-large", error)

    async def _unanswered(self, error: SourceUnavailable | SourceBusy) -> Ending:
        code = "http-status" if error.code == "status" else error.code
        if not is_retryable(error):
            return await self._ended_with(code, error)
        self._add_said(error)
        return await self._left_open(code, error, error.retry_after_seconds)

    async def _partial(self, code: str, reason: str) -> Ending:
        """Keep what was mapped, and end as partial."""
        self._stopped = True
        await self._in_thread(lambda: None)  # behind the page that was being read
        await self._drained()
        return await self._finish("partial", code, reason)

    async def _ended_with(self, code: str, error: HoldfastError) -> Ending:
        self._add_said(error)
        reason = f"{error.detail} ({error.hint})" if error.hint else error.detail
        return await self._finish("failed", code, reason)

    def _add_said(self, error: HoldfastError) -> None:
        """Tell in the source's own words, too, what went wrong.

        The reason of a run goes into the log, where nothing is erased: not for a profile about
        people.
        """
        said = getattr(error, "said", "")
        if said and not self._profile.subject:
            words = self._sources.without_secrets(said) if self._sources else said
            error.detail = f"{error.detail}; the source says: {words}"

    async def _finish(self, outcome: Outcome, code: str = "", reason: str = "") -> Ending:
        # Nobody can store anything for a run that has ended. One that is complete has what it is
        # made of by now, and one that was cancelled has no files any more.
        if outcome in ("failed", "partial") and (failure := await self._kept(ended=True)):
            reason = f"{reason}; what the source sent is not kept: {failure}"
        return ended(await self._channel.finish(self._account(outcome, code, reason)))

    def _account(self, outcome: Outcome, code: str, reason: str) -> RunFinish:
        """What is told about this attempt when it ends."""
        channel, pages = self._channel, self._sources
        cursor = self._cursor.result() if self._cursor and outcome == "complete" else None
        return RunFinish(
            run=self._attempt.run,
            fence=self._attempt.fence,
            outcome=outcome,
            batches=channel.batches,
            pages=channel.responses,
            bytes_fetched=pages.bytes_fetched if pages else 0,
            requests=pages.requests if pages else 0,
            replayed=pages.replayed if pages else False,
            cursor=cursor,
            columns=self._maker.columns.seen() if self._maker else [],
            code=code[:100],
            reason=reason[:REASON_MAX],
        )

    # --- pages --------------------------------------------------------------------------------

    async def _pages(self) -> Outcome:
        """Take, store, read and post every page; the outcome to finish with.

        As long as every page has the bytes it had in the last complete run, nothing is read or
        posted: if that holds to the last page, the run is *unchanged*. The first page that differs
        sends all that were held back on their way, in their order.
        """
        plan = await self._channel.plan()
        walk, maker, pages = await self._prepared(plan)
        if not plan.kept and await pages.are_unchanged(walk.first):
            return "unchanged"
        held: list[Page] | None = [] if pages.known else None
        ask: Ask | None = walk.first
        while ask is not None:
            ahead = walk.ahead(self._profile.limits.concurrency - 1)
            page = await pages.take(
                ask,
                ahead,
                may_be_missing=walk.may_be_missing(),
                may_be_refused=walk.may_be_refused(),
            )
            if page is None:
                ask = walk.after(PageFacts(ask, "", 0, missing=True))
                continue
            page, values = await self._looked_at(page, walk.wanted)
            if held is not None and not page.same:
                for earlier in held:
                    await self._read(maker, earlier)
                held = None
            if held is None:
                await self._read(maker, page)
            else:
                held.append(page)
                await self._counted(maker, page)
            ask = walk.after(
                PageFacts(
                    page.ask,
                    page.account.digest,
                    maker.rows,
                    values,
                    following=page.following,
                    total=page.account.total,
                    mark=maker.mark,
                    skipped=maker.skipped,
                )
            )
        if held is not None:
            if len(held) == len(pages.known):
                await self._drained()
                return "unchanged"
            for earlier in held:
                await self._read(maker, earlier)
        await self._drained()
        return "complete"

    async def _prepared(self, plan: RunPlan) -> tuple[Walk, BatchMaker, Pages]:
        profile, limits = self._profile, self._profile.limits
        pages_max = min(limits.max_pages, self._attempt.pages_max or limits.max_pages)
        if profile.cursor:
            self._cursor = CursorState(
                profile.cursor,
                zone_of(profile.timezone),
                plan.cursor,
                since=self._attempt.range_start,
            )
        self._maker = BatchMaker(
            profile,
            self._bounds,
            cursor=self._cursor,
            occurrences=self._occurrences,
            stopped=lambda: self._stopped,
            within=(self._attempt.range_start, self._attempt.range_end),
        )
        self._sources = Pages(self._attempt, self._channel, self._tools, self._spool, plan)
        await self._sources.prepare()
        sections = self._sections(plan)
        return Walk(self._source, pages_max, sections), self._maker, self._sources

    def _sections(self, plan: RunPlan) -> Iterable[Section]:
        now = _moment(plan.started_at, self._tools.clock)
        within = (self._attempt.range_start, self._attempt.range_end)
        return sections_of(self._profile, self._cursor, now, within)

    async def _looked_at(self, page: Page, wanted: tuple[str, ...]) -> tuple[Page, dict[str, Any]]:
        """The page and its values at ``wanted``; it is kept, whatever it says.

        An answer that an earlier attempt was not content with is why there is another attempt: then
        the source is asked anew.
        """
        assert self._sources is not None
        if page.earlier and await self._is_no_answer(page, wanted):
            page = await self._sources.anew(page)
        await self._sources.store(page)
        return page, await self._values(page, wanted)

    async def _is_no_answer(self, page: Page, wanted: tuple[str, ...]) -> bool:
        """Whether the source may well answer otherwise when it is asked again."""
        try:
            await self._values(page, wanted)
        except (SourceRefused, SourceTruncated):
            return True
        except HoldfastError:
            return False  # told in its turn
        return False

    async def _values(self, page: Page, wanted: tuple[str, ...]) -> dict[str, Any]:
        """What stands at ``wanted`` in the page, once its own success mark says that it counts."""
        success = self._source.success
        marks = (success.path, success.message) if success else ()
        asked = tuple(dict.fromkeys(path for path in (*wanted, *marks) if path))
        if not asked:
            return {}
        content = self._content(page)
        with _perhaps_cut(page):
            encoding = getattr(self._source.format, "encoding", "utf-8")
            found = await self._in_thread(lambda: lookup(content, asked, self._bounds, encoding))
        if success and _as_text(found.get(success.path)) not in success.equals:
            said = _as_text(found.get(success.message or success.path))[:300]
            words = "something else than success" if self._profile.subject else repr(said)
            raise SourceRefused(f"cannot use the answer: the source says {words}")
        return found

    async def _read(self, maker: BatchMaker, page: Page) -> None:
        """Map the page, post the batches that become full; its file is gone afterwards."""
        filled = maker.page(self._content(page), page.account.sequence)
        with _perhaps_cut(page):
            while (batch := await self._in_thread(lambda: next_of(filled))) is not None:
                await self._channel.post(batch)
        await self._channel.stored(page.account.sequence)
        page.path.unlink(missing_ok=True)

    async def _counted(self, maker: BatchMaker, page: Page) -> None:
        content = self._content(page)
        with _perhaps_cut(page):
            await self._in_thread(lambda: maker.count(content))

    async def _drained(self) -> None:
        rest = self._maker.rest() if self._maker else None
        if rest is not None:
            await self._channel.post(rest)
        await self._channel.drained()

    @property
    def _bounds(self) -> Bounds:
        return Bounds(content_bytes_max=self._profile.limits.max_bytes)

    def _content(self, page: Page) -> SpooledContent:
        return SpooledContent(
            page.path,
            self._bounds,
            self._source.compression,
            self._source.member,
            charset_of(page.account),
        )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await in_thread(self._tools.executor, work, self._stop)

    def _stop(self) -> None:
        self._stopped = True


@contextlib.contextmanager
def _perhaps_cut(page: Page) -> Iterator[None]:
    """Bytes that cannot be read may be less than the source has, where it did not say how many."""
    try:
        yield
    except ParseFailed as error:
        if page.account.open_ended and not isinstance(error, BoundReached):
            failure = SourceTruncated(
                f"{error.detail} (and the source did not say how long its answer is)"
            )
            failure.said = error.said
            raise failure from error
        raise


def _moment(text: str, clock: Clock) -> datetime:
    """When the run began: the same for every attempt, so that all ask for the same."""
    return parse_timestamp(text) if text else clock.now()


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def ended(run: Run) -> Ending:
    """The end of a run as its task is told: only a complete or unchanged one has succeeded."""
    result = {"run": run.id, "status": run.status.value, "records": run.records}
    if run.status in {RunStatus.SUCCEEDED, RunStatus.UNCHANGED} or run.code == "rehearsal":
        return Ending(True, run.status.value, result=result)
    code = run.code or run.status.value
    return Ending(False, run.status.value, code, run.reason, result=result)


def left_open(code: str, error: Exception, retry_after_seconds: float | None = None) -> Ending:
    """The attempt ends; the run stays open for the next one."""
    reason = (
        error.detail if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"
    )
    if retry_after_seconds is not None:
        retry_after_seconds = min(retry_after_seconds, _RETRY_AFTER_SECONDS_MAX)
    return Ending(
        False,
        "open",
        code,
        reason[:REASON_MAX],
        retry=True,
        retry_after_seconds=retry_after_seconds,
    )
