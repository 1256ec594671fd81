"""Stored raw responses mapped again, under whatever version of the profile the lease names.

Nothing is asked of the source. The bytes come back from the aggregator, are checked against their
digests, stored with the new run (where they are there already) and mapped like fetched ones; what
was said of where and when they were fetched stays said.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from holdfast.collect.batches import BatchMaker
from holdfast.collect.channel import Channel, Outcome
from holdfast.collect.content import SpooledContent
from holdfast.collect.errors import ParseFailed
from holdfast.collect.model import Bounds
from holdfast.collect.occurrences import Occurrences
from holdfast.collect.ports import Opening, RunLog
from holdfast.collect.runner import (
    LEASE_IS_GONE,
    REASON_MAX,
    Ending,
    LeaseLost,
    ended,
    left_open,
)
from holdfast.collect.taking import Attempt, Tools, charset_of
from holdfast.collect.threads import in_thread, next_of
from holdfast.kernel.errors import (
    Conflict,
    Corrupt,
    HoldfastError,
    Invalid,
    NotFound,
    TooLarge,
    Unsupported,
)
from holdfast.kernel.files import opened
from holdfast.records.model import RawResponse, RemapSource, RunFinish, RunStatus
from holdfast.registry.parts import duration_seconds

T = TypeVar("T")

SECONDS_MAX = 86_400.0


class Remapping:
    """One attempt of one re-mapping. Use once, like :class:`~holdfast.collect.runner.Collection`.

    What will not heal ends the run as failed; if the process dies or the aggregator does not
    answer, the run stays open and the next attempt begins it anew.
    """

    def __init__(self, attempt: Attempt, target: RunLog, tools: Tools, spool: Path) -> None:
        self._attempt = attempt
        self._profile = attempt.profile
        self._target = target
        self._tools = tools
        self._spool = spool
        # Runs are read one after the other and the first or last of equal keys counts.
        self._channel = Channel(target, tools.clock, attempt.run, attempt.fence, ordered=True)
        self._stopped = False
        self._bytes = 0

    async def run(self) -> Ending:
        """Map everything again; the answer says how it ended. Raises :class:`LeaseLost` only."""
        limit = duration_seconds(self._profile.limits.max_duration)
        scope: asyncio.Timeout | None = None
        try:
            sources = await self._channel.answered(self._target.remap_sources)
            whole = len(sources) == 1 and self._profile.mode == "snapshot"
            opened = await self._channel.open(
                Opening("remap" if whole else "merge", rehearsal=self._attempt.rehearsal)
            )
            if opened.status is not RunStatus.RUNNING:
                return ended(opened)
            async with asyncio.timeout(min(SECONDS_MAX, limit * len(sources))) as scope:
                for number, source in enumerate(sources):
                    await self._source(number, source)
                await self._channel.drained()
            return await self._finish("complete")
        except TimeoutError as error:
            if scope is None or not scope.expired():
                return left_open("spool", error)
            return await self._failed("deadline", f"cannot finish: not done within {limit} s a run")
        except OSError as error:
            return left_open("spool", error)
        except HoldfastError as error:
            return await self._told(error)
        finally:
            self._stopped = True
            await self._channel.abandon()
            for path in self._spool.glob("stored-*"):
                path.unlink(missing_ok=True)

    async def cancelled(self) -> Ending:
        """Tell that the run was cancelled, once the task of :meth:`run` is."""
        try:
            return await self._finish("cancelled", "cancelled", "the run was cancelled")
        except HoldfastError as error:
            raise LeaseLost(error.detail) from error

    async def _told(self, error: HoldfastError) -> Ending:
        if isinstance(error, Conflict) and error.code in LEASE_IS_GONE:
            raise LeaseLost(error.detail) from error
        if isinstance(error, Invalid | TooLarge | Unsupported | Corrupt | Conflict | NotFound):
            reason = f"{error.detail} ({error.hint})" if error.hint else error.detail
            return await self._failed(error.code, reason)
        return left_open(error.code, error)

    async def _failed(self, code: str, reason: str) -> Ending:
        self._stopped = True
        try:
            return await self._finish("failed", code, reason)
        except HoldfastError as refused:
            if refused.code in LEASE_IS_GONE:
                # It was never opened (there was nothing to map), or it is another's by now.
                return Ending(False, "failed", code, reason)
            return left_open(refused.code, refused)

    async def _finish(self, outcome: Outcome, code: str = "", reason: str = "") -> Ending:
        channel = self._channel
        # Nobody can store anything for a run that has ended.
        if failure := await channel.settled_within(self._tools.keep_seconds):
            reason = f"{reason}; what it read is not kept with it: {failure}" if reason else ""
        request = RunFinish(
            run=self._attempt.run,
            fence=self._attempt.fence,
            outcome=outcome,
            batches=channel.batches,
            pages=channel.responses,
            code=code[:100],
            reason=reason[:REASON_MAX],
        )
        return ended(await channel.finish(request))

    # --- one run's bytes --------------------------------------------------------------------------

    async def _source(self, number: int, source: RemapSource) -> None:
        """Everything that one run brought; its occurrences are counted for themselves."""
        accounts = await self._channel.answered(lambda: self._target.remap_responses(source.run))
        occurrences = Occurrences(self._spool / f"occurrences-{number}")
        maker = BatchMaker(
            self._profile,
            self._bounds,
            occurrences=occurrences,
            stopped=lambda: self._stopped,
            within=(source.range_start or "", source.range_end or ""),
        )
        try:
            for account in accounts:
                await self._response(maker, source.run, account)
            rest = maker.rest()
            if rest is not None:
                await self._channel.post(rest)
        finally:
            occurrences.close()
            (self._spool / f"occurrences-{number}").unlink(missing_ok=True)
        if maker.rejects > self._profile.max_rejects:
            raise ParseFailed(
                f"cannot map what the run {source.run} brought: {maker.rejects} rows fail, "
                f"max_rejects allows {self._profile.max_rejects}",
                code="too-many-rejects",
            )

    async def _response(self, maker: BatchMaker, run: str, account: RawResponse) -> None:
        path = await self._fetched(run, account)
        number = self._channel.responses
        self._channel.store(msgspec.structs.replace(account, sequence=number), path)
        source = self._profile.source
        charset = charset_of(account)
        content = SpooledContent(path, self._bounds, source.compression, source.member, charset)
        filled = maker.page(content, number)
        while (batch := await self._in_thread(lambda: next_of(filled))) is not None:
            await self._channel.post(batch)
        await self._channel.stored(number)
        path.unlink(missing_ok=True)

    async def _fetched(self, run: str, account: RawResponse) -> Path:
        """The response's bytes on disk, checked."""
        path = self._spool / f"stored-{self._channel.responses}"

        async def copy() -> str:
            found = hashlib.sha256()
            file = await opened(path, "wb")
            try:
                async for chunk in self._target.remap_body(run, account.sequence):
                    found.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
            finally:
                file.close()
            return f"sha256:{found.hexdigest()}"

        if await self._channel.answered(copy) != account.digest:
            raise Corrupt(
                f"cannot re-map the response {account.sequence} of the run {run}: its bytes are "
                "others than those that were stored"
            )
        return path

    @property
    def _bounds(self) -> Bounds:
        return Bounds(content_bytes_max=self._profile.limits.max_bytes)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await in_thread(self._tools.executor, work, self._stop)

    def _stop(self) -> None:
        self._stopped = True
