"""The formats a page can be read in.

A format is a function ``read(content, spec, context) -> Iterator[RawRow]``: deterministic, bounded
by ``context.bounds``, with memory that does not grow with the page. The built-in ones are listed
here; a distribution adds its own under the entry-point group ``holdfast.formats``, and a profile
names it by ``type: plugin`` and ``name`` (``plugins.py``). A built-in format cannot be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, cast

from holdfast.collect.content import Content
from holdfast.collect.errors import MappingRefused
from holdfast.collect.formats import plugins
from holdfast.collect.model import RawRow, ReadContext
from holdfast.registry.source import Format, PluginFormat

Reader = Callable[[Content, Format, ReadContext], Iterator[RawRow]]

GROUP = plugins.GROUP

_BUILT_IN = {
    "json": ("holdfast.collect.formats.json", "read"),
    "ndjson": ("holdfast.collect.formats.json", "read_ndjson"),
    "geojson": ("holdfast.collect.formats.json", "read_geojson"),
    "csv": ("holdfast.collect.formats.csv", "read"),
    "xml": ("holdfast.collect.formats.xml", "read"),
    "feed": ("holdfast.collect.formats.xml", "read_feed"),
    "json-stat": ("holdfast.collect.formats.json_stat", "read"),
    "xlsx": ("holdfast.collect.formats.xlsx", "read"),
    "ods": ("holdfast.collect.formats.ods", "read"),
}


def format_type(spec: Format) -> str:
    """The name of a format as profiles write it."""
    return cast("str", cast("Any", spec).__struct_config__.tag)


def reader_of(spec: Format) -> Reader:
    """The reader of ``spec``; :class:`MappingRefused` names the known ones for an unknown one."""
    name = spec.name if isinstance(spec, PluginFormat) else format_type(spec)
    if name in _BUILT_IN and not isinstance(spec, PluginFormat):
        module, function = _BUILT_IN[name]
        return cast("Reader", getattr(import_module(module), function))
    entry = plugins.found(name) if name not in _BUILT_IN else None
    if entry is not None:
        return plugins.loaded(entry)
    known = sorted({*_BUILT_IN, *plugins.names()})
    raise MappingRefused(
        f"cannot read the format {name!r}: this build has no reader for it",
        hint="it reads " + ", ".join(known),
    )
