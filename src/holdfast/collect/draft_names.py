"""What a draft calls a profile and its fields. Pure."""

from __future__ import annotations

import re
import unicodedata

CODE = re.compile(
    r"(^|[^a-z])(id|ids|code|fips|zip|zipcode|postcode|guid|key|number|nr|no|num|cik|isbn|geoid|uuid|"
    r"objectid|fid|gid|oid|codigo)"
    r"([^a-z]|$)", re.I,
)  # fmt: skip
"""In the name of a field: what it says is a code, whatever it is written with."""

COUNT = re.compile(r"(number|num)|(number|num|no|nr)_of_[a-z0-9_]+")
"""The name of a field that may be a code, and as well how many there are of something."""

ABOUT_NUMBERS = re.compile(
    r"unit|uom|measure(ment)?$|note|remark|comment|source|status|flag|frequency|freq|currency|scale|"
    r"multiplier|mult|decimals|adjust|quality|method|base_?(year|period)|publisher|licen[cs]e|"
    r"version|updated|description|einheit|unite|unidad|quelle|bemerkung|anmerkung",
)
"""In the name of a field: it is about the numbers of a row, and not what they are of."""

NAMING = re.compile(r"(^|_)(name|label|title|text|bezeichnung|nom|nombre|libelle)(_|$)")
"""In the name of a field: it is how people call something that may have a code as well."""


def bare_letters(text: str) -> str:
    """``text`` in small letters without their accents: ``veranderung``, ``annee``."""
    return (
        unicodedata.normalize("NFKD", text.lower().replace("ß", "ss"))
        .encode("ascii", "ignore")
        .decode()
    )


def last_name(path: str) -> str:
    """The last name of a path, blanks and all: ``LAST UPDATE``."""
    return re.split(r"[/@]|\.(?=\w)|\['|'\]", path.removesuffix("']"))[-1] or path


def last_part(path: str) -> str:
    """What stands behind the last mark in a path, whatever that mark is."""
    return re.split(r"[./\]\[]", path.rstrip("]'"))[-1] or path


_GENERAL = frozenset({"id", "value", "label", "code", "name", "text", "title", "type", "unit"})
"""Ends of paths that say little without what stands before them."""


def slug(path: str) -> str:
    """A field's name from the end of its path."""
    bare = re.sub(r"\[@(?:id|concept)='([^']*)'\]/@value$", r"/\1", path)
    bare = bare.replace("']", "").replace("['", "/").replace("[*]", "")
    bare = re.sub(r"\[(\d+)\]", r"_\1", bare)
    split = r"[/@#]+" if "$" not in path else r"[./$@#]+"
    parts = [
        part.rpartition(":")[2] for part in re.split(split, bare) if part not in {"", "..", "$"}
    ]
    last = parts[-1] if parts else "value"
    if last.lower() in _GENERAL and len(parts) > 1 and parts[-2] not in {"properties", "_source"}:
        last = f"{parts[-2]}_{last}"
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", last)
    plain = re.sub(r"[^a-z0-9]+", "_", bare_letters(spaced)).strip("_")[:58]
    return plain if re.match(r"[a-z]", plain) else f"f_{plain}".rstrip("_")


def name_for(source: str) -> str:
    """A profile's name from an address or a file's name."""
    bare = source.partition("?")[0].rstrip("/")
    last = bare.rpartition("/")[2] if "/" in bare else bare
    stem = re.sub(
        r"(\.(csv|tsv|txt|json|ndjson|jsonl|geojson|xml|rss|atom|xlsx|ods|zip|gz|bz2))+$", "", last
    )
    plain = re.sub(r"[^a-z0-9]+", "-", bare_letters(stem)).strip("-")[:64].rstrip("-")
    return plain or "source"
