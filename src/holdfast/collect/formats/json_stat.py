"""JSON-stat 2.0: a cube whose cells become records, one after the other.

The dimensions are read first, in a walk of their own; then the values are streamed. Which
categories a cell has follows from its place, in row-major order. The dimensions and the status
marks are held, the values are not.

Where the values are given by their places, a cell may have a mark and no value: it became
confidential, say. It is a cell that was said something about, and comes behind the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NoReturn, cast

from holdfast.collect import paths
from holdfast.collect.content import Content
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.formats.json import Document
from holdfast.collect.model import Bounds, RawRow, ReadContext
from holdfast.registry.source import Format, JsonStatFormat

CELLS_MAX = 100_000_000
OWN_COLUMNS = ("value", "status")
LABEL = ".label"

_HEAD = ("version", "class", "id", "size", "dimension", "role", "status")


def read(content: Content, spec: Format, context: ReadContext) -> Iterator[RawRow]:
    """The cells of the dataset that it gives a value, a null or a mark of their own for.

    ``position`` is the cell's own place in the cube. Raises :class:`ParseFailed` for what is no
    dataset of version 2, or contradicts itself.
    """
    assert isinstance(spec, JsonStatFormat)
    outside = [_outside(path) for path in context.enclosing]
    document = Document(content, ReadContext(bounds=context.bounds))
    head = {
        key[0] if len(key) == 1 else key: value
        for key, value in document.collect(
            tuple(dict.fromkeys([*((name,) for name in _HEAD), *outside]))
        ).items()
    }
    cube = _Cube(head, context.bounds)
    enclosing = tuple([head.get(key[0] if len(key) == 1 else key) for key in outside])
    seen, listed = -1, False
    marked: set[int] | None = None
    for name, value, size in document.elements("$.value[*]"):
        if name is None:
            place, listed = seen + 1, True
        elif not name.isascii() or not name.isdigit() or len(name) > 15:
            _refuse(f"{name[:40]!r} is no place of a value")
        else:
            place = int(name)
        if not listed:
            marked = cube.marked() if marked is None else marked
            marked.discard(place)
        seen = place
        yield RawRow(place, cube.cell(place, value), enclosing, size=size + 32)
    if listed and seen + 1 != cube.cells:
        _refuse(f"{seen + 1} values are given for {cube.cells} cells")
    if not listed:
        for place in sorted(cube.marked() if marked is None else marked):
            yield RawRow(place, cube.cell(place, None), enclosing, size=32)


def _outside(path: str) -> tuple[str | int, ...]:
    found = paths.singular(path[1:]) if path.startswith("$$") else None
    if not found:
        raise MappingRefused(
            f"cannot use the path {path!r}: a dataset has $$ paths of names and indexes only"
        )
    return found


def _refuse(reason: str, hint: str = "") -> NoReturn:
    raise ParseFailed(f"cannot read JSON-stat: {reason}", hint=hint)


class _Cube:
    """The dimensions of a dataset, and what a cell at a place is about."""

    def __init__(self, head: dict[Any, Any], bounds: Bounds) -> None:
        _check_kind(head)
        names = head.get("id")
        sizes = head.get("size")
        dimensions = head.get("dimension")
        if not (_all(names, str) and _all(sizes, int) and isinstance(dimensions, dict)):
            _refuse("id, size and dimension do not describe a cube")
        self._names = cast("list[str]", names)
        self._sizes = cast("list[int]", sizes)
        if len(self._names) != len(self._sizes) or len(set(self._names)) != len(self._names):
            _refuse("id and size do not fit each other")
        if len(self._names) > bounds.columns_max:
            raise BoundReached(
                f"cannot read JSON-stat: more than {bounds.columns_max} dimensions", bound="columns"
            )
        taken = set(OWN_COLUMNS) & {*self._names, *(name + LABEL for name in self._names)}
        if taken:
            _refuse(f"a dimension is called {min(taken)!r}, which is a column's name already")
        self.cells = prod(self._sizes)
        if min(self._sizes, default=1) < 0 or self.cells > CELLS_MAX:
            raise BoundReached(
                f"cannot read JSON-stat: the cube has more than {CELLS_MAX} cells", bound="cells"
            )
        self._categories = [
            _categories(name, size, dimensions.get(name))
            for name, size in zip(self._names, self._sizes, strict=True)
        ]
        self._units = [_units(dimensions[name]) for name in self._names]
        self._status = head.get("status")
        if isinstance(self._status, list) and len(self._status) != self.cells:
            _refuse(f"{len(self._status)} status marks stand beside {self.cells} cells")

    def cell(self, place: int, value: Any) -> dict[str, Any]:
        """The columns of the cell at ``place``."""
        if place >= self.cells:
            _refuse(f"there is a value or a mark beyond the {self.cells} cells of the cube")
        found: dict[str, Any] = {}
        unit = None
        rest, span = place, self.cells
        for name, size, categories, units in zip(
            self._names, self._sizes, self._categories, self._units, strict=True
        ):
            span //= size
            index, rest = divmod(rest, span)
            code, label = categories[index]
            found[name] = code
            found[name + LABEL] = label
            unit = units.get(code, unit)
        found["value"] = value
        found["status"] = self._status_of(place)
        found.setdefault("unit", unit)
        return found

    def marked(self) -> set[int]:
        """The places of the cells that have a mark of their own."""
        if isinstance(self._status, list):
            return {place for place, mark in enumerate(self._status) if mark not in (None, "")}
        if not isinstance(self._status, dict):
            return set()
        for name in self._status:
            if not name.isascii() or not name.isdigit() or len(name) > 15:
                _refuse(f"{name[:40]!r} is no place of a status mark")
        return {int(name) for name, mark in self._status.items() if mark not in (None, "")}

    def _status_of(self, place: int) -> Any:
        status = self._status
        if isinstance(status, dict):
            return status.get(str(place))
        return status[place] if isinstance(status, list) else status


def _check_kind(head: dict[Any, Any]) -> None:
    kind = head.get("class", "dataset")
    if "dimension" not in head:
        _refuse(
            "there is no dimension at the top",
            "this may be JSON-stat 1 or a table of another form: ask the source for json-stat2",
        )
    if kind != "dataset":
        _refuse(f"this is a {str(kind)[:40]}, not a dataset", "ask for one dataset of it")
    if "id" not in head:
        _refuse("the dataset names no dimensions (id)", "ask the source for json-stat2")


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, kind) and not isinstance(one, bool) for one in value
    )


def _categories(name: str, size: int, dimension: Any) -> Sequence[tuple[str, str]]:
    """The categories of a dimension in their order, each a code and a label."""
    category = dimension.get("category") if isinstance(dimension, dict) else None
    if not isinstance(category, dict):
        _refuse(f"the dimension {name[:60]!r} has no categories")
    index, label = category.get("index"), category.get("label")
    labels = label if isinstance(label, dict) else {}
    if isinstance(index, list):
        codes = index
    elif isinstance(index, dict):
        if sorted(map(str, index.values())) != sorted(map(str, range(len(index)))):
            _refuse(f"the categories of {name[:60]!r} are not numbered from 0 on")
        codes = sorted(index, key=lambda code: int(index[code]))
    else:  # one category needs no index
        codes = list(labels)
    if len(codes) != size or not all(isinstance(code, str) for code in codes):
        _refuse(f"the dimension {name[:60]!r} has {len(codes)} categories and the size {size}")
    if len(set(codes)) != len(codes):
        _refuse(f"the dimension {name[:60]!r} repeats a category")
    return [(code, str(labels.get(code, code))) for code in codes]


def _units(dimension: dict[str, Any]) -> dict[str, str]:
    """The unit of each category that states one."""
    found = dimension["category"].get("unit")
    if not isinstance(found, dict):
        return {}
    return {
        code: str(unit.get("label") or unit.get("base") or unit.get("symbol") or "")
        for code, unit in found.items()
        if isinstance(unit, dict)
    }
