"""What the command line says before something ends with what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict

from holdfast.identity.model import Derived
from holdfast.kernel.cli import print_json, say
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.http.paging import Page

if TYPE_CHECKING:
    from holdfast.kernel.http.client import ApiClient

MAKERS_ASKED = 50
"""Keys whose join tokens are looked up; those of more are not told."""


class JoinedBy(Struct, frozen=True, kw_only=True):
    """A join token, of what the coordinator tells of it: whether it is open, whom it admitted."""

    id: str
    admits: bool
    uses: int


class Ending(Derived, frozen=True, kw_only=True):
    """What would end, with the coordinator's part; ``join_tokens`` is null where that is not
    known."""

    join_tokens: list[JoinedBy] | None = None


async def find_ending(api: ApiClient, subject: str) -> tuple[Ending, str]:
    """What would end with a key or a person, and why the join tokens are not all known."""
    from holdfast.identity.client import IdentityClient

    found = await IdentityClient(api).find_derived(None, subject)
    return await _with_tokens(api, found, [subject, *(key.id for key in found.keys)])


async def _with_tokens(api: ApiClient, found: Derived, makers: list[str]) -> tuple[Ending, str]:
    """That, and the join tokens that ``makers`` made."""
    tokens: list[JoinedBy] = []
    unknown = f"only of {MAKERS_ASKED} keys they are known" if makers[MAKERS_ASKED:] else ""
    try:
        for maker in makers[:MAKERS_ASKED]:
            params: dict[str, Any] = {"maker": maker, "limit": 1000}
            page = await api.request(
                "GET", "/v1/workers/tokens", params=params, type=Page[JoinedBy]
            )
            tokens += page.items
    except HoldfastError as error:
        return Ending(**asdict(found)), error.detail
    return Ending(**asdict(found), join_tokens=tokens), unknown


def say_derived(found: Derived, verb: str = "ends") -> None:
    """What identity knows: keys and invitations that end, people who stay."""
    for key in found.keys:
        say(f"with it {verb} the key {key.name} ({key.id})")
    for link in found.invitations:
        say(f"with it {verb} the open invitation of {link.name} ({link.id})")
    for person in found.people:
        say(f"{person.name} ({person.id}) came by an invitation of theirs, and stays")


async def tell_ending(api: ApiClient, subject: str, json: bool, dry_run: bool) -> bool:
    """Say what will end too, and who stays; whether that was all that was asked for."""
    if json and not dry_run:
        return False
    found, unknown = await find_ending(api, subject)
    if json:
        print_json(found)
        return True
    _say_ending(found, unknown, dry_run)
    return dry_run


JOINING = "workers:write"
"""What it takes to make a join token, and for it to stand."""


async def tell_changing(
    api: ApiClient, subject: str, found: Derived, lost: list[str], json: bool, dry_run: bool
) -> None:
    """Say what ends when a person may do less: ``found`` of it, and of the join tokens those that
    stood by what they lost, and those of keys that end."""
    makers = [*([subject] if JOINING in lost else []), *(key.id for key in found.keys)]
    ending, unknown = await _with_tokens(api, found, makers)
    if not json:
        _say_ending(ending, unknown, dry_run)
    elif dry_run:
        print_json(ending)


def _say_ending(found: Ending, unknown: str, dry_run: bool) -> None:
    verb = "would end" if dry_run else "ends"
    say_derived(found, verb)
    tokens = found.join_tokens or []
    for token in tokens:
        if token.admits:
            say(f"with it {verb} the join token {token.id}")
        if token.uses:
            admitted = "1 worker" if token.uses == 1 else f"{token.uses} workers"
            say(f"the join token {token.id} admitted {admitted}: `holdfast worker revoke` ends one")
    if unknown:
        say(f"which join tokens {'would end' if dry_run else 'end'} with it: {unknown}")
    if dry_run and not (
        found.keys or found.invitations or unknown or any(t.admits for t in tokens)
    ):
        say("nothing else would end with it")
