"""What is wrong with a value is said with what it may be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from holdfast.collect.fixtures.faults import Fault
from holdfast.kernel.structs import said
from holdfast.records.model import RunStatus
from holdfast.registry.versions import OverridesChange


@pytest.mark.parametrize(
    ("value", "wanted", "told"),
    [
        ({"schedule": {"every": "5"}}, OverridesChange, "schedule.every: expected a whole number"),
        ({"limits": {"nope": 3}}, OverridesChange, "`nope` is no member; known are max_bytes, "),
        ({"limits": {"retries": 99}}, OverridesChange, "Expected `int` <= 20 - at `$.limits"),
        ({"kind": "nonsense"}, Fault, "kind: 'nonsense' is none of body, cut, delay"),
        ([{"kind": "nonsense"}], list[Fault], "is none of body, cut, delay"),
        ("foo", RunStatus | None, "'foo' is none of "),
        (3, str, "Expected `str`, got `int`"),
    ],
)
def test_what_it_may_be_is_said(value: Any, wanted: Any, told: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(value, wanted)
    assert told in said(raised.value, wanted)
