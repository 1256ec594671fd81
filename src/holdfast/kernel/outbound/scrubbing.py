"""Taking a request's secrets out of what is said of it, however whoever echoes them spells them.

The text is read in several ways: as it stands, and as addresses, pages and JSON are read, each by
itself and all of them at once. What reads as a secret in any of these goes. That takes time in
proportion to the text, whatever is in it.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator

from holdfast.kernel.outbound.model import OutboundRequest

LENGTH_MIN = 4
"""Shorter is no secret: replacing that would only garble the message."""

_PERCENT = r"(?:%[0-9A-Fa-f]{2})+"
_PLUS = r"\+"
_ENTITY = r"&(?:#[0-9]{1,9}|#[xX][0-9A-Fa-f]{1,8}|[A-Za-z][A-Za-z0-9]{1,31});?"
_ESCAPE = (
    r"\\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}"
    r'|\\["\\/bfnrt]'
)
_READINGS = tuple(
    re.compile("|".join(ways))
    for ways in (
        (_PERCENT,),
        (_PERCENT, _PLUS),
        (_ENTITY,),
        (_ESCAPE,),
        (_PERCENT, _ENTITY, _ESCAPE),
        (_PERCENT, _PLUS, _ENTITY, _ESCAPE),
    )
)


def scrub(text: str, request: OutboundRequest) -> str:
    """``text`` without the request's secrets, in the clear or as addresses, pages and JSON spell
    them.

    Of a header the value, what follows its scheme, and the user and password that are in that.
    """
    secrets = {each for each in _secrets(request) if len(each) >= LENGTH_MIN}
    if not secrets:
        return text
    spans = sorted(_found(text, secrets))
    kept, at = [], 0
    for start, end in spans:
        if start >= at:
            kept.append(text[at:start])
            kept.append("***")
        at = max(at, end)
    return "".join([*kept, text[at:]])


def _found(text: str, secrets: set[str]) -> Iterator[tuple[int, int]]:
    """Where in the text one of them stands, in any reading."""
    plain = range(len(text) + 1)
    readings = [(text, plain), *(_read(text, way) for way in _READINGS if way.search(text))]
    for meant, places in readings:
        for secret in secrets:
            at = meant.find(secret)
            while at >= 0:
                yield places[at], places[at + len(secret)]
                at = meant.find(secret, at + 1)


def _read(text: str, way: re.Pattern[str]) -> tuple[str, list[int]]:
    """What the text means, and where in it each character of that begins; then where it ends."""
    meant: list[str] = []
    places: list[int] = []
    at = 0
    for match in way.finditer(text):
        meant.append(text[at : match.start()])
        places += range(at, match.start())
        place = match.start()
        for char, length in _characters(match[0]):
            meant.append(char)
            places.append(place)
            place += length
        at = match.end()
    meant.append(text[at:])
    places += range(at, len(text) + 1)
    return "".join(meant), places


def _characters(spelled: str) -> Iterator[tuple[str, int]]:
    """The characters that are spelled so, each with how much of the spelling is its own."""
    if spelled == "+":
        yield " ", 1
    elif spelled.startswith("%"):
        data = bytes.fromhex(spelled.replace("%", ""))
        for char in data.decode("utf-8", "surrogateescape"):
            yield char, 3 * len(char.encode("utf-8", "surrogateescape"))
    else:
        char = json.loads(f'"{spelled}"') if spelled[0] == "\\" else html.unescape(spelled)
        if len(char) == 1:
            yield char, len(spelled)
        else:  # no name that pages know
            yield from ((each, 1) for each in spelled)


def _secrets(request: OutboundRequest) -> Iterator[str]:
    yield from request.secrets
    for value in request.secret_headers.values():
        scheme, _, credential = value.rpartition(" ")
        yield value
        yield credential
        if scheme.casefold() == "basic":
            yield from _basic(credential)


def _basic(credential: str) -> Iterator[str]:
    """What is in the credential of a Basic header: the two together, and the password."""
    try:
        both = base64.b64decode(credential, validate=True).decode()
    except ValueError:  # not base64, or not UTF-8: then it is echoed as it was sent, if at all
        return
    yield both
    yield both.partition(":")[2]
