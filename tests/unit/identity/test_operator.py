"""The operator token, login links and sessions."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.identity.login import LINK_SECONDS, LINKS_MAX, LoginLinks
from holdfast.identity.operator import OperatorToken, new_token, well_formed
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Corrupt, Exhausted, Unauthenticated
from holdfast.kernel.principal import operator
from tests.support.full_disk import full_beyond

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_token_is_made_once_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "operator.token"
    OperatorToken.load_or_create(path)
    text = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert OperatorToken.load_or_create(path).matches(text)
    assert path.read_text().strip() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_leaves_no_half_token(tmp_path: Path) -> None:
    with full_beyond(32), pytest.raises(OSError, match="too large"):
        OperatorToken.load_or_create(tmp_path / "operator.token")
    assert list(tmp_path.iterdir()) == []


def test_only_the_token_itself_matches(tmp_path: Path) -> None:
    path = tmp_path / "operator.token"
    token = OperatorToken.load_or_create(path)
    text = path.read_text().strip()
    for wrong in ("", text[:-1], text + " ", text.upper(), "{", "é" * 10):
        assert not token.matches(wrong)


@pytest.mark.parametrize(
    "content", ["", "{", "hfo_short_00000000", "hfo_" + "a" * 64 + "_00000000"]
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "operator.token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(Corrupt):
        OperatorToken.load_or_create(path)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "operator.token"
    OperatorToken.load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(Corrupt, match="others may read"):
        OperatorToken.load_or_create(path)


def test_a_typo_is_noticed_by_the_checksum() -> None:
    token = new_token("hfo", os.urandom)
    assert well_formed(token, "hfo")
    assert not well_formed(token, "hfw")
    changed = token[:10] + ("0" if token[10] != "0" else "1") + token[11:]
    assert not well_formed(changed, "hfo")


def test_a_login_link_works_once_and_for_five_minutes() -> None:
    clock = ManualClock(NOW)
    links = LoginLinks(clock, os.urandom)
    token = links.create(operator())
    assert links.redeem(token) == operator()
    with pytest.raises(Unauthenticated):
        links.redeem(token)
    late = links.create(operator())
    clock.advance(LINK_SECONDS)
    with pytest.raises(Unauthenticated):
        links.redeem(late)


def test_unused_links_are_bounded() -> None:
    clock = ManualClock(NOW)
    links = LoginLinks(clock, os.urandom)
    for _ in range(LINKS_MAX):
        links.create(operator())
    with pytest.raises(Exhausted):
        links.create(operator())
    clock.advance(LINK_SECONDS)
    links.create(operator())
