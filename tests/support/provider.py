"""A provider of accounts, OpenID Connect and GitHub's way: honest, or wrong in one way."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

CLIENT, SECRET = "holdfast-test", "the client's secret"


class FakeProvider:
    """What it says can be changed between requests."""

    def __init__(self) -> None:
        self.key: Any = RSAKey.generate_key(2048, parameters={"kid": "one"})
        self.alg = "RS256"
        self.published = [self.key]
        self.claims: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.challenge = ""
        self.emails: Any = []
        self.user: Any = {"id": 42, "login": "ada"}
        self.token_answer: dict[str, Any] | None = None
        self.jwks_asked = 0
        self.url = ""

    def rotate(self, kid: str) -> None:
        """A new key, published, and used from now on."""
        self.key, self.alg = ECKey.generate_key("P-256", parameters={"kid": kid}), "ES256"
        self.published = [self.key]

    def answer(self, method: str, path: str, body: str, authorization: str) -> tuple[int, Any]:
        if path == "/.well-known/openid-configuration":
            found = {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/jwks",
                "userinfo_endpoint": f"{self.url}/userinfo",
            }
            return 200, found | self.metadata
        if path == "/jwks":
            self.jwks_asked += 1
            return 200, {"keys": [key.as_dict(private=False) for key in self.published]}
        if path == "/token":
            pair = ":".join(quote(part, safe="") for part in (CLIENT, SECRET))
            expected = base64.b64encode(pair.encode())
            if authorization != f"Basic {expected.decode()}":
                return 401, {"error": "invalid_client"}
            return self._token(body)
        if path == "/login/oauth/access_token":
            form = parse_qs(body)
            if form.get("client_secret") != [SECRET]:
                return 200, {"error": "incorrect_client_credentials"}
            return self._token(body)
        if path == "/userinfo":
            return 200, {"sub": self.claims.get("sub", "ada")} | self.userinfo
        if path == "/api/v3/user":
            return 200, self.user
        if path == "/api/v3/user/emails":
            return 200, self.emails
        return 404, {}

    def _token(self, body: str) -> tuple[int, Any]:
        form = parse_qs(body)
        verifier = form.get("code_verifier", [""])[0]
        made = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
        if made.decode() != self.challenge or form.get("code") != ["right"]:
            return 400, {"error": "invalid_grant"}
        if self.token_answer is not None:
            return 200, self.token_answer
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "sub": "ada", "iat": now, "exp": now + 300}
        header = {"alg": self.alg, "kid": self.key.kid} | self.header
        token = jwt.encode(
            header, claims | self.claims, self.key, algorithms=["RS256", "ES256", "HS256"]
        )
        return 200, {"access_token": "a", "token_type": "Bearer", "id_token": token}


@contextmanager
def fake_provider() -> Iterator[FakeProvider]:
    """The provider on a free port of loopback."""
    provider = FakeProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._do("")

        def do_POST(self) -> None:
            self._do(self.rfile.read(int(self.headers.get("content-length", 0))).decode())

        def _do(self, body: str) -> None:
            status, found = provider.answer(
                self.command, self.path, body, self.headers.get("authorization", "")
            )
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
