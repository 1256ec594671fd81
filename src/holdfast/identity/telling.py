"""What the command line says before something ends with what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.kernel.cli import print_json, say

if TYPE_CHECKING:
    from holdfast.identity.model import Derived


def tell_ending(found: Derived, json: bool, dry_run: bool) -> bool:
    """Say what will end too, and who stays; whether that was all that was asked for."""
    if dry_run and json:
        print_json(found)
        return True
    if not json:
        verb = "would end" if dry_run else "ends"
        for key in found.keys:
            say(f"with it {verb} the key {key.name} ({key.id})")
        for link in found.invitations:
            say(f"with it {verb} the open invitation of {link.name} ({link.id})")
        for person in found.people:
            say(f"{person.name} ({person.id}) came by an invitation of theirs, and stays")
        if dry_run and not (found.keys or found.invitations):
            say("nothing else would end with it")
    return dry_run
