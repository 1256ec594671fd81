"""How `holdfast audit` shows what it found: whatever the terminal, ids are whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.app.commandline import app
from holdfast.app.commands import audit

IDS = [f"01a2211c-e350-7a5c-b98a-e3a77360f7d{n}" for n in range(4)]
MOMENT = "2027-11-28T11:44:05.724419Z"
DIGEST = "d7acfed37b9bb0504fbba2ed8d2e1e122672590a48fc0a7b6e129c2aa5738a63"


def entry(n: int, type_: str, payload: dict[str, Any]) -> Any:
    return SimpleNamespace(
        time="2026-11-28T07:44:31.056082Z",
        subject=IDS[0],
        type=type_,
        stream=f"worker/{IDS[1]}",
        request_id=IDS[3],
        position=n,
        payload=payload,
    )


@pytest.mark.parametrize("width", [80, 120, 160, 200, 240])
def test_no_word_is_broken(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    route = "/v1/runs/{run}/responses/{sequence}/content"
    refused = {"code": "permission-missing", "method": "GET", "route": route, "count": 2}
    ended = {"key": IDS[2], "permissions": "", "reason": "a key that made it was revoked"}
    found = [entry(1, "access.refused", refused | {"network": "127.0.0.0/24"})]
    found += [entry(2, "worker.registered", {"key": DIGEST}), entry(3, "api-key.revoked", ended)]
    found.append(entry(4, "report.queried", {"sql": f"sha256:{DIGEST}", "until": MOMENT}))
    printed = shown(found, width, monkeypatch)
    words = {word.strip(",") for word in printed.split()}
    assert {f"sha256:{DIGEST[:16]}…", "2027-11-28T11:44:05Z"} <= words, "enough to know them by"
    whole = {"permission-missing", route, "127.0.0.0/24", "access.refused", IDS[0], IDS[2]}
    assert whole <= words, printed
    assert max(len(text.rstrip()) for text in printed.splitlines()) <= width


@pytest.mark.parametrize("width", [50, 80, 100, 130, 200, 300])
def test_ids_are_whole_in_every_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        entry(1, "worker.registered", {"key": DIGEST, "region": "", "token": IDS[2]}),
        entry(2, "access.refused", {"code": "missing", "count": 3}),
    ]
    printed = shown(found, width, monkeypatch)
    words = {word.strip(",") for word in printed.split()}
    assert {IDS[0], IDS[2], "worker.registered", "access.refused"} <= words, printed
    assert max(len(text.rstrip()) for text in printed.splitlines()) <= max(width, 54)
    assert "region" not in printed, "what says nothing is left out"
    if width in (50, 300):  # as blocks, and as a table with room for everything
        assert {f"worker/{IDS[1]}", IDS[3]} <= words, printed


def shown(found: list[Any], width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command prints of these entries, so wide."""

    async def entries(*_: Any) -> AsyncIterator[Any]:
        for each in found:
            yield each

    class Session:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *_: object) -> None: ...

    monkeypatch.setattr(audit, "_entries", entries)
    monkeypatch.setattr(audit, "session", lambda _: Session())
    monkeypatch.setenv("COLUMNS", str(width))
    line = ["--control-plane", "http://127.0.0.1:9", "audit", "--since", "2026-01-01T00:00:00Z"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    return done.stdout
