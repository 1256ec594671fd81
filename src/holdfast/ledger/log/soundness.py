"""Damage in a log: noticed by whoever reads, looked at again, remembered, in the way of appends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.kernel.errors import Corrupt, HoldfastError, Unavailable
from holdfast.kernel.telemetry import get_logger
from holdfast.ledger import store
from holdfast.ledger.errors import FrameDamaged, LedgerReadOnly, PublishedDamaged
from holdfast.ledger.frames import damaged, decode_frame, read_leaf
from holdfast.ledger.log.commits import READ_COMMITS, Commits
from holdfast.ledger.log.leadership import Leadership
from holdfast.ledger.log.parts import TenantParts
from holdfast.ledger.model import NO_KEY, PUBLISHED_DAMAGED, PUBLISHED_UNKNOWN, Damage
from holdfast.ledger.ports import StoredCommit
from holdfast.ledger.tree import Tree
from holdfast.ledger.walking import Walk

log = get_logger("ledger")

_HINT = (
    "`holdfast ledger verify` says what is sound; `holdfast ledger restart` continues "
    "from there under a new origin"
)
_HINTS = {
    NO_KEY: "bring back the key file; if it is lost, `holdfast ledger rotate` begins a key without "
    "it, valid from the last published checkpoint on",
    PUBLISHED_DAMAGED: "bring back the file, if there is a copy as new as it was; `holdfast ledger "
    "restart` continues under a new origin, of a name that nobody can have seen",
    PUBLISHED_UNKNOWN: "bring the folder published/ of the machine that signed last, as it was at "
    "its end, into the data directory and start again; or `holdfast ledger restart` continues "
    "under a new origin, which cites the last checkpoint that is known of the old one",
}


class Soundness:
    """What is known to be wrong with a log; while something is, nothing is appended or signed.

    ``damage`` is why the log is read-only. ``stands`` is damage that was met in the stored bytes,
    and is there still as far as we know.
    """

    def __init__(self, parts: TenantParts, commits: Commits, leadership: Leadership) -> None:
        self.parts = parts
        self.commits = commits
        self.leadership = leadership
        self.damage: Damage | None = None
        self.stands: Damage | None = None
        self._answered = ""
        """When that was met for which ``stands`` is the answer of a look at the log."""
        self._unkept = False
        """Damage was met, and could not be written down: nobody else knows of it."""

    @property
    def doubted(self) -> bool:
        """Whether damage was met for which :meth:`check_remembered` is to look again."""
        return self._unkept or self.stands is not None

    async def met(self, error: FrameDamaged, *, walked: bool = False) -> None:
        """Damage was met, by whoever reads: look again, and if it is there, take nothing more.

        From here on nothing is appended or signed, by any instance, now or after another start,
        until a look at the whole log finds it sound. A log that was cut short by a restart in the
        meantime is not damaged, nor is one that cannot be read just now. ``walked`` says that all
        in front of it was recomputed: then a commit that is whole by itself may be wrong, too.
        """
        if self.stands is not None and self.stands.first <= error.position:
            return
        tenant = self.parts.tenant
        try:
            again = await self._seen_again(error.position)
            if again is None and walked:
                _, again = await self.recompute()
        except Unavailable as unavailable:
            log.warning("damage cannot be looked at", tenant=tenant, detail=unavailable.detail)
            return
        if again is None:
            return
        found = damage_of(again)
        self.leadership.close()
        self.stands = found
        self.read_only(found)
        try:
            await self._tell(found)
        except HoldfastError as lost:
            log.warning("damage cannot be remembered", tenant=tenant, detail=lost.detail)

    async def _tell(self, found: Damage) -> None:
        """Write down what was met, and stop whoever appends."""
        parts = self.parts
        with self._keeping():
            await self._write(found)
            # Whoever is about to append, here or elsewhere, must open the log first, and will see.
            await parts.shared.log.seize(parts.principal, parts.shared.holder)

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """What is not known to be written down at the end of it is ``_unkept``; what is met
        meanwhile has a word in that, too."""
        self._unkept = False
        try:
            yield
        except BaseException:
            self._unkept = True
            raise

    async def _write(self, found: Damage) -> store.Met | None:
        tenant, now = self.parts.tenant, self.parts.now()
        kept = await self.parts.write(lambda conn: store.keep_damage(conn, tenant, found, now))
        self.stands, self._answered = found, kept.at if kept is not None else ""
        return kept

    async def _seen_again(self, position: int) -> FrameDamaged | None:
        """What is wrong with the commit that holds ``position``; nothing past the log's end."""
        if position >= await self.commits.end():
            return None
        try:
            async for commit in self.commits.between(position, position + 1):
                for entry in decode_frame(commit).entries:
                    read_leaf(entry.leaf)
        except FrameDamaged as error:
            return error if error.position else damaged(position, error.detail)
        return None

    def look_again(self) -> None:
        """Have the next opening look at the whole log, if damage was met in it."""
        self.stands = None

    async def ask_again(self) -> None:
        """Have whoever appends look at the whole log, here or elsewhere, if damage was met in it.

        Whoever asks has found it sound. Only who appends goes on with it, by a look of its own.
        """
        tenant, now = self.parts.tenant, self.parts.now()
        self._answered = ""
        if not await self.parts.write(lambda conn: store.ask_about_damage(conn, tenant, now)):
            self.stands = None

    async def remembered(self) -> store.Met | None:
        """Damage that was met before, here or elsewhere."""
        return await self.parts.read(lambda conn: store.find_damage(conn, self.parts.tenant))

    async def restored(self) -> store.RestoredFrom | None:
        """What the log was restored from, while nobody can tell what was published of it since."""
        return await self.parts.read(lambda conn: store.find_restored(conn, self.parts.tenant))

    async def check_remembered(self) -> None:
        """``LedgerReadOnly`` while damage that was met before is there. Only whoever appends asks.

        Each process looks at the whole log once; then it holds what it found until it is asked to
        look again, or another instance has mended it.
        """
        before = await self.remembered()
        if before is None and self._unkept:
            before = await self._kept_now()
        if before is None:
            self.stands = None
            return
        if self.stands is None or before.at != self._answered:
            again = await self._seen_again(before.damage.first)
            if again is None:
                _, again = await self.recompute()
            if again is None and not await self._forget(before):
                await self.check_remembered()  # more was met while we looked
                return
            if again is None:
                log.warning("what was damaged is whole again", tenant=self.parts.tenant)
                return
            self.stands = damage_of(again)
            self._answered = before.at
        raise self.read_only(self.stands)

    async def _kept_now(self) -> store.Met | None:
        """What could not be written down when it was met, if it is there still: written down now.

        Raises what writing raises: on top of damage that nobody remembers nothing is appended.
        """
        with self._keeping():
            _, again = await self.recompute()
            return None if again is None else await self._write(damage_of(again))

    async def _forget(self, met: store.Met) -> bool:
        """The damage that was met is no more; false if more was met since."""
        tenant = self.parts.tenant
        if not await self.parts.write(lambda conn: store.forget_damage(conn, tenant, met.at)):
            return False
        self.stands = None
        return True

    async def told_elsewhere(self) -> None:
        """``LedgerReadOnly`` if damage was met in a log that another instance appends to."""
        if self._unkept and self.stands is not None:
            await self._tell(self.stands)
        before = await self.remembered()
        if before is not None:
            self.stands = self.stands or before.damage
            raise self.read_only(before.damage)
        restored = await self.restored()
        if restored is not None:
            raise self.read_only(unknown_since(restored, await self.commits.end()))
        unknown = self.damage is not None and self.damage.reason == PUBLISHED_UNKNOWN
        if unknown or (self.stands is not None and not self._unkept):
            self.stands = self.damage = None
            self.parts.shared.metrics.writable(self.parts.tenant, writable=True)

    def read_only(self, damage: Damage) -> LedgerReadOnly:
        """Take nothing more because of ``damage``; returns what whoever asks is told."""
        first_time = self.damage != damage
        self.damage = damage
        self.parts.shared.metrics.writable(self.parts.tenant, writable=False)
        said = damage.reason == PUBLISHED_UNKNOWN and self.parts.shared.restored
        if first_time and not said:
            log.error(
                "the ledger is read-only",
                tenant=self.parts.tenant,
                reason=damage.reason,
                detail=damage.detail,
                first=damage.first,
                last=damage.last,
            )
        return LedgerReadOnly(
            f"cannot append or sign: {damage.detail}", hint=hint_of(damage.reason)
        )

    async def recomputed(self) -> Damage | None:
        """What is wrong with the bytes of the log, all of them; damage that is found stops it."""
        _, wrong = await self.recompute(leading=False)
        if wrong is not None:
            await self.met(wrong, walked=True)
        return self.stands

    async def recompute(self, *, leading: bool = True) -> tuple[Tree, FrameDamaged | None]:
        """The tree of the commits in front of the first one that is not sound; what that one is."""
        walk = Walk(self.parts.tenant)
        batch: list[StoredCommit] = []
        end = await self.commits.end()

        async def step() -> None:
            commits = batch.copy()
            batch.clear()
            await asyncio.to_thread(walk.commits, commits)
            walk.rows.clear()
            walk.tiles.clear()
            if leading:
                await self.leadership.keep()

        try:
            try:
                async for commit in self.commits.between(0, end):
                    batch.append(commit)
                    if len(batch) == READ_COMMITS:
                        await step()
            finally:
                await step()
        except FrameDamaged as error:
            log.warning("a commit is not sound", tenant=self.parts.tenant, detail=error.detail)
            return walk.tree, error
        return walk.tree, None


def hint_of(reason: str) -> str:
    """What to do about a log that is read-only for this reason."""
    return _HINTS.get(reason, _HINT)


def unknown_published(error: PublishedDamaged, size: int) -> Damage:
    """The damage of a log of ``size`` entries of which nobody knows what was published."""
    return Damage(reason=PUBLISHED_DAMAGED, detail=error.detail, first=size)


def unknown_since(restored: store.RestoredFrom, size: int) -> Damage:
    """The damage of a log of ``size`` entries that came back from a backup."""
    return Damage(
        reason=PUBLISHED_UNKNOWN,
        detail=f"the log was restored from the backup {restored.backup} of {restored.made_at}, and "
        "what was published of it after that is not known here",
        first=size,
    )


def damage_of(error: Corrupt) -> Damage:
    """What a failure to read the log says of it."""
    position = error.position if isinstance(error, FrameDamaged) else 0
    return Damage(reason="damaged", detail=error.detail, first=position)
