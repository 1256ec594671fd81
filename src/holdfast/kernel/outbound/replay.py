"""Recorded sources instead of live ones: an operator's map from original to replay addresses.

The program behaves as if it had asked the original: reports, records and messages name the
original address, and everything fetched this way is marked *replayed*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from holdfast.kernel.errors import Invalid
from holdfast.kernel.outbound.address import Target, parse_target


@dataclass(frozen=True, slots=True)
class _Entry:
    original: Target
    replay: Target


class ReplayMap:
    """Original address (or the beginning of one) → replay address.

    An entry matches an address of the same scheme, host and port whose path is the entry's or lies
    below it, and whose query holds the parameters of the entry's. The longest path wins, then the
    most parameters. What the entry does not say is carried over: the rest of the path, and the
    whole query (so pages are asked for as at the original). With ``only``, an address that no
    entry matches is refused instead of fetched live.
    """

    def __init__(self, entries: Mapping[str, str] | None = None, *, only: bool = False) -> None:
        pairs = [_Entry(parse_target(o), parse_target(r)) for o, r in (entries or {}).items()]
        self._entries = sorted(
            pairs, key=lambda e: (-len(e.original.path), -len(parse_qsl(e.original.query)))
        )
        self.only = only

    @classmethod
    def load(cls, path: Path) -> ReplayMap:
        """The map in ``path``: JSON or YAML, ``{original: replay}`` or ``{only, map}``."""
        import yaml  # of no use to a drone that fetches live

        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Invalid(f"cannot read the replay map {path}: {error}") from error
        return cls.from_data(data, subject=str(path))

    @classmethod
    def from_data(cls, data: Any, *, subject: str = "given") -> ReplayMap:
        """The map that plain ``data`` holds; :class:`Invalid` if it has another form."""
        only = False
        if isinstance(data, dict) and isinstance(data.get("map"), dict):
            if unknown := set(data) - {"map", "only"}:
                raise Invalid(f"cannot use the replay map {subject}: unknown {sorted(unknown)}")
            only, data = data.get("only", False), data["map"]
        if not isinstance(only, bool) or not isinstance(data, dict):
            raise Invalid(f"cannot use the replay map {subject}: it must map address to address")
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in data.items()):
            raise Invalid(f"cannot use the replay map {subject}: it must map address to address")
        return cls(data, only=only)

    def __bool__(self) -> bool:
        return bool(self._entries) or self.only

    def find(self, target: Target) -> Target | None:
        """Where ``target`` is replayed from, or None if it is not."""
        for entry in self._entries:
            if _matches(entry.original, target):
                return _carried_over(entry, target)
        return None

    def original(self, target: Target) -> Target | None:
        """The original address that ``target``, an address of a replay, stands for."""
        # The entry that says least about the query: what was asked for comes from ``target``.
        for entry in sorted(
            self._entries, key=lambda e: (-len(e.replay.path), len(parse_qsl(e.original.query)))
        ):
            if _matches(entry.replay, target):
                return _carried_over(_Entry(entry.replay, entry.original), target)
        return None


def _matches(pattern: Target, target: Target) -> bool:
    if pattern.origin != target.origin or not _covers(pattern.path, target.path):
        return False
    if not pattern.query:
        return True
    asked = parse_qsl(target.query, keep_blank_values=True)
    return all(pair in asked for pair in parse_qsl(pattern.query, keep_blank_values=True))


def _covers(prefix: str, path: str) -> bool:
    if path == prefix:
        return True
    return path.startswith(prefix if prefix.endswith("/") else f"{prefix}/")


def _carried_over(entry: _Entry, target: Target) -> Target:
    rest = target.path[len(entry.original.path) :]
    base = entry.replay
    path = base.path.rstrip("/") + "/" + rest.lstrip("/") if rest else base.path
    query = target.query
    if base.query:
        own = [part for part in base.query.split("&") if part]
        query = "&".join([*own, *(part for part in query.split("&") if part and part not in own)])
    return Target(base.scheme, base.host, base.port, path, query)
