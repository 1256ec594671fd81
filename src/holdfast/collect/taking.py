"""Where an attempt takes its pages from: the source, an earlier attempt, or the last complete run.

A page is taken from the source only if nobody has it already. What an earlier attempt of this run
has stored is not fetched again (ADR 0014); what the source says is not modified is what the last
complete run stored. Each page is noted at the aggregator as soon as it is here, so that a crash
costs the one that was on its way.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import msgspec

from holdfast.collect.channel import Channel
from holdfast.collect.errors import LimitReached
from holdfast.collect.pages import Ask, said_by, with_parameters
from holdfast.collect.requests import (
    HIDDEN,
    NO_CREDENTIALS,
    Manners,
    Pace,
    credentials,
    led_to,
    reported,
    request,
    without_secrets,
)
from holdfast.collect.robots import Robots
from holdfast.collect.secrets import SecretStore
from holdfast.collect.tokens import Tokens
from holdfast.kernel.clock import Clock, parse_timestamp
from holdfast.kernel.errors import HoldfastError, NotFound
from holdfast.kernel.outbound import (
    Fetched,
    OutboundClient,
    OutboundRequest,
    Place,
    ResponseTooLarge,
    SourceBusy,
    SourceUnavailable,
    scrub,
)
from holdfast.kernel.telemetry import get_logger
from holdfast.records.model import VALIDATORS_MAX, RawResponse, RunPlan, Validator, page_name
from holdfast.registry.model import Profile
from holdfast.registry.parts import duration_seconds

CUT_BYTES_MAX = 16 * 1024 * 1024
"""How much of answers that broke off an attempt keeps: they are looked at, and never read."""
_MISSING = frozenset({404, 410, 416})
_REFUSED = frozenset({400, 422})
_UNAUTHORIZED = 401

log = get_logger("collect")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one attempt is about. ``profile`` has the operator's limits in place of its own.

    ``admit`` is awaited before each request to the source; it raises where the day's quota is used
    up. ``place`` is held during each: a host has so many at once, whoever asks.
    """

    run: str
    fence: int
    tenant: str
    profile: Profile
    force: bool = False
    pages_max: int = 0
    rehearsal: bool = False
    range_start: str = ""
    range_end: str = ""
    admit: Callable[[], Awaitable[None]] | None = None
    place: Place | None = None
    pace: Pace | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """What the attempts of a drone share.

    ``executor`` has one thread: parsing and mapping run there, so that the loop stays free to beat.
    ``keep_seconds`` bounds the wait for the aggregator to take what a failed run fetched.
    """

    outbound: OutboundClient
    secrets: SecretStore
    tokens: Tokens
    robots: Robots
    clock: Clock
    executor: Executor
    keep_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Page:
    """One page in the spool. ``same``: it has the bytes it had in the last complete run."""

    ask: Ask
    account: RawResponse
    path: Path
    same: bool
    there: bool
    """Its bytes are stored already; only the account of this page is to be kept."""
    earlier: bool = False
    """It is what an earlier attempt of the run was answered."""
    following: str = ""
    """What its headers said of the page after it, secrets and all."""


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A request that was sent before its turn."""

    ask: Ask
    task: asyncio.Task[Fetched]

    def arrived(self) -> Fetched | None:
        """Its answer, if there is one with bytes by now."""
        done = self.task.done() and not self.task.cancelled() and self.task.exception() is None
        fetched = self.task.result() if done else None
        return fetched if fetched is not None and fetched.path is not None else None


class Pages:
    """The pages of one attempt, in the order in which they are asked for. One per attempt."""

    def __init__(
        self, attempt: Attempt, channel: Channel, tools: Tools, spool: Path, plan: RunPlan
    ) -> None:
        self._attempt = attempt
        self._profile = attempt.profile
        self._source = attempt.profile.source
        self._channel = channel
        self._tools = tools
        self._spool = spool
        # A backfill asks for other periods than the run whose answers the validators are of.
        fresh = attempt.force or bool(attempt.range_start)
        self.known: dict[str, Validator] = {} if fresh else plan.validators
        self._kept_left = plan.kept
        self._kept: deque[RawResponse] = deque()
        self._given = NO_CREDENTIALS
        self._manners = Manners(
            self._profile.limits, admit=attempt.admit, place=attempt.place, pace=attempt.pace
        )
        self._ahead: dict[str, _Ahead] = {}
        self._answered: dict[str, Page] = {}
        self._confirmed: dict[str, Fetched] = {}
        self._cut: list[tuple[Ask, Fetched]] = []
        self._taken = 0
        self._bytes_taken = 0
        self.requests = 0
        self.bytes_fetched = 0
        self.replayed = False

    async def prepare(self) -> None:
        """Resolve the credentials. Raises what :func:`credentials` does."""
        tools = self._tools
        self._given = await credentials(
            self._source,
            tools.secrets,
            self._attempt.tenant,
            tools.tokens,
            place=self._manners.at(),
            per_minute=self._manners.own_per_minute,
        )

    def without_secrets(self, text: str) -> str:
        """``text`` from the source without what it was sent to know us by."""
        return without_secrets(self._source, self._given, text)

    # --- is there anything new? ---------------------------------------------------------------

    async def are_unchanged(self, first: Ask) -> bool:
        """Whether the source says that no page of the last complete run has changed.

        The pages are only asked for if each of them can be asked for that way. The first that has
        changed ends the asking; it is not asked for again.
        """
        name = self._name(first)
        if name not in self.known or self._source.method != "GET":
            return False
        others = [other for other in self.known if other != name]
        if self._source.unchanged == "first-page":
            others = []
        elif len(self.known) >= VALIDATORS_MAX:
            return False  # there may be more than the plan names
        # An address that held a secret is kept without it, and cannot be asked for by its name.
        if not all(_can_ask(self.known[each]) for each in (name, *others)) or any(
            HIDDEN in other for other in others
        ):
            return False
        for each in (name, *others):
            ask = first if each == name else Ask(each)
            fetched = await self._fetch(ask, self.known[each])
            if not fetched.not_modified:
                self._answered[each] = self._page(ask, fetched)
                return False
            self._confirmed[each] = fetched
        return True

    # --- taking -------------------------------------------------------------------------------

    async def close(self) -> None:
        """Give up what is still on its way."""
        tasks = [each.task for each in self._ahead.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ahead.clear()

    async def take(
        self,
        ask: Ask,
        ahead: Sequence[Ask] = (),
        *,
        may_be_missing: bool = False,
        may_be_refused: bool = False,
    ) -> Page | None:
        """The page that answers ``ask``, in the spool; ``None`` if there is none and that is fine.

        ``ahead`` are requests that will follow: they are sent already, so that as many are under
        way as ``limits.concurrency`` lets. Each of them may be the page that a crash costs.

        Raises what fetching raises, and :class:`LimitReached` for more bytes than a run may have.
        """
        page = await self._kept_page(ask)
        if not self._kept_left:
            self._look_ahead([ask, *ahead] if page is None else list(ahead))
        if page is None:
            name = self._name(ask)
            page = self._answered_page(name) or await self._known_page(ask, name)
        if page is None:
            try:
                fetched = await self._result(ask, None)
            except SourceUnavailable as error:
                if may_be_missing and error.status in _MISSING:
                    return None
                if may_be_refused and error.status in _REFUSED:
                    return None
                raise
            page = self._page(ask, fetched)
        self._bytes_taken += page.account.size_bytes
        if self._bytes_taken > self._profile.limits.max_bytes:
            raise LimitReached(
                f"cannot take more than {self._profile.limits.max_bytes} bytes",
                code="limit-bytes",
                hint="`limits.max_bytes` sets it",
            )
        self._taken += 1
        return page

    async def anew(self, page: Page) -> Page:
        """The page once more, from the source: what an earlier attempt was answered does not do.

        What it saw behind that page does not count either. Raises what :meth:`take` does.
        """
        self._kept_left = 0
        self._bytes_taken -= page.account.size_bytes
        self._taken -= 1
        page.path.unlink(missing_ok=True)
        found = await self.take(page.ask)
        assert found is not None, "only a page that may be missing can be"
        return found

    async def store(self, page: Page) -> None:
        """Let the aggregator keep the page. Of new bytes this is the beginning only:
        :meth:`Channel.stored` waits for its end."""
        if page.there:
            try:
                await self._channel.store_known(page.account)
                return
            except NotFound:
                log.info("page.stored_anew", digest=page.account.digest)
        self._channel.store(page.account, page.path)

    def came_cut(self, ask: Ask, received: Fetched) -> None:
        """Note the beginning of an answer whose end did not come."""
        self._cut.append((ask, received))

    async def keep_rest(self, *, ended: bool) -> list[str]:
        """Let the aggregator keep what came and was not taken; why some of it is not, if it is not.

        The beginning of an answer that broke off or was too large; and, where the run has
        ``ended``, pages that were asked for ahead. Another attempt would take those for what
        follows the page at which this one failed. A page that cannot be kept is told of and takes
        no other with it, nor the place of what the run failed of.
        """
        rest: list[Page | tuple[Ask, Fetched, bool]] = []
        if ended:
            rest += self._answered.values()
            arrived = [(each.ask, each.arrived()) for each in self._ahead.values()]
            rest += [(ask, found, False) for ask, found in arrived if found is not None]
            self._answered.clear()
            await self.close()
        cut, self._cut = self._cut, []
        left = CUT_BYTES_MAX
        for ask, received in cut:
            if left and (found := await asyncio.to_thread(_beginning, received, left)).size_bytes:
                rest.append((ask, found, True))
                left -= found.size_bytes
        failures = []
        for each in rest:
            try:
                page = each if isinstance(each, Page) else self._page(*each[:2], cut=each[2])
                await self._keep(page)
            except (HoldfastError, OSError) as error:
                failures.append(error.detail if isinstance(error, HoldfastError) else str(error))
        return failures

    async def _keep(self, page: Page) -> None:
        """Store it as the next page, if the run may have so many bytes."""
        size = page.account.size_bytes
        if self._bytes_taken + size > self._profile.limits.max_bytes:
            return
        account = msgspec.structs.replace(page.account, sequence=self._taken)
        await self.store(replace(page, account=account))
        self._bytes_taken += size
        self._taken += 1

    # --- from an earlier attempt --------------------------------------------------------------

    async def _kept_page(self, ask: Ask) -> Page | None:
        """The next page of an earlier attempt, if it answers ``ask`` and may still be used."""
        if not self._kept_left:
            return None
        if not self._kept:
            self._kept.extend(await self._channel.kept(self._taken - 1))
        account = self._kept.popleft() if self._kept else None
        path = None
        if account is not None and self._may_use(account, ask):
            path = await self._copied(account.digest)
        if account is None or path is None:
            self._kept_left = 0  # what follows there does not follow from what is fetched here
            return None
        self._kept_left -= 1
        self.replayed |= account.replayed
        following = self._with_key(account.following)
        same = self._is_same(self._name(ask), account.digest)
        return Page(ask, account, path, same=same, there=True, earlier=True, following=following)

    def _may_use(self, account: RawResponse, ask: Ask) -> bool:
        fetched = parse_timestamp(account.fetched_at)
        longest = timedelta(seconds=duration_seconds(self._profile.limits.max_duration))
        # Nobody has read the last page to its end, and its length is not known from elsewhere.
        doubtful = account.open_ended and self._kept_left == 1
        return (
            account.sequence == self._taken
            and page_name(account.url, account.request) == self._name(ask)
            and fetched + longest >= self._tools.clock.now()
            and HIDDEN not in self._with_key(account.following)
            and not doubtful
        )

    # --- from the last complete run -----------------------------------------------------------

    def _answered_page(self, name: str) -> Page | None:
        """The page that came when it was asked whether anything has changed."""
        page = self._answered.pop(name, None)
        if page is None:
            return None
        account = msgspec.structs.replace(page.account, sequence=self._taken)
        return replace(page, account=account)

    async def _known_page(self, ask: Ask, name: str) -> Page | None:
        """The page as the last complete run has it, if the source says that it still holds."""
        known = self.known.get(name)
        if known is None or self._source.method != "GET" or not _can_ask(known):
            return None
        following = self._with_key(known.following)
        if HIDDEN in following:
            return None
        fetched = self._confirmed.pop(name, None) or await self._result(ask, known)
        if not fetched.not_modified:
            return self._page(ask, fetched)
        path = await self._copied(known.digest)
        if path is None:
            return None
        said, total = said_by(self._source, fetched.headers)
        account = self._account(ask, fetched, said or following, total or known.total)
        account = _with_bytes(account, known)
        return Page(ask, account, path, same=True, there=True, following=said or following)

    async def _copied(self, digest: str) -> Path | None:
        path = self._spool / f"fetch-{self._taken}.known"
        path.unlink(missing_ok=True)
        try:
            await self._channel.copy_known(digest, path)
        except NotFound:
            return None
        return path

    def _with_key(self, following: str) -> str:
        """What led to the next page, with the key that was taken out of it put back in."""
        if HIDDEN not in following:
            return following
        return with_parameters(following, self._given.parameters)

    # --- from the source ----------------------------------------------------------------------

    def _look_ahead(self, asks: list[Ask]) -> None:
        """Send the first of these requests that nobody has sent yet."""
        if self._profile.limits.concurrency == 1:
            return
        for ask in asks[: self._profile.limits.concurrency]:
            name = self._name(ask)
            if name in self._ahead or name in self._answered or name in self._confirmed:
                continue
            known = self.known.get(name) if self._source.method == "GET" else None
            usable = known is not None and _can_ask(known)
            usable = usable and known is not None and HIDDEN not in self._with_key(known.following)
            task = asyncio.create_task(self._fetch(ask, known if usable else None))
            self._ahead[name] = _Ahead(ask, task)

    async def _result(self, ask: Ask, known: Validator | None) -> Fetched:
        """The answer to a request that was sent ahead, or is sent now."""
        ahead = self._ahead.pop(self._name(ask), None)
        if ahead is None:
            return await self._fetch(ask, known)
        task = ahead.task
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise

    async def _fetch(self, ask: Ask, known: Validator | None) -> Fetched:
        """One answer of the source, spooled; what was asked and received is counted."""
        if not self._source.robots:
            rules = await self._tools.robots.check(
                ask.url, self._manners.at(), self._manners.own_per_minute
            )
            if rules.delay_seconds:
                self._slow_down(rules.delay_seconds)
        given = self._given
        try:
            return await self._fetch_once(ask, known)
        except SourceUnavailable as error:
            if error.status != _UNAUTHORIZED or not given.token:
                raise
        # The token may have been withdrawn before its time: once, with a new one.
        tools = self._tools
        self._given = await credentials(
            self._source,
            tools.secrets,
            self._attempt.tenant,
            tools.tokens,
            refused=given.token,
            place=self._manners.at(),
            per_minute=self._manners.own_per_minute,
        )
        return await self._fetch_once(ask, known)

    async def _fetch_once(self, ask: Ask, known: Validator | None) -> Fetched:
        limits = self._profile.limits
        asked = request(
            self._source,
            self._manners,
            ask,
            self._given,
            known=known,
            size_bytes_max=limits.max_bytes - self._bytes_taken,
        )
        try:
            fetched = await self._tools.outbound.fetch(replace(asked, keep_cut=True), self._spool)
        except (SourceUnavailable, SourceBusy, ResponseTooLarge) as error:
            self.requests += error.facts.requests
            if error.received is not None:
                self.came_cut(ask, error.received)
                self.bytes_fetched += error.received.size_bytes
            raise
        self.requests += fetched.requests
        self.bytes_fetched += fetched.size_bytes
        self.replayed |= fetched.replayed
        return fetched

    def _slow_down(self, delay_seconds: float) -> None:
        self._manners = replace(self._manners, slowed_to=max(1, int(60 / delay_seconds)))

    def _page(self, ask: Ask, fetched: Fetched, *, cut: bool = False) -> Page:
        assert fetched.path is not None, "only a conditional request is answered by 304"
        following, total = said_by(self._source, fetched.headers)
        account = self._account(ask, fetched, following, total)
        account = msgspec.structs.replace(account, cut=cut)
        same = self._is_same(self._name(ask), fetched.digest)
        return Page(ask, account, fetched.path, same=same, there=same, following=following)

    def _account(self, ask: Ask, fetched: Fetched, following: str, total: str) -> RawResponse:
        """The account of one answer, as it is kept beside its bytes."""
        return RawResponse(
            sequence=self._taken,
            digest=fetched.digest,
            size_bytes=fetched.size_bytes,
            url=fetched.url[:8192],
            address=fetched.address[:200],
            status=fetched.status,
            media_type=_media_type(fetched),
            etag=fetched.etag if len(fetched.etag) <= 1000 else "",
            last_modified=fetched.last_modified if len(fetched.last_modified) <= 100 else "",
            fetched_at=fetched.fetched_at,
            replayed=fetched.replayed,
            not_modified=fetched.not_modified,
            request=ask.request,
            following=scrub(following, self._asked(ask)),
            total=total,
            open_ended=fetched.framing == "close",
            final_url=led_to(fetched.url, fetched.final_url),
        )

    # --- names --------------------------------------------------------------------------------

    def _asked(self, ask: Ask) -> OutboundRequest:
        return request(self._source, self._manners, ask, self._given)

    def _name(self, ask: Ask) -> str:
        return page_name(reported(self._source, ask, self._given)[:8192], ask.request)

    def _is_same(self, name: str, digest: str) -> bool:
        known = self.known.get(name)
        return known is not None and known.digest == digest


def _beginning(received: Fetched, size_bytes_max: int) -> Fetched:
    """What came, or its beginning if it is longer; the file is cut, too."""
    if received.size_bytes <= size_bytes_max:
        return received
    assert received.path is not None, "what broke off is in the spool"
    digest = hashlib.sha256()
    with received.path.open("r+b") as file:
        file.truncate(size_bytes_max)
        while piece := file.read(1024 * 1024):
            digest.update(piece)
    return replace(received, size_bytes=size_bytes_max, digest=f"sha256:{digest.hexdigest()}")


def charset_of(account: RawResponse) -> str:
    """What the source called the encoding of these bytes; empty if it did not."""
    return account.media_type.partition("; charset=")[2]


def _media_type(fetched: Fetched) -> str:
    """With the charset, if the source named one: without it the bytes could not be read again."""
    charset = f"; charset={fetched.charset}" if fetched.charset else ""
    return (fetched.media_type + charset)[:200]


def _can_ask(known: Validator) -> bool:
    return bool(known.etag or known.last_modified)


def _with_bytes(account: RawResponse, known: Validator) -> RawResponse:
    """What was confirmed, with the bytes that it was confirmed of."""
    return msgspec.structs.replace(
        account,
        digest=known.digest,
        size_bytes=known.size_bytes,
        media_type=known.media_type,
        etag=account.etag or known.etag,
        last_modified=account.last_modified or known.last_modified,
    )
