"""One profile, one form, one digest."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.kernel.errors import Corrupt
from holdfast.registry.document import write_document
from holdfast.registry.model import (
    Limits,
    Profile,
    Schedule,
    canonical_profile,
    plain_profile,
    profile_digest,
    read_canonical,
)
from holdfast.registry.parts import duration_seconds
from holdfast.registry.validate import examine, load_profile
from holdfast.registry.versions import (
    LimitsOverride,
    OverridesChange,
    ProfileOverrides,
    changed_overrides,
    diff_profiles,
    effective_limits,
)
from tests.unit.registry.profiles import GOOD, RESERVED, changed, profiles


def digest_of(plain: dict[str, Any]) -> str:
    examined = examine(write_document(plain).encode())
    assert examined.problems == []
    return examined.digest


def test_the_digest_of_a_profile_never_changes() -> None:
    # Versions are named by it for ever: a default that changes, or a member that is renamed, would
    # show here. If this fails, the form of profiles needs a new version instead.
    canonical = (
        '{"dimensions":{"station":{"path":"Station"}},"key":["dimensions.station","period"],'
        '"licence":{"name":"CC0"},"measures":{"rain":{"path":"Rain","unit":"mm"}},"name":"rain",'
        '"period":{"frequency":"D","path":"Date"},"publisher":"The Office",'
        '"source":{"format":{"type":"csv"},"url":"https://example.org/rain.csv"},"version":1}'
    )
    assert digest_of(GOOD) == f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def test_defaults_short_forms_and_order_make_no_difference() -> None:
    explicit = copy.deepcopy(GOOD) | {
        "title": "",
        "mode": "snapshot",
        "nulls": [""],
        "enabled": True,
        "limits": {"max_bytes": 2_147_483_648, "timeout": "60s"},
        "expect": {"min_records": 0, "ranges": {}},
        "schedule": None,
        "licence": {"name": "CC0"},
        "dimensions": {"station": {"path": "Station", "type": "string", "required": False}},
    }
    explicit["measures"]["rain"] |= {"type": "decimal", "multiplier": "1"}
    assert digest_of(explicit) == digest_of(GOOD)
    assert digest_of(dict(reversed(GOOD.items()))) == digest_of(GOOD)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("title", "Rain"),
        ("measures/rain/unit", "cm"),
        ("limits", {"max_bytes": 1}),
        ("nulls", []),
        ("enabled", False),
        ("licence", {"name": "CC0", "url": "https://example.org/"}),
        ("source/format", {"type": "csv", "delimiter": ";"}),
    ],
)
def test_what_means_something_else_has_another_digest(path: str, value: Any) -> None:
    assert digest_of(changed(path, value)) != digest_of(GOOD)


def test_decimals_are_kept_as_written() -> None:
    text = write_document(GOOD) + "expect: {ranges: {measures.rain: {min: 0.10, max: 1e2}}}\n"
    bounds = load_profile(text.encode()).expect.ranges["measures.rain"]
    assert (bounds.min, bounds.max) == ("0.10", "100")


@settings(deadline=None, max_examples=60)
@given(profiles(), st.randoms(use_true_random=False))
def test_a_profile_is_the_same_however_it_is_written(
    plain: dict[str, Any], chance: random.Random
) -> None:
    if plain["name"] in RESERVED:
        return
    written = examine(write_document(plain).encode())
    assert written.problems == []
    assert written.profile is not None

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = list(value.items())
            chance.shuffle(items)
            return {key: shuffled(item) for key, item in items}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    commented = "".join(
        f"# remark\n{line}\n" if line[:1].isalpha() else f"{line}\n"
        for line in write_document(shuffled(plain)).splitlines()
    )
    canonical = canonical_profile(written.profile)
    again = read_canonical(canonical)
    assert {
        examine(commented.encode()).digest,
        examine(json.dumps(shuffled(plain)).encode(), media_type="application/json").digest,
        examine(write_document(plain_profile(written.profile)).encode()).digest,
        examine(canonical, media_type="application/json").digest,
        examine(written.profile).digest,
        profile_digest(again),
    } == {written.digest}
    assert canonical_profile(again) == canonical
    # Over the wire, where defaults are left out by another rule, it is still the same profile.
    sent = msgspec.json.decode(msgspec.json.encode(written.profile), type=Profile)
    assert profile_digest(sent) == written.digest


def test_stored_bytes_that_are_no_profile_are_corrupt() -> None:
    for data in (b"", b"{}", b"[1]", b'{"version":1}'):
        with pytest.raises(Corrupt):
            read_canonical(data)


def test_a_diff_names_every_member_that_differs() -> None:
    before = load_profile(write_document(GOOD).encode())
    after = load_profile(
        write_document(changed("measures/snow", "Snow", changed("nulls", ["", "-"]))).encode()
    )
    changes = [(each.path, each.before, each.after) for each in diff_profiles(before, after)]
    assert changes == [
        ("measures.snow.path", None, '"Snow"'),
        ("nulls", None, '["","-"]'),
    ]
    assert diff_profiles(after, after) == []
    assert [each.after for each in diff_profiles(after, before)] == [None, None]
    assert {each.before for each in diff_profiles(None, before)} == {None}


def test_overriding_limits_replaces_only_what_is_given() -> None:
    limits = effective_limits(Limits(max_pages=5, retries=7), LimitsOverride(max_pages=9))
    assert limits == Limits(max_pages=9, retries=7)
    assert effective_limits(Limits(retries=1), None) == Limits(retries=1)


def test_a_change_of_overrides_leaves_what_it_does_not_name() -> None:
    every = Schedule(every="1h")
    start = ProfileOverrides(paused=True, schedule=every)
    assert changed_overrides(start, OverridesChange(paused=False)) == ProfileOverrides(
        schedule=every
    )
    assert changed_overrides(start, OverridesChange(schedule=None)) == ProfileOverrides(paused=True)
    assert changed_overrides(start, OverridesChange()) == start


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1s", 1), ("5m", 300), ("6h", 21600), ("2d", 172800), ("1w", 604800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds
    with pytest.raises(ValueError, match="cannot read"):
        duration_seconds(text.upper() + "x")
