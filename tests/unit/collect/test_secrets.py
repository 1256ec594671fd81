"""A secret goes where the operator bound it, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.collect.pages import Ask
from holdfast.collect.requests import (
    Credentials,
    Manners,
    credentials,
    reported,
    request,
    token_request,
)
from holdfast.collect.secrets import SecretMissing, SecretRefused, SecretStore
from holdfast.collect.tokens import Tokens
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.errors import Invalid
from holdfast.kernel.outbound import OutboundClient
from holdfast.registry.source import OAuth2Auth, Source
from tests.unit.collect.helpers import profile

URL = "https://api.example.org/v1/data?x=1"
VARIABLES = {
    "HOLDFAST_SECRET_KEY": "s3cr3t",
    "HOLDFAST_SECRET_KEY_HOSTS": "api.example.org, other.example:8443",
    "HOLDFAST_SECRET_USER": "me",
    "HOLDFAST_SECRET_USER_HOSTS": "api.example.org",
    "HOLDFAST_SECRET_FREE": "unbound",
    "HOLDFAST_SECRET_THEIRS": "x",
    "HOLDFAST_SECRET_THEIRS_HOSTS": "api.example.org",
    "HOLDFAST_SECRET_THEIRS_TENANT": "acme",
    "HOLDFAST_SECRET_EMPTY": "",
    "HOLDFAST_SECRET_EMPTY_HOSTS": "api.example.org",
    "HOLDFAST_SECRET_GONE_HOSTS": "api.example.org",
    "HOME": "/root",
}


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    (tmp_path / "token").write_text("f1le\n")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "secret-bindings.yaml").write_text(
        'file/token: {hosts: [api.example.org, "http://127.0.0.1:9000"]}\n'
        "file/link: {hosts: [api.example.org]}\n"
        "file/open: {hosts: [api.example.org]}\n"
        "file/folder: {hosts: [api.example.org]}\n"
        "file/gone: {hosts: [api.example.org]}\n"
        "file/secret-bindings.yaml: {hosts: [api.example.org]}\n"
        "env/FREE: {tenant: acme, hosts: [api.example.org]}\n"
    )
    return SecretStore(VARIABLES, tmp_path)


def test_a_bound_secret_is_read(store: SecretStore) -> None:
    assert store.resolve("secret://env/KEY", "default", URL) == "s3cr3t"
    assert store.resolve("secret://env/KEY", "default", "https://other.example:8443/") == "s3cr3t"
    assert store.resolve("secret://file/token", "default", URL) == "f1le"
    assert store.resolve("secret://file/token", "default", "http://127.0.0.1:9000/x") == "f1le"
    assert store.resolve("secret://env/FREE", "acme", URL) == "unbound"
    assert store.resolve("secret://env/THEIRS", "acme", URL) == "x"


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("secret://env/KEY", "https://evil.example/"),
        ("secret://env/KEY", "https://api.example.org:8443/"),
        ("secret://env/KEY", "http://api.example.org/"),
        ("secret://env/KEY", "https://other.example/"),
        ("secret://env/KEY", "https://api.example.org.evil.example/"),
        ("secret://env/FREE", URL),
        ("secret://env/THEIRS", URL),
        ("secret://env/KEY_HOSTS", URL),
        ("secret://env/THEIRS_TENANT", URL),
        ("secret://env/UNKNOWN", URL),
        ("secret://file/token", "http://127.0.0.1:9001/"),
        ("secret://file/unbound", URL),
        ("secret://file/secret-bindings.yaml", URL),
    ],
)
def test_anywhere_else_it_is_refused(store: SecretStore, reference: str, url: str) -> None:
    with pytest.raises(SecretRefused) as caught:
        store.resolve(reference, "default", url)
    assert not any(value in str(caught.value) for value in ("s3cr3t", "f1le"))


def test_another_port_is_said_to_need_its_number(store: SecretStore) -> None:
    with pytest.raises(SecretRefused, match="that host and port over https") as caught:
        store.resolve("secret://env/KEY", "default", "https://api.example.org:9443/")
    assert "host:port" in caught.value.hint


@pytest.mark.parametrize(
    "reference", ["secret://env/EMPTY", "secret://env/GONE", "secret://file/gone"]
)
def test_nothing_behind_a_reference_is_said(store: SecretStore, reference: str) -> None:
    with pytest.raises(SecretMissing):
        store.resolve(reference, "default", URL)


@pytest.mark.parametrize(
    "reference",
    ["secret://env/../KEY", "secret://file/../token", "secret://file/.hidden", "secret://env/key",
     "env/KEY", "secret://file/a/b", "secret://env/", "secret://vault/x"],
)  # fmt: skip
def test_what_is_no_reference_is_refused(store: SecretStore, reference: str) -> None:
    with pytest.raises(Invalid):
        store.resolve(reference, "default", URL)


def test_links_folders_and_open_files_are_refused(store: SecretStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "token")
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "folder").mkdir()
    for name in ("link", "open", "folder"):
        with pytest.raises(SecretRefused):
            store.resolve(f"secret://file/{name}", "default", URL)


@pytest.mark.parametrize(
    "bindings",
    ["- a", "env/KEY: {hosts: []}", "env/KEY: {host: x}", "env/KEY: x", "{",
     "env/K: {hosts: [a/b]}",
     'env/K: {hosts: ["http://a"]}', 'env/K: {hosts: ["ftp://a"]}'],
)  # fmt: skip
def test_bindings_that_cannot_be_read_refuse_everything(tmp_path: Path, bindings: str) -> None:
    (tmp_path / "secret-bindings.yaml").write_text(bindings)
    store = SecretStore({"HOLDFAST_SECRET_K": "v"}, tmp_path)
    with pytest.raises(Invalid):
        store.resolve("secret://env/K", "default", URL)


def test_a_rotated_secret_is_used_by_the_next_run(store: SecretStore, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("second")
    assert store.resolve("secret://file/token", "default", URL) == "second"


AUTHS: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"type": "bearer", "token": "secret://env/KEY"}, {"Authorization": "Bearer s3cr3t"}, URL),
    (
        {"type": "basic", "username": "u", "password": "secret://env/KEY"},
        {"Authorization": "Basic dTpzM2NyM3Q="},
        URL,
    ),
    (
        {"type": "basic", "username": "secret://env/USER", "password": "secret://env/KEY"},
        {"Authorization": "Basic bWU6czNjcjN0"},
        URL,
    ),
    ({"type": "api-key", "key": "secret://env/KEY", "header": "X-Key"}, {"X-Key": "s3cr3t"}, URL),
    ({"type": "api-key", "key": "secret://env/KEY", "parameter": "key"}, {}, f"{URL}&key=s3cr3t"),
]


async def given_for(source: Source, store: SecretStore) -> Credentials:
    async with OutboundClient() as outbound:
        return await credentials(source, store, "default", Tokens(outbound, SystemClock()))


@pytest.mark.parametrize(("auth", "headers", "url"), AUTHS)
async def test_credentials_are_added_at_the_last_moment(
    store: SecretStore, auth: dict[str, Any], headers: dict[str, str], url: str
) -> None:
    parts = {"url": URL, "auth": auth, "headers": {"X-App": "1"}, "format": {"type": "json"}}
    told = profile(parts)
    given = await given_for(told.source, store)
    asked = request(told.source, Manners(told.limits), Ask(URL), given)
    assert (dict(asked.secret_headers), asked.url) == (headers, url)
    assert dict(asked.headers) == {"X-App": "1"}
    assert "s3cr3t" in asked.secrets
    assert "s3cr3t" not in repr(given)
    shown = reported(told.source, Ask(URL), given)
    assert "s3cr3t" not in shown
    assert shown == url.replace("s3cr3t", "***")


@pytest.mark.parametrize(("auth", "headers", "url"), AUTHS)
async def test_another_origin_gets_no_credentials_and_no_headers(
    store: SecretStore, auth: dict[str, Any], headers: dict[str, str], url: str
) -> None:
    sent = {"X-App": "1", "Accept": "text/csv"}
    told = profile({"url": URL, "auth": auth, "headers": sent, "format": {"type": "json"}})
    given = await given_for(told.source, store)
    for other in (
        "https://evil.example/p2",
        "https://api.example.org:444/",
        "http://api.example.org/",
    ):
        asked = request(told.source, Manners(told.limits), Ask(other), given)
        assert dict(asked.secret_headers) == {}
        assert dict(asked.headers) == {"Accept": "text/csv"}
        assert "s3cr3t" not in asked.url
        assert asked.method == "GET"


@pytest.mark.parametrize(
    ("url", "token_url", "refused"),
    [
        (URL, "https://api.example.org/token", ""),
        (URL, "https://other.example:8443/token", ""),
        (URL, "https://evil.example/token", "evil.example"),
        # A token is as good as the secret: it may not be sent to a host of somebody's own either.
        ("https://evil.example/data", "https://api.example.org/token", "evil.example"),
    ],
)
def test_a_client_s_secret_is_bound_to_its_token_endpoint_and_to_the_source(
    store: SecretStore, url: str, token_url: str, refused: str
) -> None:
    auth = {
        "type": "oauth2-client-credentials",
        "token_url": token_url,
        "client_id": "me",
        "client_secret": "secret://env/KEY",
    }
    source = profile({"url": url, "auth": auth, "format": {"type": "json"}}).source
    assert isinstance(source.auth, OAuth2Auth)
    if refused:
        with pytest.raises(SecretRefused, match=refused):
            token_request(source, source.auth, store, "default")
    else:
        asked = token_request(source, source.auth, store, "default")
        assert asked.client_secret == "s3cr3t"
        assert "s3cr3t" not in repr(asked)
        assert "s3cr3t" not in asked.key
