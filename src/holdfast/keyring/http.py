"""Keys and subjects over HTTP: parse, call the service, map the answer.

A subject travels in bodies only: never in an address, which is logged.
"""

from __future__ import annotations

from typing import Any

from holdfast.kernel.http import get, post
from holdfast.kernel.principal import Permission, Principal, operators_only
from holdfast.keyring.keyring import Keyring
from holdfast.keyring.model import (
    Checked,
    Erased,
    EraseRequest,
    KeyringInfo,
    KeysHandled,
    LookRequest,
    Placed,
    RetainRequest,
    Rewrapped,
    Rotation,
    Standing,
    SubjectRequest,
    Subjects,
)
from holdfast.keyring.noting import KeyNotes
from holdfast.keyring.ports import People


def key_handlers(keyring: Keyring, notes: KeyNotes) -> list[Any]:
    """The routes of the operator's key commands."""

    @get("/v1/keys", permission=Permission.KEYS_READ)
    async def list_(principal: Principal) -> KeyringInfo:
        """How many keys there are, of what kind, under which versions; never a key."""
        operators_only(principal, "see the keys of every tenant")
        return await keyring.apart(keyring.describe)

    @post("/v1/keys/check", permission=Permission.KEYS_READ, status=200)
    async def check(principal: Principal) -> Checked:
        """Open every wrapped key, and name those that do not open."""
        operators_only(principal, "check the keys of every tenant")
        return await keyring.apart(keyring.check)

    @post("/v1/keys/rotate", permission=Permission.KEYS_WRITE, status=200)
    async def rotate(principal: Principal, master: bool = False) -> Rotation:
        """A new version of the tenant's keys, or of the master key; then rewrap."""
        if master:
            operators_only(principal, "rotate the master key")
            made = await keyring.apart(keyring.rotate_master)
        else:
            made = await keyring.apart(keyring.rotate_tenant, principal.tenant)
        await notes.rotated(principal, made)
        return made

    @post("/v1/keys/handled", permission=Permission.KEYS_WRITE, status=204)
    async def note_handled(principal: Principal, data: KeysHandled) -> None:
        """Bring on the record that keys are exported, or were put back; no key is told here."""
        operators_only(principal, "say what was done with the keys")
        await notes.handled(principal, data)

    @post("/v1/keys/rewrap", permission=Permission.KEYS_WRITE, status=200)
    async def rewrap(principal: Principal) -> Rewrapped:
        """Wrap the next few hundred keys anew; repeat until none is pending."""
        operators_only(principal, "wrap the keys of every tenant anew")
        return await keyring.apart(keyring.rewrap)

    return [list_, check, rotate, note_handled, rewrap]


def subject_handlers(service: People) -> list[Any]:
    """The routes about people whose data is kept."""

    @get("/v1/subjects", permission=Permission.SUBJECTS_READ)
    async def list_(principal: Principal) -> Subjects:
        """Holds, retentions and erasures, by keyed names."""
        return await service.list(principal)

    @post("/v1/subjects/look", permission=Permission.SUBJECTS_WRITE, status=200)
    async def look(principal: Principal, data: LookRequest) -> list[Standing]:
        """How each keyring stands to the subject: known, held, retained, erased. Changes nothing.

        Only who may erase may ask: otherwise anybody could try who is known here.
        """
        return list(await service.look(principal, data))

    @post("/v1/subjects/erase", permission=Permission.SUBJECTS_WRITE, status=200)
    async def erase(principal: Principal, data: EraseRequest) -> Erased:
        """Destroy the subject's keys, and everything about it that keys do not cover.

        A name that nobody ever heard of is refused (`subject-unknown`), unless `even_unknown`.
        Where roles have keyrings of their own it reaches all; `erased-in-part` says which it did
        not, and repeating it finishes it.
        """
        return await service.erase(principal, data)

    @post("/v1/subjects/hold", permission=Permission.SUBJECTS_WRITE, status=200)
    async def hold(principal: Principal, data: SubjectRequest) -> Placed:
        """Place a legal hold: the subject cannot be erased until it is released.

        `known` is false where nobody of that name was ever heard of: it waits for them.
        """
        return await service.hold(principal, data)

    @post("/v1/subjects/release", permission=Permission.SUBJECTS_WRITE, status=200)
    async def release(principal: Principal, data: SubjectRequest) -> Subjects:
        """Release the legal hold on a subject."""
        return await service.release(principal, data)

    @post("/v1/subjects/retain", permission=Permission.SUBJECTS_WRITE, status=200)
    async def retain(principal: Principal, data: RetainRequest) -> Placed:
        """Keep the subject's data until a date; a date may be moved on, never back."""
        return await service.retain(principal, data)

    return [list_, look, erase, hold, release, retain]
