"""A new origin: a log that is damaged or lost something is continued from what is sound."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from sqlalchemy import Connection

from holdfast.kernel.canonical import canonical
from holdfast.kernel.errors import Conflict, Corrupt, Unavailable
from holdfast.kernel.files import flush_folder
from holdfast.kernel.telemetry import get_logger
from holdfast.ledger import store
from holdfast.ledger.errors import LedgerReadOnly, PublishedDamaged
from holdfast.ledger.frames import missing
from holdfast.ledger.head import Head, HeadFile, tell_head
from holdfast.ledger.log.commits import READ_BYTES, READ_COMMITS, Commits
from holdfast.ledger.log.published import last_of
from holdfast.ledger.log.soundness import damage_of
from holdfast.ledger.log.tenant_log import TenantLog
from holdfast.ledger.model import Damage, Prepared
from holdfast.ledger.notes import Checkpoint
from holdfast.ledger.plan import Wanted
from holdfast.ledger.signer import following_origin, moment_digits, untold
from holdfast.ledger.store import Origin, Published

log = get_logger("ledger")

EARLIER_MAX = 100
"""Citations that an entry has room for. What is left out is told by its number."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """What a new origin begins with, and what it cites of the old one.

    ``known_size`` is how long the log was, or its index says that it was, before it was cut.
    ``earlier`` is what origins before it were to cite, or did, in an entry that the log does not
    have: what was lost then is told now. ``left_out`` is how many of them there is no room for.
    """

    reason: str
    before: Origin
    origin: Origin
    damage: Damage
    size: int
    root: bytes
    known_size: int
    head: Head | None
    published: Checkpoint | None
    aside: str
    earlier: list[dict[str, Any]]
    left_out: int

    def told(self) -> dict[str, Any]:
        """What the first entry says."""
        return self.cites() | {"earlier": self.earlier, "earlier_left_out": self.left_out}

    def cites(self) -> dict[str, Any]:
        """What was before, and why it ended."""
        return {
            "reason": self.reason,
            "damage": self.damage.reason,
            "detail": self.damage.detail,
            "before": self.before.origin,
            "origin": self.origin.origin,
            "size": self.size,
            "root": self.root.hex(),
            "known_size": self.known_size,
            "head_size": self.head.size if self.head else None,
            "head_root": self.head.root.hex() if self.head else None,
            "head_origin": (self.head.origin or None) if self.head else None,
            "published_origin": self.published.origin if self.published else None,
            "published_size": self.published.size if self.published else None,
            "published_root": self.published.root.hex() if self.published else None,
        }


async def restart(
    tenant_log: TenantLog, reason: str, citing: Callable[[Restarted], Prepared]
) -> None:
    """Continue from what is sound, under a new origin; its first entry is that of ``citing``.

    Commits behind the first one that is not sound are copied to a file, then forgotten.
    Opening looks at the log's end only: where that finds nothing, all of it is recomputed.
    ``Conflict`` if nothing is wrong with the log. Without its first entry the log stays
    read-only, and can be restarted again.
    """
    async with tenant_log.sequencer.storing:
        damage = await _wrong(tenant_log)
        # Nobody opens it meanwhile: whoever asks for a checkpoint would take the fence from us.
        async with tenant_log.opening.lock:
            made = await _begun(tenant_log, damage, reason)
            tenant_log.opening.begun = made.origin.origin
        try:
            # Nobody else's comes before it: whoever stores waits for us.
            [outcome] = await tenant_log.sequencer.commit_held(
                [Wanted.of([citing(made)], each=True)]
            )
            if isinstance(outcome, Exception):
                raise outcome
        except BaseException:
            tenant_log.leadership.close()
            raise
        finally:
            tenant_log.opening.begun = ""
    log.warning(
        "the ledger continues under a new origin",
        tenant=tenant_log.tenant,
        origin=made.origin.origin,
        size=made.size,
        reason=reason,
    )


async def _wrong(tenant_log: TenantLog) -> Damage:
    """What is wrong with the log; ``Conflict`` if nothing is."""
    soundness = tenant_log.soundness
    soundness.look_again()
    try:
        await tenant_log.open()
    except LedgerReadOnly:
        pass
    else:
        size = (await tenant_log.reader.extent())[0]
        _, wrong = await soundness.recompute()
        if wrong is None and (disputed := await tenant_log.disputed_now()) is not None:
            tenant_log.leadership.close()
            first = min(size, disputed.size)
            return Damage(reason=disputed.code, detail=disputed.said, first=first)
        if wrong is None:
            raise Conflict(
                "cannot start a new origin: nothing is wrong with this log",
                code="ledger-sound",
                hint="every entry was recomputed; `holdfast ledger verify` looks at the "
                "payloads, the index and what was published, too",
            )
        tenant_log.leadership.close()
        soundness.read_only(damage_of(wrong))
    assert soundness.damage is not None
    return soundness.damage


async def _begun(tenant_log: TenantLog, damage: Damage, reason: str) -> Restarted:
    """Cut the log to what is sound of it, and add an origin that lacks its first entry only.

    In one step: a log that is cut is sound, and says of nothing that was acknowledged and is lost.
    What does is the origin, from which nobody goes on before its first entry tells of the loss.
    """
    parts, shared = tenant_log.parts, tenant_log.parts.shared
    await tenant_log.leadership.lead()
    # From here on nothing more is signed under the origin that ends.
    fence = await shared.log.seize(parts.principal, shared.holder)
    origins, rows = await tenant_log.published.in_database()
    before = origins[-1]
    head = await asyncio.to_thread(_readable, tenant_log.head)
    said = await _said(tenant_log)
    indexed = (await tenant_log.reader.index_state()).size
    known_size = max(await tenant_log.commits.end(), indexed)
    grown, _ = await tenant_log.soundness.recompute()
    aside = await _set_aside(tenant_log.commits, grown.size)
    taken = list(said or ())
    if head is not None:  # it may have begun one, and told nobody yet
        taken.append(Checkpoint(head.origin, head.size, head.root))
    # What was restored knows nothing of origins that came after the backup; no more does a file
    # that may be a copy.
    more = said is None or await tenant_log.soundness.restored() is not None
    origin = following_origin(before, grown.size, parts.now(), reason, taken, more=more)
    untold = _untold(origins, grown.size)
    made = Restarted(
        reason=reason,
        before=before,
        origin=origin,
        damage=damage,
        size=grown.size,
        root=grown.root(),
        known_size=known_size,
        head=head,
        published=_last_published(origins, rows, said or ()),
        aside=aside,
        earlier=untold[:EARLIER_MAX],
        left_out=max(0, len(untold) - EARLIER_MAX),
    )
    added = replace(origin, cites=canonical(made.cites()).decode())

    def begin(conn: Connection) -> None:
        store.add_origin(conn, parts.tenant, added)
        store.clear_index(conn, parts.tenant)  # opening makes it anew
        store.clear_damage(conn, parts.tenant)
        store.clear_restored(conn, parts.tenant)

    await shared.log.cut(parts.principal, grown.size, fence, begin)
    tenant_log.soundness.damage = tenant_log.soundness.stands = None
    tenant_log.settled()
    if said is None:
        aside_name = f"damaged-{moment_digits(parts.now())}"
        await tenant_log.published.begin_anew(rows.values(), aside_name)
    await tell_head(tenant_log.head, Head(grown.size, grown.root(), origin.origin))
    return made


def _last_published(
    origins: list[Origin], rows: dict[str, Published], said: Sequence[Checkpoint]
) -> Checkpoint | None:
    """The newest checkpoint that is known, of an origin before where that restart broke off before
    it told anybody anything; or one of the file that was lost, and of which no origin tells yet."""
    last, newest = last_of(origins, rows), origins[-1].origin
    found = Checkpoint(last.origin, last.size, last.root) if last else None
    for each in said:
        if each.origin == newest and (
            found is None or found.origin != newest or found.size < each.size
        ):
            found = each
    lost = [each for each in said if untold(origins, each)]
    return max(lost, key=lambda each: each.size) if lost else found


def _untold(origins: Sequence[Origin], size: int) -> list[dict[str, Any]]:
    """What origins cite whose first entry is not among the first ``size``. The first ones say what
    was lost, those after them mostly that a restart broke off."""
    lost = [each.cites for each in origins if each.cites and each.started_size >= size]
    return [msgspec.json.decode(each) for each in lost]


async def _said(tenant_log: TenantLog) -> list[Checkpoint] | None:
    """What was published, by the file; none if nobody can read it."""
    try:
        return list((await tenant_log.published.in_file()).values())
    except PublishedDamaged:
        return None


def _readable(file: HeadFile) -> Head | None:
    try:
        return file.read()
    except Corrupt:
        return None


async def _set_aside(commits: Commits, position: int) -> str:
    """Copy the commits from ``position`` on into a file; its path, if there are any.

    They are about to be forgotten everywhere else: all of them are there on return, or none is cut.
    """
    parts = commits.parts
    end = await commits.end()
    if end <= position:
        return ""
    stamp = parts.now().replace(":", "").replace(".", "")
    path = parts.shared.heads / "aside" / f"{parts.tenant}-{position}-{stamp}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("xb") as file:
            try:
                async for data in _as_stored(commits, position, end):
                    await asyncio.to_thread(file.write, data)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            except BaseException:
                path.unlink()
                raise
        await asyncio.to_thread(flush_folder, path.parent)  # its name, too
    except OSError as error:
        raise Unavailable(
            "cannot start a new origin: what it leaves behind could not be copied",
            hint=f"make room for it in {path.parent}",
            internal=str(error),
        ) from error
    return str(path)


async def _as_stored(commits: Commits, position: int, end: int) -> AsyncIterator[bytes]:
    """The commits of ``[position, end)``, each behind its length, as they lie there: with no look
    at whether one is missing in between. ``FrameDamaged`` if none is found where the log says that
    there are some."""
    parts = commits.parts
    while position < end:
        found = await parts.shared.log.read(parts.principal, position, READ_COMMITS, READ_BYTES)
        if not found:
            raise missing(position)
        yield b"".join(len(each.frame).to_bytes(8, "big") + each.frame for each in found)
        position = found[-1].after
