"""The replay map: which recorded address stands in for which original."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.kernel.errors import Invalid
from holdfast.kernel.outbound import ReplayMap, parse_target

BASE = "http://127.0.0.1:9000"
MAP = ReplayMap(
    {
        "https://api.test/data": f"{BASE}/data",
        "https://api.test/data?series=GDP": f"{BASE}/gdp.json",
        "https://api.test/data?series=GDP&frequency=m": f"{BASE}/gdp_m.json?kind=json",
        "https://api.test/data/deep": f"{BASE}/deep",
        "https://files.test/": f"{BASE}/files/",
        "http://plain.test": f"{BASE}/plain",
    }
)


@pytest.mark.parametrize(
    ("original", "replay"),
    [
        ("https://api.test/data", "/data"),
        ("https://api.test/data?page=2&size=10", "/data?page=2&size=10"),
        ("https://api.test/data?series=GDP", "/gdp.json?series=GDP"),
        ("https://api.test/data?page=2&series=GDP", "/gdp.json?page=2&series=GDP"),
        (
            "https://api.test/data?series=GDP&frequency=m&page=3",
            "/gdp_m.json?kind=json&series=GDP&frequency=m&page=3",
        ),
        ("https://api.test/data/other/x.csv", "/data/other/x.csv"),
        ("https://api.test/data/deep/x", "/deep/x"),
        ("https://files.test/a/b.csv?v=1", "/files/a/b.csv?v=1"),
        ("https://files.test", "/files/"),
        ("http://plain.test/x", "/plain/x"),
    ],
)
def test_the_most_specific_entry_wins_and_the_rest_is_carried_over(
    original: str, replay: str
) -> None:
    found = MAP.find(parse_target(original))
    assert found is not None
    assert found.url == BASE + replay


@pytest.mark.parametrize(
    "url",
    [
        "https://api.test/database",
        "http://api.test/data",
        "https://api.test:8443/data",
        "https://other.test/data",
        "https://sub.files.test/a",
    ],
)
def test_another_origin_or_a_mere_name_prefix_is_not_replayed(url: str) -> None:
    assert MAP.find(parse_target(url)) is None


def test_the_original_of_a_replayed_address_is_found() -> None:
    original = MAP.original(parse_target(f"{BASE}/files/a/b.csv?v=1"))
    assert original is not None
    assert original.url == "https://files.test/a/b.csv?v=1"
    assert MAP.original(parse_target("http://127.0.0.1:9001/files/a")) is None


def test_a_file_may_be_json_or_yaml_and_may_forbid_everything_else(tmp_path: Path) -> None:
    plain, wrapped = tmp_path / "map.json", tmp_path / "map.yaml"
    plain.write_text(json.dumps({"https://a.test/x": f"{BASE}/x"}), encoding="utf-8")
    wrapped.write_text(f"only: true\nmap:\n  https://a.test/x: {BASE}/x\n", encoding="utf-8")
    for path, only in ((plain, False), (wrapped, True)):
        loaded = ReplayMap.load(path)
        assert loaded.only is only
        found = loaded.find(parse_target("https://a.test/x"))
        assert found is not None
        assert found.url == f"{BASE}/x"


@pytest.mark.parametrize(
    "text",
    ["[]", "a: 1", "a: b", "https://a.test/: ftp://b/", "only: true\nmap: {}\nother: 1", "{",
     "only: maybe\nmap: {}"],
)  # fmt: skip
def test_a_map_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Invalid):
        ReplayMap.load(path)
    with pytest.raises(Invalid):
        ReplayMap.load(tmp_path / "missing.yaml")
