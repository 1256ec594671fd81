"""What the value of a setting may be.

Each function takes the text that was given, or makes a function that does, and raises
``ValueError`` that says what is needed instead.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Convert = Callable[[str], Any]


def text(value: str) -> str:
    """Any text, without the blanks around it."""
    return value.strip()


def secret(value: str) -> str:
    """Text that is there: one that got lost on its way is not taken for none."""
    found = text(value)
    if not found:
        raise ValueError("it is empty: hand it in, or do not name it")
    return found


def path(value: str) -> Path:
    """A file or a folder; ``~`` is the home of whoever starts us."""
    if not value.strip():
        raise ValueError("a path is needed")
    return Path(value).expanduser()


def flag(value: str) -> bool:
    """Yes or no, in the usual words."""
    known = {"1": True, "true": True, "yes": True, "on": True}
    known |= {"0": False, "false": False, "no": False, "off": False}
    try:
        return known[value.strip().lower()]
    except KeyError:
        raise ValueError("true or false is needed") from None


def whole(low: int, high: int) -> Convert:
    """A whole number within these bounds."""

    def convert(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high} is needed")
        return number

    return convert


def seconds(low: float, high: float) -> Convert:
    """A duration such as ``30s`` within these bounds; a bare number is seconds."""

    def convert(value: str) -> float:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", value.strip())
        if not found:
            raise ValueError("a duration such as 30s or 5m is needed")
        factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2] or "s"]
        seconds = float(found[1]) * factor
        if not low <= seconds <= high:
            raise ValueError(f"from {_plain(low)} to {_plain(high)} seconds is needed")
        return seconds

    return convert


def _plain(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def one_of(*choices: str) -> Convert:
    """One of these words, in small letters."""

    def convert(value: str) -> str:
        if value.strip().lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)} is needed")
        return value.strip().lower()

    return convert


def listed(value: str) -> tuple[str, ...]:
    """Texts with commas between."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _each(pattern: str, needed: str) -> Convert:
    """Texts with commas between, each of this form."""

    def convert(value: str) -> tuple[str, ...]:
        found = listed(value)
        for each in found:
            if not re.fullmatch(pattern, each):
                raise ValueError(f"{each!r} is none: {needed}")
        return found

    return convert


_LABELS = r"[^\s@:/,]+(\.[^\s@:/,]+)*"
emails = _each(
    rf"[^\s@,]+@{_LABELS}", "addresses are needed, such as ada@example.org, with commas between"
)
domains = _each(_LABELS, "domains are needed, such as example.org, with commas between")
hosts = _each(
    r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f:]+|[A-Za-z0-9._-]+)(:[0-9]{1,5})?",
    "names are needed as browsers send them, such as data.example.org, without https://",
)


def numbers(low: int, high: int) -> Convert:
    """``name=number,name=number``; names in lower case."""
    one = whole(low, high)

    def convert(value: str) -> tuple[str, ...]:
        found: dict[str, int] = {}
        for part in listed(value):
            name, equals, number = part.partition("=")
            if not equals or not name.strip() or name.strip().lower() in found:
                raise ValueError("name=number is needed, each name once, separated by commas")
            found[name.strip().lower()] = one(number)
        return tuple(f"{name}={number}" for name, number in found.items())

    return convert


def address(value: str) -> str:
    """``host:port``; a bare port is not accepted, since it would hide where we listen."""
    host, separator, port = value.strip().rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("host:port is needed, such as 127.0.0.1:8090")
    return f"{host}:{int(port)}"


def url(*schemes: str) -> Convert:
    """A URL with one of these schemes."""

    def convert(value: str) -> str:
        scheme = value.split("://", 1)[0] if "://" in value else ""
        if scheme not in schemes:
            raise ValueError(
                f"a URL is needed with one of: {', '.join(f'{s}://' for s in schemes)}"
            )
        return value.rstrip("/") if scheme.startswith("http") else value

    return convert


def networks(value: str) -> tuple[str, ...]:
    """Networks, or single addresses."""
    for part in listed(value):
        ipaddress.ip_network(part)
    return listed(value)


def origins(value: str) -> tuple[str, ...]:
    """Origins of other sites; ``none`` is nobody's."""
    if value.strip().lower() == "none":
        return ()
    found = tuple(part.lower().rstrip("/") for part in listed(value))
    for each in found:
        if each != "*" and not re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d+)?", each):
            raise ValueError("origins are needed, such as https://app.example.org, or *")
    return found


def guide_level(value: str) -> str:
    """A level of the guides, which have more of them, and other names."""
    known = {"trace": "debug", "warn": "warning"}
    level: str = one_of("debug", "info", "warning", "error")(known.get(value.lower(), value))
    return level


def auth_mode(value: str) -> str:
    """Guide 3's word for who is let in."""
    chosen: str = one_of("none", "jwt", "apikey", "both")(value)
    return chosen


def origin(value: str) -> str:
    """A name that may stand in a signed note."""
    if value.strip() and not re.fullmatch(r"[A-Za-z0-9._/-]{1,200}", value.strip()):
        raise ValueError("letters, digits, dots, dashes and slashes, such as example.org/ledger")
    return value.strip().rstrip("/")
