"""Personal fields: taken out of a record before it is kept, and put back for who may see them.

A profile's ``subject`` names the person a record is about, ``personal`` the fields that are theirs
alone. Both leave the record here: what stays is its *clear* part, and the *personal part* is sealed
under the subject's own key, with the salt of the record's leaf. So when that key is destroyed,
neither the fields nor the leaf's commitment can be guessed back, while the leaf itself stays what
it was and everybody else's proof holds.

The business key goes with them when one of its parts is personal, or when it is made of the whole
content; so does the period, if it is marked, and the spelling of a missing value. Of these the
clear part has nulls or nothing.

Pure, but for :class:`Owners`, whose keys come from the keyring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from holdfast.keyring.envelope import Context, seal, unseal
from holdfast.keyring.model import RECORDS, DataKey
from holdfast.records.columns import scalar_text
from holdfast.records.content import Content, decode_content, encode_sorted
from holdfast.records.model import MappedRecord, Measure, PeriodValue, Scalar
from holdfast.registry.model import Profile
from holdfast.registry.parts import MARK_SUFFIX, MISSING_SUFFIX

SALT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Marks:
    """Which parts of a profile's records are personal."""

    profile: str
    subject: str
    dimensions: frozenset[str]
    measures: frozenset[str]
    attributes: frozenset[str]
    period: bool
    key: bool

    @property
    def places(self) -> frozenset[tuple[str, str]]:
        """The personal fields as ``(group, name)``; the period has no name."""
        groups = (
            ("dimensions", self.dimensions),
            ("measures", self.measures),
            ("attributes", self.attributes),
        )
        named = {(group, name) for group, names in groups for name in names}
        return frozenset(named | ({("period", "")} if self.period else set()))

    @property
    def names(self) -> frozenset[str]:
        """The full names of the personal fields."""
        return frozenset(".".join(place).rstrip(".") for place in self.places)


class PersonalPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is sealed of a record."""

    key: list[Scalar] | None = None
    dimensions: dict[str, Scalar] = {}
    measures: dict[str, Measure] = {}
    attributes: dict[str, Scalar] = {}
    period: PeriodValue | None = None


decode_part = msgspec.json.Decoder(PersonalPart).decode


def marks_of(profile: Profile) -> Marks | None:
    """What is personal in the profile's records; ``None`` if nothing is."""
    if not profile.subject:
        return None
    marked = {profile.subject, *profile.personal}
    names: dict[str, set[str]] = {"dimensions": set(), "measures": set(), "attributes": set()}
    for full in marked - {"period"}:
        group, _, name = full.partition(".")
        names[group].add(name)
        # How the source spelled a missing value says something, too; so does a mark.
        names["attributes"] |= {f"{name}{MISSING_SUFFIX}", f"{name}{MARK_SUFFIX}"}
    return Marks(
        profile=profile.name,
        subject=profile.subject,
        dimensions=frozenset(names["dimensions"]),
        measures=frozenset(names["measures"]),
        attributes=frozenset(names["attributes"]),
        period="period" in marked,
        key=isinstance(profile.key, str) or not marked.isdisjoint(profile.key),
    )


def subject_of(record: MappedRecord, marks: Marks) -> str:
    """The person the record is about, as the source writes it.

    Records that name nobody share one subject of their profile, so that they can be erased too.
    """
    group, _, name = marks.subject.partition(".")
    value: Scalar
    if group == "period":
        value = None if record.period is None else record.period.start
    elif group == "measures":
        measure = record.measures.get(name)
        value = None if measure is None else measure.value
    else:
        value = (record.dimensions if group == "dimensions" else record.attributes).get(name)
    text = scalar_text(value)
    return f"nobody of {marks.profile}" if text is None else text


def split(record: MappedRecord, marks: Marks) -> tuple[MappedRecord, bytes]:
    """The clear part of a record, and its personal part in canonical bytes."""
    part = PersonalPart(
        key=record.key if marks.key else None,
        dimensions=_only(record.dimensions, marks.dimensions),
        measures=_only(record.measures, marks.measures),
        attributes=_only(record.attributes, marks.attributes),
        period=record.period if marks.period else None,
    )
    clear = msgspec.structs.replace(
        record,
        key=[None] * len(record.key) if marks.key else record.key,
        dimensions=_but(record.dimensions, marks.dimensions),
        measures=_but(record.measures, marks.measures),
        attributes=_but(record.attributes, marks.attributes),
        period=None if marks.period else record.period,
    )
    return clear, encode_sorted(part)


def _only(values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def _but(values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def joined(content: Content, part: PersonalPart) -> Content:
    """The whole content of a record again."""
    return Content(
        key=content.key if part.key is None else part.key,
        dimensions=dict(sorted({**content.dimensions, **part.dimensions}.items())),
        measures=dict(sorted({**content.measures, **part.measures}.items())),
        attributes=dict(sorted({**content.attributes, **part.attributes}.items())),
        period=content.period if part.period is None else part.period,
    )


def joined_body(body: str, part: PersonalPart) -> str:
    """The canonical text of a record's whole content again."""
    return encode_sorted(joined(decode_content(body), part)).decode()


# --- sealing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose a batch's records are, and their keys; ``None`` for whoever is erased."""

    marks: Marks
    tokens: list[str]
    keys: Mapping[str, DataKey | None]

    @property
    def erased(self) -> set[str]:
        """The subjects in the batch that are erased."""
        return {token for token, key in self.keys.items() if key is None}


@dataclass(frozen=True, slots=True)
class Personal:
    """One record's personal part on its way: whose it is, under which key. No key: it is dropped,
    because the person is erased."""

    token: str
    key: DataKey | None
    part: bytes


def row_context(tenant: str, profile: str, sequence: int) -> Context:
    """What the personal part of a row is bound to."""
    return Context(tenant, RECORDS, f"{profile}/{sequence}")


def sealed_part(
    tenant: str, profile: str, sequence: int, key: DataKey, salt: bytes, part: bytes
) -> bytes:
    """Salt and personal part of the row, sealed."""
    return seal(key.secret, key.id, row_context(tenant, profile, sequence), salt + part)


def unsealed_part(
    tenant: str, profile: str, sequence: int, key: DataKey, sealed: bytes
) -> tuple[bytes, PersonalPart]:
    """The salt of the row's leaf and its personal part; ``Corrupt`` if they are another row's."""
    plain = unseal(key.secret, row_context(tenant, profile, sequence), sealed)
    return plain[:SALT_BYTES], decode_part(plain[SALT_BYTES:])
