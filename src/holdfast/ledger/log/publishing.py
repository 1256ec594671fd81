"""Checkpoints: signed under the key in force, made durable, witnessed, and only then released."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.telemetry import get_logger
from holdfast.ledger import store
from holdfast.ledger.errors import LedgerReadOnly, NotSequencer, PublishedDamaged, WitnessDisagrees
from holdfast.ledger.log.leadership import Leadership, Opened
from holdfast.ledger.log.opening import Opening
from holdfast.ledger.log.parts import TenantParts
from holdfast.ledger.log.published import PublishedCheckpoints
from holdfast.ledger.log.reading import LogReader, View
from holdfast.ledger.log.soundness import Soundness, hint_of, unknown_published
from holdfast.ledger.model import LOST_TAIL, PUBLISHED_DAMAGED
from holdfast.ledger.notes import Checkpoint, parse_note, sign_checkpoint
from holdfast.ledger.store import Published

log = get_logger("ledger")
DISPUTE_SECONDS = 2.0
"""How long a witness that disagrees is not asked again."""


class Publisher:
    """Signs one tenant's log, where it is ours to sign. ``signing`` is held by whoever does.

    Whoever holds the sequencer's ``storing``, too, took that first.
    """

    def __init__(
        self,
        parts: TenantParts,
        leadership: Leadership,
        soundness: Soundness,
        reader: LogReader,
        published: PublishedCheckpoints,
        opening: Opening,
    ) -> None:
        self.parts = parts
        self.leadership = leadership
        self.soundness = soundness
        self.reader = reader
        self.published = published
        self.opening = opening
        self.disputed: WitnessDisagrees | None = None
        """What a witness says against the log: no checkpoint of it is given while that stands."""
        self.signing = asyncio.Lock()
        self._released: Published | None = None
        self._asked_at = 0.0

    async def checkpoint(self) -> str:
        """The newest checkpoint; signed now, if the log has grown and it is ours to sign.

        Another instance's, or that of a log that is read-only, is answered as it was published;
        ``LedgerReadOnly`` where a later one is known to have been, and not known any more.
        ``WitnessDisagrees`` while a witness says that the log is not what it has seen.
        """
        async with self.signing:
            return await self.checkpoint_held()

    async def checkpoint_held(self, *, ask: bool = True) -> str:
        """:meth:`checkpoint` for whoever holds ``signing`` already.

        If no witness is to be asked it was, just now: nothing is signed against what one says.
        """
        # Opened by whoever signs, not by whoever waits for it: there may be a new origin meanwhile.
        try:
            state = await self.opening.open()
        except NotSequencer:
            self.disputed = None  # it is with whoever signs
            last = await self.published.last()
            if last is None:
                raise NotSequencer(
                    "cannot give a checkpoint: none was signed yet, and another instance signs"
                ) from None
            return await self._as_published(
                last,
                LedgerReadOnly(
                    "cannot give a checkpoint: a later one was published than the database knows of"
                ),
            )
        except LedgerReadOnly as stopped:
            last = await self.published.last()
            if last is None:
                raise
            return await self._as_published(last, stopped)
        if self.soundness.stands is not None:  # met since the log was opened
            raise self.soundness.read_only(self.soundness.stands)
        last = state.published
        is_newest = last is not None and last.size == state.tree.size
        if last is not None and is_newest and (not ask or self._was_released(last)):
            return last.note
        now = self.parts.shared.clock.monotonic()
        if self.disputed is not None and (not ask or now - self._asked_at < DISPUTE_SECONDS):
            raise self.disputed
        if ask:
            self._asked_at = now
        return await self._publish(state, ask=ask)

    def _was_released(self, last: Published) -> bool:
        """Whether every witness was asked about it: what the database has may be kept back."""
        witnesses = self.parts.shared.witnesses
        if last is self._released or witnesses is None:
            return True
        return witnesses.have_signed(parse_note(last.note))

    async def _as_published(self, last: Published, later: LedgerReadOnly) -> str:
        """The note of ``last``; raises ``later`` if a later one was told to the outside."""
        damage = self.soundness.damage
        if damage is not None and damage.reason == LOST_TAIL and await self.published.is_lost():
            raise later  # the database may be as old as the log
        try:
            if not await self.published.told_more_than(last):
                return await self.published.answered(last)
        except PublishedDamaged as error:
            raise LedgerReadOnly(
                f"cannot give a checkpoint: {error.detail}", hint=hint_of(PUBLISHED_DAMAGED)
            ) from error
        raise later

    async def _publish(self, state: Opened, *, ask: bool) -> str:
        """Make size and root durable, in the database and in the file; then release the note."""
        told = Checkpoint(state.origin.origin, state.tree.size, state.tree.root())
        view = View(told.size, state.recorded, state.tree)
        signed = sign_checkpoint(told, state.signer.private)
        published = Published(told.origin, told.size, told.root, signed.encode(), self.parts.now())
        try:
            if not await self.published.keep(published, state.fence):
                raise _larger_published()
        except NotSequencer:
            self.leadership.close()
            raise
        try:
            await self.published.release(published)
        except PublishedDamaged as error:
            self.leadership.close()
            raise self.soundness.read_only(unknown_published(error, told.size)) from error
        witnesses = self.parts.shared.witnesses
        if ask and witnesses is not None and witnesses.witnesses:
            # Only now: a witness is the outside, too.
            prove = partial(self.reader.consistency_path, view=view)
            try:
                cosigned = await witnesses.cosigned(signed, told.origin, told.size, prove)
            except WitnessDisagrees as error:
                raise await self._kept_back(told, error) from error
            published = replace(published, note=cosigned.encode())
            await self.published.keep(published, state.fence)
        state.published = published
        if ask:
            self._released = published
        self.disputed = None
        self.parts.shared.metrics.published()
        return published.note

    async def _kept_back(self, told: Checkpoint, error: WitnessDisagrees) -> HoldfastError:
        """What to say where a witness says that the log is not what it has seen.

        Another instance may have told it more since. If nobody has, the log may be from before
        that. But the witness has signed nothing: so no checkpoint is given, readiness says so, and
        appends go on, which lose nothing by it. Nothing of it is kept.
        """
        rows = await self.parts.read(lambda conn: store.checkpoints(conn, self.parts.tenant))
        newest = rows.get(told.origin)
        if newest is not None and newest.size > told.size and newest.size >= error.size:
            self.leadership.close()
            return _larger_published()
        if self.disputed is None:
            log.error(
                "a witness disagrees; no checkpoint is given",
                tenant=self.parts.tenant,
                detail=error.said,
            )
        self.disputed = error
        return error


def _larger_published() -> NotSequencer:
    return NotSequencer("cannot sign: a larger checkpoint of this log has been published")
