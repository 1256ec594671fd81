"""What a draft cannot know and leaves to a person, so that nothing is published with it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from holdfast.kernel.errors import Problem
from holdfast.registry.model import Profile, as_licence

PUBLISHER = "Who publishes the data"
LICENCE = "The terms it is given under"
HOST = "address.invalid"
"""Where the file lies that a draft was made from when nobody said it: a name that nobody has."""


def placeholders(profile: Profile) -> Iterator[Problem]:
    """Each member that still says what a draft puts there."""
    if profile.publisher == PUBLISHER:
        yield _left("publisher", "name who publishes the data")
    if as_licence(profile.licence).name == LICENCE:
        yield _left("licence", "name the terms under which the publisher gives the data")
    if _host(profile.source.url) == HOST:
        yield _left("source.url", "write the address that the data comes from")


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # no address at all, which a rule of its own says
        return None


def _left(member: str, hint: str) -> Problem:
    return Problem(member, "this is the draft's placeholder still", hint)
