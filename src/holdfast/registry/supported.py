"""Which parts of a profile this build carries out. The one place that says so.

A profile models more than is built, because the model fixes what is stored. Publishing refuses a
part that is not built, by name, instead of taking it and ignoring it. To build a part, make it work
and turn its entry to ``True``.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.kernel.errors import Problem
from holdfast.registry.model import GROUPS, Field, Profile, as_field
from holdfast.registry.source import CsvFormat, GeojsonFormat, JsonFormat

SUPPORTED: dict[str, bool] = {
    "method GET": True,
    "method POST": True,
    "format json": True,
    "format json with keys": True,
    "format json of columns": True,
    "format geojson": True,
    "format geojson sequence": True,
    "format csv": True,
    "format ndjson": True,
    "format xml": True,
    "format feed": True,
    "format json-stat": True,
    "format xlsx": True,
    "format ods": True,
    "format plugin": True,
    "compression auto": True,
    "compression none": True,
    "compression gzip": True,
    "compression deflate": True,
    "compression bzip2": True,
    "compression zip": True,
    "pagination page": True,
    "pagination offset": True,
    "pagination cursor": True,
    "pagination link": True,
    "pagination next-url": True,
    "windows": True,
    "success": True,
    "auth bearer": True,
    "auth basic": True,
    "auth api-key": True,
    "auth oauth2-client-credentials": True,
    "mode snapshot": True,
    "mode append": True,
    "mode incremental": True,
    "unpivot": True,
    "code lists": True,
    "values of the enclosing document": True,
    "period codings": True,
    "subject and personal marks": True,
    "requests_per_minute": True,
    "requests_per_day": True,
    "concurrency above 1": True,
}
"""Feature → whether this build carries it out."""


def features(profile: Profile) -> Iterator[tuple[str, str]]:
    """Every feature that ``profile`` asks for, and the path of the member that asks."""
    source = profile.source
    yield f"method {source.method}", "source.method"
    yield from _format_features(profile)
    yield f"compression {source.compression}", "source.compression"
    if source.pagination:
        yield f"pagination {_tag(source.pagination)}", "source.pagination.type"
    if source.auth:
        yield f"auth {_tag(source.auth)}", "source.auth.type"
    if source.windows:
        yield "windows", "source.windows"
    if source.success:
        yield "success", "source.success"
    yield f"mode {profile.mode}", "mode"
    if profile.unpivot:
        yield "unpivot", "unpivot"
    if profile.subject:
        yield "subject and personal marks", "subject"
    if profile.personal:
        yield "subject and personal marks", "personal"
    yield from _mapping_features(profile)
    yield from _limit_features(profile)


def _format_features(profile: Profile) -> Iterator[tuple[str, str]]:
    form = profile.source.format
    yield f"format {_tag(form)}", "source.format.type"
    match form:
        case JsonFormat(keys=[_, *_]):
            yield "format json with keys", "source.format.keys"
        case JsonFormat(columns=True):
            yield "format json of columns", "source.format.columns"
        case GeojsonFormat(sequence=True):
            yield "format geojson sequence", "source.format.sequence"
        case _:
            pass


def _mapping_features(profile: Profile) -> Iterator[tuple[str, str]]:
    tabular = isinstance(profile.source.format, CsvFormat)
    fields: dict[str, Field] = {
        f"{group}.{name}": as_field(value)
        for group in GROUPS
        for name, value in getattr(profile, group).items()
    }
    for place, entry in fields.items():
        if entry.codes:
            yield "code lists", f"{place}.codes"
        paths = [entry.path, entry.unit_path, entry.magnitude_path, *entry.join]
        if not tabular and any(path and path.startswith("$$") for path in paths):
            yield "values of the enclosing document", place
    if profile.period:
        if profile.period.codings:
            yield "period codings", "period.codings"
        paths = [profile.period.path, *profile.period.join]
        if not tabular and any(path and path.startswith("$$") for path in paths):
            yield "values of the enclosing document", "period"


def _limit_features(profile: Profile) -> Iterator[tuple[str, str]]:
    if profile.limits.requests_per_minute:
        yield "requests_per_minute", "limits.requests_per_minute"
    if profile.limits.requests_per_day:
        yield "requests_per_day", "limits.requests_per_day"
    if profile.limits.concurrency > 1:
        yield "concurrency above 1", "limits.concurrency"


def _tag(part: object) -> str:
    return str(part.__struct_config__.tag)  # type: ignore[attr-defined]


def unsupported(profile: Profile) -> list[Problem]:
    """Each part of ``profile`` that this build does not carry out, by name."""
    return [
        Problem(
            path=path,
            message=f"{feature} is not carried out by this build",
            hint=_instead(feature),
        )
        for feature, path in features(profile)
        if not SUPPORTED[feature]
    ]


def _instead(feature: str) -> str:
    """The choice that is there, where the feature is one of several."""
    kind, _, _ = feature.partition(" ")
    built = [name for name, there in SUPPORTED.items() if there and name.startswith(f"{kind} ")]
    return f"built are {', '.join(name.partition(' ')[2] for name in built)}" if built else ""
