"""The table of what is built knows every part that the model has."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from holdfast.registry import model, source
from holdfast.registry.document import write_document
from holdfast.registry.supported import SUPPORTED, features, unsupported
from holdfast.registry.validate import load_profile
from tests.unit.registry.profiles import GOOD


def tags(union: Any) -> set[str]:
    return {part.__struct_config__.tag for part in get_args(union)}


def options(part: type, member: str) -> set[str]:
    [found] = [field for field in msgspec.structs.fields(part) if field.name == member]
    return set(get_args(found.type))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("format", tags(source.Format)),
        ("pagination", tags(source.Pagination)),
        ("auth", tags(source.Auth)),
        ("method", options(source.Source, "method")),
        ("compression", options(source.Source, "compression")),
        ("mode", options(model.Profile, "mode")),
    ],
)
def test_every_choice_of_the_model_has_an_entry(kind: str, names: set[str]) -> None:
    listed = {feature.partition(" ")[2] for feature in SUPPORTED if feature.startswith(f"{kind} ")}
    assert {name for name in listed if " " not in name} == names


def test_every_feature_a_profile_can_ask_for_has_an_entry() -> None:
    profile = load_profile(write_document(GOOD).encode())
    everything = msgspec.structs.replace(
        profile,
        subject="dimensions.station",
        personal=["dimensions.station"],
        unpivot=model.Unpivot(columns="a"),
        limits=model.Limits(requests_per_day=1, requests_per_minute=1, concurrency=2),
        dimensions={"station": model.Field(path="$$.a", codes="x")},
        period=model.Period(path="$$.b", frequency="D", codings={"(?P<year>x)": "A"}),
        source=msgspec.structs.replace(
            profile.source,
            method="POST",
            compression="zip",
            format=source.JsonFormat(keys=["a"]),
            pagination=source.LinkPagination(),
            auth=source.BearerAuth(token="secret://env/A"),
            success=source.Success(path="$.a", equals=["b"]),
            windows=source.Windows(
                start_parameter="a", end_parameter="b", span="1d", start="2020-01-01"
            ),
        ),
    )
    asked = dict(features(everything))
    assert set(asked) <= set(SUPPORTED)
    assert {problem.path for problem in unsupported(everything)} == {
        path for feature, path in features(everything) if not SUPPORTED[feature]
    }


def test_an_entry_that_is_turned_on_is_no_longer_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load_profile(write_document(GOOD).encode())
    monkeypatch.setitem(SUPPORTED, "format csv", False)
    assert [problem.path for problem in unsupported(profile)] == ["source.format.type"]
    monkeypatch.setitem(SUPPORTED, "format csv", True)
    assert unsupported(profile) == []
