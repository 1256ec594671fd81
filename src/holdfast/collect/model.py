"""What parsing hands to mapping. Frozen types and bounds, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

MEBIBYTE = 1024 * 1024


class Number(str):
    """A number of the source as it was written (``2.10``, ``1e-7``): never a binary float."""

    __slots__ = ()


class Formula(str):
    """A cell's formula whose result the file does not hold: no value, and not a missing one."""

    __slots__ = ()


class RawRow(Struct, frozen=True, gc=False):
    """One record of the source, parsed and not yet mapped.

    ``position`` counts from 0 within one page. ``value`` is an object (a dict), for some JSON
    sources an array or a scalar. ``enclosing`` holds the values of the profile's ``$$`` paths for
    this row, in the order in which the read was asked for them. ``problem`` is why this row can be
    no record (it has too few cells), and makes it a reject. ``size`` is about how many characters
    the row took.
    """

    position: int
    value: Any
    enclosing: tuple[Any, ...] = ()
    problem: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a parser may be made to do by bytes from outside. Reaching one names it.

    ``content_bytes_max`` is after decompression; ``ratio_max`` applies beyond ``ratio_floor_bytes``
    so that a small, very regular file is not mistaken for a bomb.
    """

    content_bytes_max: int = 2 * 1024 * MEBIBYTE
    record_bytes_max: int = 4 * MEBIBYTE
    columns_max: int = 16_384
    depth_max: int = 64
    digits_max: int = 400
    ratio_max: int = 200
    ratio_floor_bytes: int = 16 * MEBIBYTE


def _nothing() -> None:
    """Nobody asks."""


@dataclass(frozen=True, slots=True)
class ReadContext:
    """What a format is told beside its own part of the profile."""

    bounds: Bounds = field(default_factory=Bounds)
    enclosing: tuple[str, ...] = ()
    """The ``$$`` paths whose values each row must carry."""
    columns: tuple[str, ...] = ()
    """The columns of a table that are read by name: each must be there, and once."""
    numbered: bool = False
    """Whether all columns of a repeated name have a number, the first one too."""
    paged: bool = False
    """Whether this is one page of several: what stands above its first row may be on another."""
    left_out: Callable[[], None] = _nothing
    """Called for each row of the source that the profile leaves out (``skip_rows``): the source
    counts such a row, and where the next page begins goes by what the source sent."""
