"""A draft written down: YAML for a person to correct, with what was seen as comments."""

from __future__ import annotations

import re
from typing import Any

from holdfast.collect.draft_plan import FieldPlan
from holdfast.collect.recognised import Plain
from holdfast.collect.values import printable
from holdfast.registry.document import write_document
from holdfast.registry.placeholders import LICENCE, PUBLISHER


def draft_document(
    name: str, url: str, source: Plain, plan: FieldPlan, notes: list[str], records: int
) -> str:
    """The document of a draft that gave ``records`` records."""
    lines = [
        f"# A first draft, from {records} records that the source sent. Say what they mean, then:",
        f"#   holdfast profile preview {name}.yaml     shows the records, keeps nothing",
        f"#   holdfast profile validate {name}.yaml    lists everything that is wrong",
        f"#   holdfast profile publish {name}.yaml     lets it run",
        *(f"# {note}" for note in notes),
        "version: 1",
        _member("name", name),
        "# title: One line for people",
        _member("publisher", PUBLISHER),
        _member("licence", LICENCE),
        "source:",
        _indented(_member("url", url)),
        _indented("format: " + _flow(source["format"])),
    ]
    if "pagination" in source:
        lines.append(_indented("pagination: " + _flow(source["pagination"])))
    if "member" in source:
        lines.append(_indented(_member("member", source["member"])))
    if source["format"]["type"] == "feed":
        lines.append("mode: append  # a feed forgets: what is gone from it stays true")
    else:
        lines.append(
            "mode: snapshot  # a complete run is the whole truth; append: what is gone stays true"
        )
    lines.append(f"key: {_flow(plan.key)}")
    if plan.nulls != [""]:
        lines.append(f"nulls: {_flow(plan.nulls)}")
    if plan.spread:
        lines.append("unpivot: " + _flow(plan.spread))
    for group, entries in plan.groups.items():
        if entries:
            lines.append(f"{group}:")
            lines += [_field_line(field_, entry, plan, group) for field_, entry in entries.items()]
    if plan.period:
        lines.append("period:")
        lines += [_indented(f"{member}: {_flow(value)}") for member, value in plan.period.items()]
    lines += [
        *([f"max_rejects: {len(plan.apart)}"] if plan.apart else []),
        "# schedule: {every: 1d}  # without one it runs when asked",
        "expect:",
        f"  min_records: {max(1, records // 2)}  # a run that gives less is not published",
    ]
    return "\n".join(lines) + "\n"


def _field_line(name: str, entry: Plain, plan: FieldPlan, group: str) -> str:
    seen = ", ".join(printable(sample, 30) for sample in plan.samples.get(name, ())[:3])
    shown = dict(entry)
    if group == "measures":
        shown["unit"] = "%" if entry.get("split") == "%" else ""
    short = shown == {"path": entry["path"]}
    value = _flow(entry["path"] if short else shown)
    return f"  {name}: {value}" + (f"  # {seen}" if seen else "")


def _member(name: str, value: Any) -> str:
    return write_document({name: value}).rstrip("\n")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _flow(value: Any) -> str:
    """A value on one line, as YAML reads it back."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: Any, one: str) -> Any:
        plain = re.fullmatch(r"[A-Za-z$/_(][\w ./$()%:-]*", one) and not one.endswith((":", " "))
        plain = plain and ": " not in one and one.lower() not in {"null", "true", "false"}
        return dumper.represent_scalar("tag:yaml.org,2002:str", one, style=None if plain else '"')

    Dumper.add_representer(str, text)
    written = yaml.dump(
        value,
        Dumper=Dumper,
        default_flow_style=True,
        width=10_000,
        allow_unicode=True,
        sort_keys=False,
    )
    found: str = written.removesuffix("...\n").rstrip("\n")
    return found
