"""Where an incremental source continues. Pure.

A cursor is a moment (or, for sources that number their rows, a whole number). It is kept in one
spelling of ours and sent in the source's.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from holdfast.collect import paths, values
from holdfast.collect.errors import MappingRefused
from holdfast.kernel.clock import parse_timestamp
from holdfast.registry.model import Cursor
from holdfast.registry.parts import duration_seconds

VALUE = "{value}"
"""Where a template has the cursor."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CursorState:
    """The cursor of one run: what it asks for, and the greatest value it has seen.

    ``published`` is what the last published run ended at; what this run sees never moves it back.
    ``since`` (a day or a UTC time) is where a backfill begins instead; it asks for nothing earlier.
    """

    def __init__(
        self, cursor: Cursor, zone: tzinfo, published: str | None, *, since: str = ""
    ) -> None:
        self._cursor = cursor
        self._zone = zone
        self._get: Callable[[Any], Any] = (
            paths.getter(cursor.path) if cursor.path[0] in "$@" else paths.follow((cursor.path,))
        )
        self._greatest = _kept(published) if published else None
        self._asked = self._greatest
        self._since = _since(since, zone) if since else None

    def parameters(self) -> dict[str, str]:
        """The parameter of this run: where the last one ended, less the overlap.

        What stands in a template is never a text of the source's: a number, or a time that was read
        and is written anew, so that no value ends the quotes around it.
        """
        template = self._cursor.template or VALUE
        return {self._cursor.parameter: template.replace(VALUE, self.value())}

    def value(self) -> str:
        """Where this run begins, as the source writes it."""
        if self._since is not None:
            return self._spelled(self._since)
        if self._asked is None:
            return self._cursor.start
        overlap = self._cursor.overlap
        if isinstance(self._asked, int):
            return str(max(0, self._asked - _numbers(overlap)))
        return self._spelled(self._asked - _time(overlap))

    def _spelled(self, moment: datetime) -> str:
        match self._cursor.format:
            case "":
                return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            case "epoch-s":
                return str((moment - _EPOCH) // timedelta(seconds=1))
            case "epoch-ms":
                return str((moment - _EPOCH) // timedelta(milliseconds=1))
            case pattern:
                return moment.astimezone(self._zone).strftime(pattern)

    def observe(self, value: Any) -> None:
        """Take the cursor of a row into account; a row without one does not move it."""
        raw = self._get(value)
        if raw is None or raw == "" or isinstance(raw, bool | dict | list):
            return
        found = self._read(str(raw))
        if self._greatest is None:
            self._greatest = found
        elif isinstance(found, int) is not isinstance(self._greatest, int):
            raise MappingRefused(
                f"cannot use the cursor {self._cursor.path!r}: it holds numbers and times"
            )
        elif found > self._greatest:  # type: ignore[operator]
            self._greatest = found

    def _read(self, text: str) -> datetime | int:
        if not self._cursor.format and text.isascii() and text.isdigit() and len(text) <= 18:
            return int(text)
        try:
            return values.moment(text, self._cursor.format, self._zone)
        except ValueError as error:
            raise MappingRefused(
                f"cannot read the cursor {text[:60]!r}: it is not a time of this format"
            ) from error

    def result(self) -> str | None:
        """Where the next run continues; ``None`` if nothing was ever seen."""
        if self._greatest is None:
            return None
        if isinstance(self._greatest, int):
            return str(self._greatest)
        return values.moment_text(self._greatest)


def _numbers(overlap: str) -> int:
    if overlap.isdigit():
        return int(overlap)
    if duration_seconds(overlap):
        raise MappingRefused(
            f"cannot go back {overlap} from the cursor: it is a number, so cursor.overlap is a "
            'whole number too, such as "100"'
        )
    return 0


def _time(overlap: str) -> timedelta:
    if not overlap.isdigit():
        return timedelta(seconds=duration_seconds(overlap))
    if int(overlap):
        raise MappingRefused(
            f"cannot go back {overlap} from the cursor: it is a time, so cursor.overlap is one "
            "too, such as 1h"
        )
    return timedelta()


def _since(text: str, zone: tzinfo) -> datetime:
    if "T" in text:
        return parse_timestamp(text)
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def _kept(text: str) -> datetime | int:
    return int(text) if text.isdigit() else parse_timestamp(text)
