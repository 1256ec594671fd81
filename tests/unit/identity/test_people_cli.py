"""Links that people open: passkeys belong to a name, and an address has none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.identity.people.cli import _id_of, _with_a_name, person_app
from holdfast.identity.people.model import Person
from holdfast.kernel.errors import Conflict, NotFound


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


class Pages:
    """People as a list gives them, one on each page."""

    def __init__(self, *people: tuple[str, str]) -> None:
        self._people = [
            Person(
                id=identity, name=name, email="", roles=[], state="active", created_at="",
                created_by="",
            )
            for identity, name in people
        ]  # fmt: skip

    async def list_people(self, who: None, *, before: str, limit: int) -> Any:
        at = int(before or 0)
        following = str(at + 1) if at + 1 < len(self._people) else None
        return self._people[at : at + 1], following


def test_a_person_is_meant_by_their_id_or_by_a_name_that_one_has() -> None:
    one, two, three = (f"01a21cbb-894a-76f7-9f5f-41e756bbe4c{n}" for n in range(3))
    people: Any = Pages((one, "Ada"), (two, "Grace"), (three, "Ada"))
    assert asyncio.run(_id_of(people, two)) == two
    assert asyncio.run(_id_of(people, "Grace")) == two
    with pytest.raises(Conflict) as either:
        asyncio.run(_id_of(people, "Ada"))
    assert one in either.value.hint
    assert three in either.value.hint
    with pytest.raises(NotFound):
        asyncio.run(_id_of(people, "Eve"))
