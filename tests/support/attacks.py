"""Attempts to get in, or to get at more: made from a seed, one for every route and every way.

An attempt is the bytes of one request, what it tries, and which answers would be a break-in. The
generator knows everything an insider knows (the routes, real ids of another tenant, the shapes of
all credentials, dead and foreign credentials that are well made) and lacks exactly one thing: a
credential that allows what it asks for.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import secrets
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.kernel.signing import SigningKey

Headers = list[tuple[str, str]]
AUDIENCE, ISSUER = "gateway", "us"
TOKEN_SECONDS_MAX = 3600
OWN = frozenset({"position", "path", "sequence"})
"""Parameters that everybody has of their own: their numbers name nothing of another tenant's."""
OPERATORS_ONLY = frozenset(
    {
        "/v1/backups",
        "/v1/backups/{backup_id}",
        "/v1/keys",
        "/v1/keys/check",
        "/v1/keys/rewrap",
        "/v1/keys/handled",
    }
    | {"/v1/people/admin", "/v1/tenants", "/v1/login/links", "/v1/audit/notes"}
    | {"/v1/api-keys/authenticate", "/v1/workers/authenticate", "/v1/derived/standing"}
)
"""What not even an administrator may: it is the operator's, or for roles among themselves."""
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Route:
    """A route of the OpenAPI document that needs a permission."""

    method: str
    path: str
    permission: str

    @property
    def names(self) -> list[str]:
        """Its path parameters."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


@dataclass(frozen=True)
class Attempt:
    """One request, and the name of what it tries. ``twin`` must be answered the same way."""

    kind: str
    route: Route
    request: bytes
    twin: bytes = b""


@dataclass
class Insider:
    """What the attacker has: dead, foreign and small credentials, and other people's names.

    ``small`` are live credentials with the permissions they have; ``dead`` are well-made ones that
    must open nothing at all; ``ids`` are the names of things of the tenant under attack by the path
    parameter they fit; ``foreign`` is an administrator of another tenant, ``administrator`` one of
    this tenant.
    """

    secret: bytes
    small: Mapping[str, frozenset[str]]
    dead: Mapping[str, str]
    ids: Mapping[str, Sequence[str]]
    foreign: str
    administrator: str
    host: str
    login_cookie: str = ""
    public_key: bytes = b""
    extra: dict[str, Any] = field(default_factory=dict)


def routes_of(document: Mapping[str, Any]) -> list[Route]:
    """Every route that is not open to everybody."""
    return [
        Route(method.upper(), path, operation["x-permission"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if operation["x-permission"] != "public"
    ]


def jwt(
    secret: bytes, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None, **how: str
) -> str:
    """A token, honestly signed unless ``mac`` says otherwise."""
    parts = [_part(header or {"alg": "HS256", "typ": "JWT"}), _part(claims)]
    text = ".".join(parts)
    digest = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}[how.get("mac", "HS256")]
    return f"{text}.{_b64(hmac.new(secret, text.encode(), digest).digest())}"


def worker_key() -> str:
    """The public half of a fresh signing key, as a worker registers it."""
    return SigningKey.from_seed(secrets.token_bytes(32)).public_bytes().hex()


def claims_of(**changed: Any) -> dict[str, Any]:
    """The claims of an administrator of the tenant under attack, good for ten minutes."""
    now = int(time.time())
    good = {
        "sub": "mallory", "tenant": "default", "roles": "admin", "aud": AUDIENCE, "iss": ISSUER,
        "iat": now, "exp": now + 600,
    }  # fmt: skip
    return {k: v for k, v in (good | changed).items() if v is not None}


def _part(value: Any) -> str:
    return _b64(value if isinstance(value, bytes) else json.dumps(value).encode())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Attacker:
    """Makes attempts against one door."""

    def __init__(self, routes: Sequence[Route], insider: Insider, seed: int) -> None:
        self._routes = list(routes)
        self._insider = insider
        self._random = random.Random(seed)
        ways: list[Callable[[Route], Attempt | None]] = [
            self.forged_token, self.forged_token, self.forged_token, self.confused_credential,
            self.confused_credential, self.escalation, self.escalation, self.foreign_thing,
            self.foreign_thing, self.tenant_mismatch, self.smuggled_header, self.smuggled_header,
            self.path_trick, self.path_trick, self.framing, self.host_game,
            self.operators_business,
        ]  # fmt: skip
        self._ways = ways

    def attempts(self, count: int) -> Iterator[Attempt]:
        """So many: every route, by every way, in a shuffled order, and again with other details."""
        made = 0
        while made < count:
            pairs = [(route, way) for route in self._routes for way in self._ways]
            self._random.shuffle(pairs)
            # One way for each route first: the sample of a sample still meets every route.
            turns: Counter[Route] = Counter()
            ordered = []
            for route, way in pairs:
                turns[route] += 1
                ordered.append((turns[route], route, way))
            ordered.sort(key=lambda each: each[0])
            for _, route, way in ordered:
                found = way(route)
                if found is not None:
                    yield found
                    made += 1
                    if made == count:
                        return

    # --- tokens

    def forged_token(self, route: Route) -> Attempt:
        """A signed token with one thing wrong."""
        pick, now = self._random, int(time.time())
        secret, wrong = self._insider.secret, secrets.token_bytes(32)
        honest = jwt(secret, claims_of(roles="viewer", tenant="mallory"))
        head, _, signature = honest.split(".")
        forged: dict[str, Callable[[], str]] = {
            "alg none": lambda: (
                _part({"alg": pick.choice(["none", "None", "NONE", "nOnE", ""]), "typ": "JWT"})
                + f".{_part(claims_of())}."
                + pick.choice(["", signature, "AA"])
            ),
            "alg swapped": lambda: jwt(
                secret, claims_of(), {"alg": pick.choice(["HS384", "HS512", "RS256", "ES256"])},
                mac=pick.choice(["HS256", "HS384", "HS512"]),
            ),
            "public key as secret": lambda: jwt(self._insider.public_key or b"x", claims_of()),
            "kid injection": lambda: jwt(
                pick.choice([b"", wrong]),
                claims_of(),
                {
                    "alg": "HS256", "typ": "JWT",
                    "kid": pick.choice(
                        ["../../../../dev/null", "' UNION SELECT 'x", "/proc/self/environ", "|id",
                         "http://127.0.0.1:1/k", "\u0000", "operator", "k" * 5000]
                    ),
                },
            ),
            "key of its own": lambda: jwt(
                wrong,
                claims_of(),
                {"alg": "HS256", "typ": "JWT"}
                | pick.choice(
                    [
                        {"jwk": {"kty": "oct", "k": _b64(wrong)}},
                        {"jku": "http://127.0.0.1:1/keys"},
                        {"x5u": "http://127.0.0.1:1/c"},
                        {"crit": ["exp"]},
                        {"crit": ["b64"], "b64": False},
                        {"zip": "DEF"},
                    ]
                ),
            ),
            "another's secret": lambda: jwt(wrong, claims_of()),
            "audience swapped": lambda: jwt(
                secret, claims_of(aud=pick.choice(["ledger", "registry", ["a", "b"], 7, ""]))
            ),
            "issuer swapped": lambda: jwt(
                secret, claims_of(iss=pick.choice(["evil", "", None, 1]))
            ),
            "expired": lambda: jwt(
                secret, claims_of(exp=now - pick.randint(120, 10**6))
            ),
            "not yet valid": lambda: jwt(
                secret, claims_of(nbf=now + pick.randint(120, 10**6))
            ),
            "no expiry": lambda: jwt(secret, claims_of(exp=None)),
            "strange expiry": lambda: jwt(
                secret,
                claims_of(
                    exp=pick.choice(["never", True, [now + 600], {"a": 1}, -1, f"{now + 600}"]),
                ),
            ),
            "tampered": lambda: f"{head}.{_part(claims_of())}.{signature}",
            "signature cut": lambda: honest[: -pick.randint(1, len(signature))],
            "signature of another": lambda: (
                f"{head}.{_part(claims_of())}."
                + jwt(secret, claims_of(sub="other", tenant="mallory")).split(".")[2]
            ),
            "claims twice": lambda: _signed_text(
                secret,
                f'{{"sub":"m","aud":"{AUDIENCE}","iss":"{ISSUER}","tenant":"mallory","tenant":"default",'
                f'"roles":"admin","exp":{now + 600}}}',
            ),
            "nobody's": lambda: jwt(
                secret, claims_of(sub=pick.choice([None, "", 5, "x" * 300]))
            ),
            "tenant of no name": lambda: jwt(
                secret,
                claims_of(
                    tenant=pick.choice(["../default", "DEFAULT ", "", 5, ["default"], "a/b", "%"]),
                ),
            ),
            "lives too long": lambda: jwt(
                secret, claims_of(exp=now + 10**8)
            ),
        }  # fmt: skip
        name = pick.choice(list(forged))
        return self._attempt(
            f"token: {name}", route, [("Authorization", f"Bearer {forged[name]()}")]
        )

    def confused_credential(self, route: Route) -> Attempt:
        """A credential of another kind, a dead one, or a real one with something changed."""
        pick, dead = self._random, self._insider.dead
        name = pick.choice([*dead, "invented", "scheme", "twice", "changed"])
        value = dead.get(name, "")
        headers: Headers = [("Authorization", f"Bearer {value}")]
        if name == "invented":
            body = (
                f"{pick.choice(['hf', 'hfw', 'hfo', 'hfj', 'hfi', 'hfs'])}_{secrets.token_hex(36)}"
            )
            headers = [("Authorization", f"Bearer {body}_{zlib.crc32(body.encode()):08x}")]
        elif name == "scheme":
            small = pick.choice(list(self._insider.small))
            scheme = pick.choice(
                ["Basic", "Digest", "Token", "bearer:", "", "Bearer\t", "Negotiate"]
            )
            headers = [("Authorization", f"{scheme} x{small}")]
        elif name == "twice":
            first, second = (pick.choice(list(self._insider.small)) for _ in range(2))
            headers = [("Authorization", f"Bearer {first}"), ("Authorization", f"Bearer {second}")]
        elif name == "changed":
            small = pick.choice(list(self._insider.small))
            place = pick.randrange(4, len(small))
            changed = small[:place] + ("0" if small[place] != "0" else "1") + small[place + 1 :]
            headers = [("Authorization", f"Bearer {changed}")]
        if pick.random() < 0.2:
            headers.append(("Cookie", f"holdfast_session={secrets.token_hex(32)}"))
        return self._attempt(f"credential: {name}", route, headers)

    # --- rights

    def escalation(self, route: Route) -> Attempt | None:
        """A live credential that lacks the permission."""
        fitting = [
            token
            for token, permissions in self._insider.small.items()
            if route.permission not in permissions
        ]
        if not fitting:
            return None
        headers: Headers = [("Authorization", f"Bearer {self._random.choice(fitting)}")]
        if self._random.random() < 0.3:
            name = self._random.choice(["X-Principal", "X-Role", "X-Permissions", "X-Admin"])
            headers.append(
                (name, self._random.choice(["operator", "admin", route.permission, "1"]))
            )
        return self._attempt("escalation", route, headers)

    def foreign_thing(self, route: Route) -> Attempt | None:
        """An administrator of another tenant asks for this tenant's things by their real names."""
        if set(route.names) <= OWN or (route.method == "PUT" and "/v1/roles" in route.path):
            return None  # to make a role of one's own by the same name is no attack
        real = self._fill(route, self._insider.ids)
        made_up = self._fill(route, {})
        headers: Headers = [("Authorization", f"Bearer {self._insider.foreign}")]
        return Attempt(
            "another tenant's thing",
            route,
            self._bytes(route.method, real, headers),
            self._bytes(route.method, made_up, headers),
        )

    def tenant_mismatch(self, route: Route) -> Attempt:
        """The tenant is asked for by a header, in many spellings."""
        token = self._insider.foreign
        spelling = self._random.choice(["X-Tenant-ID", "x-tenant-id", "X-TENANT-ID"])
        values = self._random.choice(
            [["default"], ["mallory", "default"], ["default", "mallory"], ["mallory, default"],
             ["DEFAULT"], [" default"], ["mallory\tdefault"], ["*"], [""]]
        )  # fmt: skip
        headers: Headers = [("Authorization", f"Bearer {token}"), *((spelling, v) for v in values)]
        return self._attempt("tenant header", route, headers)

    def operators_business(self, route: Route) -> Attempt | None:
        """An administrator asks for what concerns every tenant."""
        if route.path not in OPERATORS_ONLY:
            return None
        token = self._random.choice([self._insider.foreign, self._insider.administrator])
        return self._attempt("operator's business", route, [("Authorization", f"Bearer {token}")])

    # --- what two readers could read differently

    def smuggled_header(self, route: Route) -> Attempt:
        """Headers that say who one is, folded, doubled, disguised; no credential."""
        pick = self._random
        hop = jwt(secrets.token_bytes(32), {"iss": "gateway", "aud": "registry", "sub": "operator"})
        smuggled: list[Headers] = [
            [("X-Principal", "operator"), ("X-Tenant-ID", "default")],
            [("X-User", "admin"), ("X-Forwarded-User", "admin"), ("Remote-User", "admin")],
            [("holdfast-hop", hop)],
            [("Holdfast-Hop", hop), ("holdfast-hop", hop)],
            [("holdfast.subject", "operator"), ("Holdfast-Subject", "operator")],
            [("X-Forwarded-For", "127.0.0.1"), ("X-Real-IP", "127.0.0.1")],
            [("Forwarded", "for=127.0.0.1;by=gateway;host=localhost")],
            [("X-Original-URL", route.path), ("X-Rewrite-URL", "/health")],
            [("X-HTTP-Method-Override", "GET"), ("X-Method-Override", "OPTIONS")],
            [("Cookie", "holdfast_session=a"), ("Cookie", "holdfast_session=b")],
            [("Cookie", "holdfast_session=operator; Path=/; $Version=1")],
            [("Authorization ", "Bearer operator")],
            [("X-A", "b\r\n Authorization: Bearer operator")],
            [("X-A", "b\r\n\tcontinued")],
            [("Connection", "Authorization, X-Principal"), ("X-Principal", "operator")],
            [("Proxy-Authorization", "Bearer operator")],
            [("Authorization", "Bearer  "), ("X-Api-Key", "operator")],
            [("Origin", "http://evil.example"), ("X-Principal", "operator")],
            [("Sec-Fetch-Site", "cross-site"), ("Cookie", "holdfast_session=x")],
            [("Upgrade", "h2c"), ("Connection", "Upgrade"), ("HTTP2-Settings", "AAMAAABkAAQ")],
            [("X_Principal", "operator"), ("Authorization_", "Bearer operator")],
            [("Content-Encoding", "gzip")],
        ]
        return self._attempt("smuggled header", route, pick.choice(smuggled))

    def path_trick(self, route: Route) -> Attempt:
        """The route by another spelling, or behind one that is open, without a credential."""
        pick, path = self._random, self._fill(route, self._insider.ids)
        bare = path.removeprefix("/")
        tricks = [
            f"/health/..{path}", f"/health/%2e%2e{path}", f"/health/..%2f{bare}", f"/ready;{path}",
            f"/{path}", f"/.{path}", f"{path};public=1", f"{path}/..;/", f"{path}%2f", f"{path}%00",
            f"{path}/", path.upper(), path.replace("/v1", "/V1"), path.replace("/v1/", "/v1//"),
            path.replace("/v1/", "/v1/%2e/"), path.replace("/", "%2f", 1), f"{path}?/health",
            f"{path}%3f/health", f"{path}#/health", path.replace("/", "\\"), f"{path}%20",
            f"/%2576{bare[1:]}", f"/health?{path}", f"{path}.json", f"{path}%0d%0aX: y",
            f"/login/..{path}", f"/static/..%5c..{path}", f"/{'/' * 40}{bare}", f"{path}/%c0%ae",
        ]  # fmt: skip
        chosen = pick.choice([trick for trick in tricks if not trick.startswith("/health?")])
        headers: Headers = []
        if pick.random() < 0.3:
            headers = [
                ("Authorization", "Bearer " + pick.choice(list(self._insider.dead.values())))
            ]
        return Attempt("path trick", route, self._bytes(route.method, chosen, headers))

    def framing(self, route: Route) -> Attempt:
        """A request that hides a second one, from a caller with a small credential."""
        pick = self._random
        hidden = (
            f"{route.method} {self._fill(route, self._insider.ids)} HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        frames: list[tuple[Headers, str]] = [
            ([("Content-Length", "5"), ("Transfer-Encoding", "chunked")], f"0\r\n\r\n{hidden}"),
            ([("Content-Length", "0"), ("Content-Length", str(len(hidden)))], hidden),
            ([("Transfer-Encoding", "chunked, identity")], f"0\r\n\r\n{hidden}"),
            ([("Transfer-Encoding", "xchunked")], f"0\r\n\r\n{hidden}"),
            ([("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "x")], f"0\r\n\r\n{hidden}"),
            ([("Content-Length", "+5")], hidden),
            ([("Content-Length", "5, 5")], hidden),
            ([("Content-Length", "-1")], hidden),
            ([("Content-Length", "0x10")], hidden),
            ([("Transfer-Encoding", "\x0bchunked")], f"0\r\n\r\n{hidden}"),
        ]
        headers, body = pick.choice(frames)
        top = f"POST /v1/login HTTP/1.1\r\nHost: {self._insider.host}\r\n"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return Attempt("framing", route, f"{top}{lines}\r\n{body}".encode("latin-1"))

    def host_game(self, route: Route) -> Attempt:
        """Another name for this host, or two of them; with a credential that would do elsewhere."""
        pick, host = self._random, self._insider.host
        path = self._fill(route, self._insider.ids)
        token = ("Authorization", f"Bearer {self._insider.dead['revoked key']}")
        evil = pick.choice(
            ["evil.example", f"{host}.evil.example", f"evil@{host}", "127.0.0.2", "0.0.0.0",
             "localhost.", f"{host}:x", "[::2]", "localhost%00", "metadata.internal", "0", ""]
        )  # fmt: skip
        games = [
            self._bytes(route.method, path, [token], host=evil),
            self._bytes(route.method, path, [token, ("Host", evil)]),
            self._bytes(route.method, f"http://{evil or 'x'}{path}", [token]),
            self._bytes(route.method, f"{evil or 'x'}:443", [token]),
        ]
        return Attempt("host game", route, pick.choice(games))

    # --- bytes

    def _attempt(self, kind: str, route: Route, headers: Headers) -> Attempt:
        path = self._fill(route, self._insider.ids)
        return Attempt(kind, route, self._bytes(route.method, path, headers))

    def _fill(self, route: Route, ids: Mapping[str, Sequence[str]]) -> str:
        path = route.path
        for name in route.names:
            known = ids.get(name)
            value = self._random.choice(known) if known else self._made_up(name)
            path = path.replace(f"{{{name}}}", value)
        return path

    def _made_up(self, name: str) -> str:
        if name in ("sequence", "position"):
            return "1"
        if name == "digest":
            return f"sha256:{secrets.token_hex(32)}"
        if name in ("name", "profile"):
            return f"none-{secrets.token_hex(4)}"
        return _id()

    def _bytes(self, method: str, target: str, headers: Headers, host: str | None = None) -> bytes:
        lines = [f"{method} {target} HTTP/1.1"]
        lines += [f"Host: {self._insider.host if host is None else host}"]
        lines += [f"{name}: {value}" for name, value in headers]
        body = b""
        if method in WRITES:
            body = b"{}"
            if not any(name.lower() == "content-length" for name, _ in headers):
                lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body


def _id() -> str:
    """A fresh id of the right shape."""
    stamp = int(time.time() * 1000).to_bytes(6, "big")
    raw = bytearray(stamp + secrets.token_bytes(10))
    raw[6], raw[8] = raw[6] & 0x0F | 0x70, raw[8] & 0x3F | 0x80
    text = bytes(raw).hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _signed_text(secret: bytes, claims: str) -> str:
    text = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_b64(claims.encode())}"
    return f"{text}.{_b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"
