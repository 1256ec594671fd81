"""From a document to a profile, with everything that is wrong with it at once, look by look.

Three looks at one document: the bytes (``document.py``), the shape (``schema.py``), the sense
(``rules.py``); then what this build does not carry out (``supported.py``). Whatever passes comes
out in its one canonical form, so that what was checked, what is stored and what a drone reads is
the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from holdfast.kernel.errors import Problem
from holdfast.registry import rules
from holdfast.registry.document import Document, Place, dotted, read_document
from holdfast.registry.errors import refusal
from holdfast.registry.model import (
    GROUPS,
    Profile,
    canonical_profile,
    plain_profile,
    profile_digest,
    read_canonical,
)
from holdfast.registry.placeholders import placeholders
from holdfast.registry.schema import schema_problems
from holdfast.registry.supported import unsupported

PROBLEMS_MAX = 200

Check = Callable[[Profile], Iterable[Problem]]
"""A further look at a good profile, by a slice that knows more (whether its mapping compiles)."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What an examination found.

    ``profile`` and ``digest`` are there when ``problems`` is empty; ``unsupported`` names parts of
    a good profile that this build does not carry out. ``name`` is the name the document gives, as
    far as it can be read.
    """

    name: str = ""
    profile: Profile | None = None
    digest: str = ""
    problems: list[Problem] = field(default_factory=list)
    unsupported: list[Problem] = field(default_factory=list)

    def required(self) -> Profile:
        """The profile; raises :class:`ProfileInvalid` or :class:`ProfileUnsupported` with all that
        keeps it from being used."""
        if self.profile is None or self.problems or self.unsupported:
            raise refusal(self.name, self.problems, self.unsupported)
        return self.profile


def examine(
    source: bytes | Profile,
    *,
    media_type: str = "application/yaml",
    checks: Sequence[Check] = (),
    draft: bool = False,
) -> Examined:
    """Everything there is to say about a document, or about a profile built in code.

    A ``draft`` may say what drafts say of what they cannot know; it can be looked at so.
    Never raises for what is wrong with a profile; :class:`TooLarge` beyond 256 KiB.
    """
    document = (
        Document(plain=plain_profile(source))
        if isinstance(source, Profile)
        else read_document(source, media_type=media_type)
    )
    if document.problems and document.plain is None:
        return Examined(problems=document.problems)
    document.plain = _normalised(document.plain)
    name = document.plain.get("name") if isinstance(document.plain, dict) else None
    name = name if isinstance(name, str) else ""
    shape = schema_problems(document)
    found = [*document.problems, *(problem for _, problem in shape)]
    profile = _converted(document.plain, [place for place, _ in shape])
    lacking: list[Problem] = []
    if profile is not None:
        sense = [
            problem
            for problem in rules.problems(profile, _names(document.plain))
            if not _touches(problem.path, shape)
        ]
        found.extend(_with_lines(sense, document))
        if not draft:
            found.extend(_with_lines(placeholders(profile), document))
        lacking = _with_lines(
            (p for p in unsupported(profile) if not _touches(p.path, shape)), document
        )
        if not found and not lacking:
            further = (problem for check in checks for problem in check(profile))
            found.extend(_with_lines(further, document))
    if found or profile is None:
        return Examined(name=name, problems=_ordered(found), unsupported=lacking)
    profile = read_canonical(canonical_profile(profile))
    return Examined(name=name, profile=profile, digest=profile_digest(profile), unsupported=lacking)


def load_profile(
    data: bytes, *, media_type: str = "application/yaml", draft: bool = False
) -> Profile:
    """The profile in ``data``; raises with all that is wrong, or not built."""
    return examine(data, media_type=media_type, draft=draft).required()


def _ordered(problems: list[Problem]) -> list[Problem]:
    """In the order of the lines, each once, and not without end."""
    ordered = sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.path))
    if len(ordered) > PROBLEMS_MAX:
        more = Problem(path="", message=f"and {len(ordered) - PROBLEMS_MAX} more problems")
        return [*ordered[:PROBLEMS_MAX], more]
    return ordered


# --- numbers that are texts ---------------------------------------------------------------------


def _normalised(plain: Any) -> Any:
    """Exact decimals as texts where the model wants them; other numbers as JSON has them."""
    if not isinstance(plain, dict):
        return plain
    plain = copy.deepcopy(plain)
    expect = plain.get("expect")
    ranges = expect.get("ranges") if isinstance(expect, dict) else None
    for bounds in ranges.values() if isinstance(ranges, dict) else ():
        _decimals(bounds, "min", "max")
    for group in GROUPS:
        fields = plain.get(group)
        for entry in fields.values() if isinstance(fields, dict) else ():
            _decimals(entry, "multiplier")
    return _numbers(plain)


def _decimals(part: Any, *members: str) -> None:
    for member in members:
        value = part.get(member) if isinstance(part, dict) else None
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            part[member] = format(value, "f") if isinstance(value, Decimal) else str(value)


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


# --- looking further than the first fault -------------------------------------------------------

_PLACEHOLDERS: dict[str, Any] = {
    "version": 1,
    "name": "unnamed",
    "publisher": "unknown",
    "licence": "unknown",
    "key": ["period"],
}
_PLACEHOLDER_SOURCE: dict[str, Any] = {
    "url": "https://unknown.invalid/",
    "format": {"type": "json"},
}


def _converted(plain: Any, bad: Sequence[Place]) -> Profile | None:
    """The profile; where members are bad, what it is without them, so that the rest can be looked
    at in the same go. ``None`` where too little is left to say anything."""
    if not isinstance(plain, dict):
        return None
    if bad:
        plain = copy.deepcopy(plain)
        for place in sorted(bad, key=len, reverse=True):
            _remove(plain, place)
        for member, value in _PLACEHOLDERS.items():
            plain.setdefault(member, value)
        source = plain.setdefault("source", {})
        for member, value in _PLACEHOLDER_SOURCE.items():
            source.setdefault(member, value)
    try:
        return msgspec.convert(plain, Profile)
    except msgspec.ValidationError:
        if not bad:
            raise
        return None


def _remove(plain: Any, place: Place) -> None:
    for step in place[:-1]:
        try:
            plain = plain[step]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(plain, dict) and place:
        plain.pop(place[-1], None)
    elif isinstance(plain, list) and place and isinstance(place[-1], int):
        # A neighbour takes its place, so that the positions of the others stay right.
        plain[place[-1] : place[-1] + 1] = ["?"] if plain else []


def _names(plain: Any) -> rules.Names:
    """Every field the document names, right or not."""
    names = {
        f"{group}.{name}"
        for group in GROUPS
        if isinstance(plain.get(group), dict)
        for name in plain[group]
    }
    return rules.Names(frozenset(names | ({"period"} if plain.get("period") else set())))


def _touches(path: str, shape: Sequence[tuple[Place, Problem]]) -> bool:
    """Whether a complaint is about something the schema already complained of."""
    for place, _ in shape:
        bad = dotted(place)
        if path == bad or path.startswith((f"{bad}.", f"{bad}[")):
            return True
        if path and bad.startswith((f"{path}.", f"{path}[")):
            return True
    return False


def _with_lines(problems: Iterable[Problem], document: Document) -> list[Problem]:
    lines = {dotted(place): line for place, line in document.lines.items()}
    return [
        msgspec.structs.replace(problem, line=_line(problem.path, lines)) for problem in problems
    ]


def _line(path: str, lines: dict[str, int]) -> int:
    """The line of ``path``, or of the nearest thing around it; 0 where there are no lines."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path, 0)
