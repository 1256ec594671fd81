"""What the source's own rows look like, column by column, those too that no field reads.

A sample is enough: the first rows, and then every so-manieth. Values are looked at and forgotten;
only counts are kept. The aggregator compares them with the last good run's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from holdfast.collect.model import Number
from holdfast.records.model import COLUMNS_MAX, SourceColumn
from holdfast.records.shape import kind_of

FIRST_ROWS = 200
STRIDE = 97
"""After the first rows every 97th is looked at: a number that no page size is a multiple of."""
DEPTH_MAX = 3
NAME_MAX = 200


class Columns:
    """Counts what a run's rows hold. Use from one thread."""

    def __init__(self) -> None:
        self._rows = 0
        self._looked = 0
        self._filled: Counter[str] = Counter()
        self._kinds: dict[str, Counter[str]] = {}

    def observe(self, value: Any) -> None:
        """Look at a row, if it is its turn."""
        self._rows += 1
        if self._rows > FIRST_ROWS and self._rows % STRIDE:
            return
        if isinstance(value, dict):
            leaves = _leaves(value, "", DEPTH_MAX)
        elif hasattr(value, "columns"):  # an element of XML
            leaves = ((name[:NAME_MAX], found) for name, found in value.columns())
        else:
            return
        self._looked += 1
        for name, found in dict(leaves).items():
            if name not in self._kinds:
                if len(self._kinds) >= COLUMNS_MAX:
                    continue
                self._kinds[name] = Counter()
            if found is None or found == "":
                continue
            self._filled[name] += 1
            self._kinds[name][_kind(found)] += 1

    def seen(self) -> list[SourceColumn]:
        """The columns in the order in which they came."""
        return [
            SourceColumn(
                name=name,
                kind=kinds.most_common(1)[0][0] if kinds else "",
                looked=self._looked,
                filled=self._filled[name],
            )
            for name, kinds in self._kinds.items()
        ]


def _leaves(value: dict[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, found in value.items():
        name = f"{prefix}{key}"[:NAME_MAX]
        if isinstance(found, dict) and depth > 1:
            yield from _leaves(found, f"{name}.", depth - 1)
        else:
            yield name, found


def _kind(value: Any) -> str:
    if isinstance(value, Number):
        return "number"
    if isinstance(value, list):
        return "array"
    if isinstance(value, dict):
        return "object"
    if isinstance(value, str | bool | int):
        return kind_of(value)
    return "other"
