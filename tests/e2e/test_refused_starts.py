"""A start that is refused for its configuration has changed nothing: no schema, no key, no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.program import run_command, started


def _file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


BAD = {
    "keys": ("HOLDFAST_IDENTITY_KEYS_FILE", "{", "it is not JSON"),
    "secret": ("HOLDFAST_IDENTITY_JWT_SECRET_FILE", "short", "at least 32 bytes"),
    "administrator": ("ADMIN_KEY", None, "the admin key has under 32"),
    "provider": ("HOLDFAST_IDENTITY_GITHUB_CLIENT_ID", None, "needs a client id"),
    "published": ("HOLDFAST_IDENTITY_JWKS_URL", None, "need an issuer"),
    "authority": ("HOLDFAST_TLS_CA_FILE", "no certificate", "cannot use the TLS file"),
}


@pytest.mark.parametrize("what", sorted(BAD))
def test_what_is_wrong_is_found_before_anything_is_made(tmp_path: Path, what: str) -> None:
    name, text, said = BAD[what]
    value = "https://x.example" if text is None else _file(tmp_path, "given", text)
    data = tmp_path / "data"
    refused = run_command("up", "--port", "0", "--data-dir", str(data), environment={name: value})
    assert refused.returncode not in (0, 1), refused.stderr
    assert said in refused.stderr
    assert not list(data.rglob("*")), "nothing was made"


def test_a_role_whose_key_is_gone_says_so_and_makes_no_new_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with started(["up", "--drones", "0", "--port", "0"], data):
        pass
    key = data / "keys" / "identity.key.jwk"
    kept = key.read_bytes()
    key.unlink()
    refused = run_command("up", "--port", "0", "--data-dir", str(data))
    assert f"{key} is missing" in refused.stderr
    assert "HOLDFAST_KEYS_DIR" in refused.stderr
    assert not key.exists()
    key.touch(mode=0o600)
    key.write_bytes(kept)
    with started(["up", "--drones", "0", "--port", "0"], data) as program:
        assert program.client.get("/ready").status_code == 200
        token = data / "operator.token"
        token.unlink()
        told = run_command("person", "list", "--data-dir", str(data))
        assert told.returncode != 0
        assert f"{token} is missing" in told.stderr


def test_two_gateways_share_the_keys_of_one(tmp_path: Path) -> None:
    """As docs/operating/door.md has it."""
    trusted = tmp_path / "trusted"
    shared = {"HOLDFAST_TRUST_DIR": str(trusted)}
    with started(
        ["serve", "identity", "--port", "0"], tmp_path / "identity", environment=shared
    ) as identity:
        named = shared | {"HOLDFAST_IDENTITY_URL": identity.url}
        first = tmp_path / "gateway-1"
        with started(["serve", "gateway", "--port", "0"], first, environment=named) as one:
            told = run_command(
                "serve", "gateway", "--port", "0", "--data-dir", str(tmp_path / "gateway-2"),
                environment=named,
            )  # fmt: skip
            assert "HOLDFAST_KEYS_DIR" in told.stderr
            assert not list((tmp_path / "gateway-2").rglob("*.jwk"))
            more = named | {"HOLDFAST_KEYS_DIR": str(first / "keys")}
            with started(
                ["serve", "gateway", "--port", "0"], tmp_path / "gateway-2", environment=more
            ) as two:
                for each in (one, two):
                    assert each.get("/v1/people")["items"] == []
