"""Links that people open: passkeys belong to a name, and an address has none."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from holdfast.identity.people.cli import _with_a_name, person_app


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("http://127.0.0.1:9190", "http://localhost:9190"),
        ("http://[::1]:9190", "http://localhost:9190"),
        ("http://127.0.0.1", "http://localhost"),
        ("http://localhost:9190", "http://localhost:9190"),
        ("https://data.example.org", "https://data.example.org"),
        ("http://10.0.0.5:8090", "http://10.0.0.5:8090"),
    ],
)
def test_a_loopback_address_is_opened_by_its_name(url: str, opened: str) -> None:
    assert _with_a_name(url) == opened


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_nobody_is_forgotten_by_mistake_and_the_refusal_says_how(more: list[str]) -> None:
    told = CliRunner().invoke(person_app, ["forget", "somebody", *more])
    assert (told.exit_code, "without --yes" in told.stderr) == (2, True), told.stderr
    assert isinstance(told.exception, SystemExit)
    assert "Traceback" not in told.output
