"""Every setting there is: its name, default, meaning, guide aliases, and where its value came from.

Resolution: defaults, ``holdfast.toml``, environment, flags, in that order. One frozen object is
built here and handed down; nothing below ``app`` reads the environment. All that is wrong is
reported at once, and anything wrong stops the start: unknown ``HOLDFAST_…`` names, bad values, two
aliases that disagree.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.kernel.errors import Invalid, Problem

Convert = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Alias:
    """A guide's variable: its name, the guide's default, and how its value becomes ours.

    ``applied`` stands in for a default of the guide's that would open a door.
    """

    name: str
    family: str
    guide_default: str = ""
    convert: Convert = str
    applied: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. ``name`` is ``HOLDFAST_<SLICE>_<NAME>``; in the file it is ``slice.name``."""

    name: str
    convert: Convert
    default: Any
    meaning: str
    aliases: tuple[Alias, ...] = ()
    secret: bool = False
    file_variant: bool = False

    @property
    def key(self) -> str:
        """The attribute name: ``HOLDFAST_GATEWAY_BIND`` → ``gateway_bind``."""
        return self.name.removeprefix("HOLDFAST_").lower()


def _text(value: str) -> str:
    return value.strip()


def _path(value: str) -> Path:
    if not value.strip():
        raise ValueError("a path is needed")
    return Path(value).expanduser()


def _flag(value: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True}
    known |= {"0": False, "false": False, "no": False, "off": False}
    try:
        return known[value.strip().lower()]
    except KeyError:
        raise ValueError("true or false is needed") from None


def _whole(low: int, high: int) -> Convert:
    def convert(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high} is needed")
        return number

    return convert


def _seconds(low: float, high: float) -> Convert:
    def convert(value: str) -> float:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", value.strip())
        if not found:
            raise ValueError("a duration such as 30s or 5m is needed")
        factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2] or "s"]
        seconds = float(found[1]) * factor
        if not low <= seconds <= high:
            raise ValueError(f"between {low:g} and {high:g} seconds is needed")
        return seconds

    return convert


def _one_of(*choices: str) -> Convert:
    def convert(value: str) -> str:
        if value.strip().lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)} is needed")
        return value.strip().lower()

    return convert


def _list(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _numbers(low: int, high: int) -> Convert:
    """``name=number,name=number``; names in lower case."""
    one = _whole(low, high)

    def convert(value: str) -> tuple[str, ...]:
        found: dict[str, int] = {}
        for part in _list(value):
            name, equals, number = part.partition("=")
            if not equals or not name.strip() or name.strip().lower() in found:
                raise ValueError("name=number is needed, each name once, separated by commas")
            found[name.strip().lower()] = one(number)
        return tuple(f"{name}={number}" for name, number in found.items())

    return convert


def _address(value: str) -> str:
    """``host:port``; a bare port is not accepted, since it would hide where we listen."""
    host, separator, port = value.strip().rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("host:port is needed, such as 127.0.0.1:8090")
    return f"{host}:{int(port)}"


def _url(*schemes: str) -> Convert:
    def convert(value: str) -> str:
        scheme = value.split("://", 1)[0] if "://" in value else ""
        if scheme not in schemes:
            raise ValueError(
                f"a URL is needed with one of: {', '.join(f'{s}://' for s in schemes)}"
            )
        return value.rstrip("/") if scheme.startswith("http") else value

    return convert


def _networks(value: str) -> tuple[str, ...]:
    """Networks, or single addresses."""
    for part in _list(value):
        ipaddress.ip_network(part)
    return _list(value)


def _origins(value: str) -> tuple[str, ...]:
    """Origins of other sites; ``none`` is nobody's."""
    if value.strip().lower() == "none":
        return ()
    found = tuple(part.lower().rstrip("/") for part in _list(value))
    for each in found:
        if each != "*" and not re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d+)?", each):
            raise ValueError("origins are needed, such as https://app.example.org, or *")
    return found


def _guide_level(value: str) -> str:
    """A level of guide 3, which has more of them, and other names."""
    known = {"trace": "debug", "warn": "warning"}
    level: str = _one_of("debug", "info", "warning", "error")(known.get(value.lower(), value))
    return level


def _auth_mode(value: str) -> str:
    chosen: str = _one_of("none", "jwt", "apikey", "both")(value)
    return chosen


EVENT_LOG = "event log server"
AGENTS = "agent control plane"
AGENTS_AUTH = "agent control plane: authentication"
PLATFORM = "platform"
DOCUMENTS_AUTH = "documents: admin key"
AGENTS_TLS = "agent control plane: TLS"


def _origin(value: str) -> str:
    """A name that may stand in a signed note."""
    if value.strip() and not re.fullmatch(r"[A-Za-z0-9._/-]{1,200}", value.strip()):
        raise ValueError("letters, digits, dots, dashes and slashes, such as example.org/ledger")
    return value.strip().rstrip("/")


_HTTP = _url("http", "https")
NOTICE_TYPES = (
    "run.failed",
    "run.partial",
    "source.drifted",
    "source.shrunk",
    "source.stale",
    "source.fresh",
)
"""As :data:`holdfast.records.webhook.NOTICE_TYPES`; a test holds them equal."""
DATABASE_SCHEMES = ("sqlite", "postgresql")
OBJECT_SCHEMES = ("file", "s3")
ROLES = ("gateway", "identity", "registry", "coordinator", "aggregator", "reporter", "ledger")
PLANNED_ROLES = ("observer", "documents", "processor")
DEFAULT_PORTS = {
    "gateway": 8090,
    "identity": 8086,
    "registry": 8081,
    "aggregator": 8082,
    "coordinator": 8083,
    "reporter": 8084,
    "ledger": 8085,
}


GUIDE_URLS = frozenset({"registry", "aggregator", "coordinator", "reporter"})
"""The roles whose addresses guide 1 names by variables of its own."""


def _role_url(role: str) -> Setting:
    name = f"{role.upper()}_URL"
    guide = Alias(name, "collection gateway", f"http://{role}:{DEFAULT_PORTS[role]}", _HTTP)
    return Setting(
        f"HOLDFAST_{name}",
        _HTTP,
        "",
        f"Where the {role} answers, when it is another process",
        (guide,) if role in GUIDE_URLS else (),
    )


def _bind(role: str) -> Setting:
    return Setting(
        f"HOLDFAST_{role.upper()}_BIND",
        _address,
        f"127.0.0.1:{DEFAULT_PORTS[role]}",
        f"Address the {role} listens on; port 0 takes a free one",
    )


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "HOLDFAST_DATA_DIR",
        _path,
        Path("data"),
        "Where everything is kept",
        (Alias("VDB_DATA_DIR", EVENT_LOG, "", _path),),
    ),
    Setting(
        "HOLDFAST_LOG_LEVEL",
        _one_of("debug", "info", "warning", "error"),
        "info",
        "Least level logged",
        (Alias("VDB_LOG_LEVEL", EVENT_LOG, "info", _guide_level),),
    ),
    Setting("HOLDFAST_LOG_FORMAT", _one_of("console", "json"), "console", "How a log line looks"),
    Setting(
        "HOLDFAST_DATABASE_URL",
        _url(*DATABASE_SCHEMES),
        "",
        "State: sqlite:///PATH or postgresql://…; empty is SQLite in the data directory",
        (
            Alias("DB_DRIVER", "collection database", "sqlite", _one_of("sqlite", "postgres")),
            Alias("DB_DSN", "collection database", "", _text),
            Alias("PLATFORM_SQLITE_PATH", PLATFORM, "", _text),
        ),
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_OBJECTS_URL",
        _url(*OBJECT_SCHEMES),
        "",
        "Raw responses and report files: file:///PATH or s3://BUCKET/PREFIX",
    ),
    Setting(
        "HOLDFAST_DATABASE_PASSWORD",
        _text,
        "",
        "Password of the PostgreSQL role, when it is not in the URL",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_OBJECTS_S3_ENDPOINT",
        _HTTP,
        "",
        "Address of the S3-compatible store, when it is not Amazon's",
    ),
    Setting("HOLDFAST_OBJECTS_S3_REGION", _text, "us-east-1", "Region of the S3 store"),
    Setting(
        "HOLDFAST_OBJECTS_S3_ACCESS_KEY_ID",
        _text,
        "",
        "Access key of the S3 store",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_OBJECTS_S3_SECRET_ACCESS_KEY",
        _text,
        "",
        "Secret key of the S3 store",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_TRUST_DIR",
        _path,
        None,
        "Public keys by which roles know each other; default trusted/ among the keys",
    ),
    Setting(
        "HOLDFAST_KEYS_DIR",
        _path,
        None,
        "Role keys and peppers; default keys/ in the data directory",
    ),
    Setting(
        "HOLDFAST_KEYRING_URL",
        _url(*DATABASE_SCHEMES),
        "",
        "Wrapped keys, apart from the data: sqlite:///PATH or postgresql://…; empty is a file in "
        "the data directory, or with PostgreSQL a schema of its own beside the data",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_KEYRING_PASSWORD",
        _text,
        "",
        "Password of the keyring's PostgreSQL role, when it is not in the URL",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_KEYRING_MASTER_KEY",
        _text,
        "",
        "The master key, where the operator hands it in; empty is the file master.key among the "
        "keys",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_KEYRING_BACKUP_DAYS",
        _whole(1, 3650),
        7,
        "How long copies of the keyring are kept: after that an erased subject is unrecoverable",
    ),
    Setting("HOLDFAST_BACKUP_DIR", _path, None, "Backups of the data; default backups/"),
    Setting(
        "HOLDFAST_BACKUP_KEYS_DIR",
        _path,
        None,
        "Backups of the keys, kept apart and for less long; default key-backups/",
    ),
    Setting("HOLDFAST_SECRETS_DIR", _path, None, "Files for secret://file/NAME; default secrets/"),
    Setting(
        "HOLDFAST_GATEWAY_BIND",
        _address,
        f"127.0.0.1:{DEFAULT_PORTS['gateway']}",
        "Address the gateway listens on; port 0 takes a free one",
        (Alias("PLATFORM_HTTP_ADDR", PLATFORM, "0.0.0.0:8080", _address, "127.0.0.1:8080"),),
    ),
    *(_bind(role) for role in ROLES if role not in ("gateway", "ledger")),
    Setting(
        "HOLDFAST_LEDGER_BIND",
        _address,
        f"127.0.0.1:{DEFAULT_PORTS['ledger']}",
        "Address the ledger listens on; port 0 takes a free one",
        (Alias("VDB_BIND_ADDR", EVENT_LOG, "0.0.0.0:5432", _address, "127.0.0.1:5432"),),
    ),
    *(_role_url(role) for role in ROLES if role != "gateway"),
    Setting(
        "HOLDFAST_GATEWAY_HOSTS",
        _list,
        (),
        "Host names answered for besides the bound address and localhost",
    ),
    Setting(
        "HOLDFAST_TLS_ENABLED",
        _flag,
        None,
        "Whether roles serve TLS: true stops a start without a certificate, false leaves the files "
        "unused; unset, TLS is on where there is a certificate",
        (Alias("ARAGORA_TLS_ENABLED", AGENTS_TLS, "", _flag),),
    ),
    Setting(
        "HOLDFAST_TLS_CERTIFICATE_FILE",
        _path,
        None,
        "Certificate chain (PEM) that every role of the process serves with",
        (Alias("ARAGORA_TLS_CERT_FILE", AGENTS_TLS, "", _path),),
    ),
    Setting(
        "HOLDFAST_TLS_KEY_FILE",
        _path,
        None,
        "Private key (PEM) of that certificate",
        (Alias("ARAGORA_TLS_KEY_FILE", AGENTS_TLS, "", _path),),
    ),
    Setting(
        "HOLDFAST_TLS_CA_FILE",
        _path,
        None,
        "Authorities (PEM) that roles, drones and commands trust each other's certificates by, and "
        "no others",
        (Alias("ARAGORA_TLS_CA_FILE", AGENTS_TLS, "", _path),),
    ),
    Setting(
        "HOLDFAST_TLS_CLIENTS",
        _one_of("none", "optional", "required"),
        "none",
        "Whether callers are asked for a certificate of those authorities; a role's is bound to "
        "its every request, a drone's to its registration",
    ),
    Setting(
        "HOLDFAST_TLS_CLIENT_CERTIFICATE_FILE",
        _path,
        None,
        "Certificate chain (PEM) presented to others; {name} in it is the drone's name",
    ),
    Setting(
        "HOLDFAST_TLS_CLIENT_KEY_FILE",
        _path,
        None,
        "Private key (PEM) of that certificate; {name} in it is the drone's name",
    ),
    Setting(
        "HOLDFAST_GATEWAY_TLS_CERTIFICATE_FILE",
        _path,
        None,
        "Certificate chain (PEM) of the door, if it is another",
    ),
    Setting("HOLDFAST_GATEWAY_TLS_KEY_FILE", _path, None, "Private key (PEM) of the door"),
    Setting(
        "HOLDFAST_GATEWAY_TLS_CLIENTS",
        _one_of("none", "optional", "required"),
        "",
        "Whether the door asks for client certificates, if otherwise than the roles behind it: "
        "people have none, so optional is for a door that both people and drones come to",
    ),
    Setting(
        "HOLDFAST_GATEWAY_ADMIN_KEY",
        _text,
        "",
        "Bearer of your own making (32 characters or more) for the operator, besides the token in "
        "the data directory",
        (Alias("ADMIN_KEY", DOCUMENTS_AUTH),),
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_GATEWAY_TERMINATOR",
        _text,
        "",
        "Name of what ends TLS in front of the door, if something does (a proxy, an ingress)",
    ),
    Setting(
        "HOLDFAST_GATEWAY_TRUSTED_PROXIES",
        _networks,
        (),
        "Networks whose X-Forwarded-For is believed",
    ),
    Setting(
        "HOLDFAST_GATEWAY_ORIGINS",
        _origins,
        (),
        "Sites whose pages may ask, with a token of their own and never with a cookie: "
        "https://app.example.org, or * for any",
        (Alias("ARAGORA_CORS_ORIGINS", AGENTS, "*", _origins, applied="none"),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_KEYS_FILE",
        _path,
        None,
        "File of API keys (JSON), besides those that `holdfast apikey` makes",
        (Alias("AUTH_API_KEYS_FILE", "collection authentication", "", _path),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_KEYS_SECONDS",
        _seconds(0.1, 3600),
        30.0,
        "How soon an edit of that file counts",
        (
            Alias(
                "AUTH_API_KEYS_TTL_SECONDS", "collection authentication", "30", _seconds(0.1, 3600)
            ),
        ),
    ),
    Setting(
        "HOLDFAST_IDENTITY_JWT_SECRET_FILE",
        _path,
        None,
        "File of the secret (32 bytes or more) that signs HS256 tokens",
        (Alias("AUTH_JWT_HS256_SECRET_FILE", "collection authentication", "", _path),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_TOKEN_SECRET",
        _text,
        "",
        "That secret by value, where there is no file of it",
        (Alias("ARAGORA_JWT_SECRET", AGENTS_AUTH),),
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_IDENTITY_JWT_SECONDS",
        _whole(0, 10 * 365 * 86_400),
        0,
        "How far ahead such a token may end; 0 is no bound",
        (Alias("ARAGORA_JWT_EXPIRY", AGENTS_AUTH, "3600", _whole(1, 10 * 365 * 86_400)),),
    ),
    Setting("HOLDFAST_IDENTITY_JWT_ISSUER", _text, "", "Issuer that a token must name"),
    Setting("HOLDFAST_IDENTITY_JWT_AUDIENCE", _text, "", "Audience that a token must name"),
    Setting(
        "HOLDFAST_IDENTITY_JWKS_URL",
        _HTTP,
        "",
        "Where an issuer publishes the keys (JWK Set) of its RS256, ES256 or EdDSA tokens; issuer "
        "and audience are needed then",
    ),
    Setting(
        "HOLDFAST_IDENTITY_JWKS_STALE_SECONDS",
        _seconds(60, 30 * 86_400),
        86_400.0,
        "How long the last good keys hold while that address does not answer",
    ),
    Setting(
        "HOLDFAST_IDENTITY_DEFAULT_ROLE",
        _one_of("viewer", "operator", "approver", "auditor", "admin"),
        "viewer",
        "Role of a token that names none of ours, and of people of an allowed domain",
        (
            Alias(
                "ARAGORA_RBAC_DEFAULT_ROLE",
                AGENTS_AUTH,
                "viewer",
                _one_of("viewer", "operator", "approver", "auditor", "admin"),
            ),
        ),
    ),
    Setting(
        "HOLDFAST_IDENTITY_TENANT_REQUIRED",
        _flag,
        False,
        "Whether holders of keys and tokens must send X-Tenant-ID",
        (Alias("AUTH_TENANT_REQUIRED", "collection authentication", "false", _flag),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_SESSION_SECONDS",
        _seconds(60, 30 * 86_400),
        12 * 3600.0,
        "How long a browser stays signed in",
        (Alias("PLATFORM_SESSION_TTL_SECS", PLATFORM, "3600", _seconds(60, 30 * 86_400)),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_SESSION_IDLE_SECONDS",
        _seconds(60, 30 * 86_400),
        2 * 3600.0,
        "Silence after which a browser is signed out",
    ),
    Setting(
        "HOLDFAST_IDENTITY_WEBAUTHN_RP_ID",
        _text,
        "",
        "Name that passkeys belong to, such as example.org; empty: the name of the page's address",
        (Alias("PLATFORM_WEBAUTHN_RP_ID", PLATFORM, "", _text),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_WEBAUTHN_ORIGIN",
        _HTTP,
        "",
        "Address of the pages that passkeys are used on; empty: the one that was asked",
        (Alias("PLATFORM_WEBAUTHN_RP_ORIGIN", PLATFORM, "", _HTTP),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_GITHUB_CLIENT_ID",
        _text,
        "",
        "Client id of an OAuth app at GitHub; with it, people may sign in by GitHub",
        (Alias("PLATFORM_OAUTH_GITHUB_CLIENT_ID", PLATFORM, "", _text),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_GITHUB_CLIENT_SECRET",
        _text,
        "",
        "Its client secret",
        (Alias("PLATFORM_OAUTH_GITHUB_CLIENT_SECRET", PLATFORM, "", _text),),
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_IDENTITY_GITHUB_URL",
        _HTTP,
        "https://github.com",
        "Where GitHub is, when it is an enterprise's own",
    ),
    Setting(
        "HOLDFAST_IDENTITY_OAUTH_PROVIDER",
        _one_of("none", "google", "github", "oidc"),
        "none",
        "Whose accounts sign people in: google, github, or oidc with an issuer",
        (
            Alias(
                "ARAGORA_OAUTH_PROVIDER",
                AGENTS_AUTH,
                "",
                _one_of("none", "google", "github", "oidc"),
            ),
        ),
    ),
    Setting(
        "HOLDFAST_IDENTITY_OAUTH_CLIENT_ID",
        _text,
        "",
        "Client id at that provider",
        (Alias("ARAGORA_OAUTH_CLIENT_ID", AGENTS_AUTH, "", _text),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_OAUTH_CLIENT_SECRET",
        _text,
        "",
        "Client secret at that provider",
        (Alias("ARAGORA_OAUTH_CLIENT_SECRET", AGENTS_AUTH, "", _text),),
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_IDENTITY_OAUTH_ISSUER",
        _url("http", "https"),
        "",
        "The provider's issuer, exactly as it names itself (oidc)",
    ),
    Setting(
        "HOLDFAST_IDENTITY_OAUTH_ALLOW",
        _list,
        (),
        "Private host:port pairs that a provider, or the keys of tokens, may be at",
    ),
    Setting(
        "HOLDFAST_IDENTITY_OAUTH_DOMAINS",
        _list,
        (),
        "Domains whose verified addresses come without an invitation, with the default role",
    ),
    Setting(
        "HOLDFAST_IDENTITY_ADMIN_USERS",
        _list,
        (),
        "Verified addresses that come as administrators, each bound once to issuer and subject",
        (Alias("ARAGORA_ADMIN_USERS", AGENTS_AUTH, "", _list),),
    ),
    Setting(
        "HOLDFAST_SERVE_CONNECTIONS_MAX",
        _whole(1, 65536),
        1024,
        "Connections at once; more are refused with 503",
        (Alias("VDB_MAX_CONNECTIONS", EVENT_LOG, "1024", _whole(1, 65536)),),
    ),
    Setting(
        "HOLDFAST_SERVE_HEADER_SECONDS", _seconds(0.1, 300), 10.0, "Time for a request's headers"
    ),
    Setting(
        "HOLDFAST_SERVE_BODY_SECONDS", _seconds(0.1, 3600), 60.0, "Longest silence inside a body"
    ),
    Setting(
        "HOLDFAST_SERVE_IDLE_SECONDS",
        _seconds(0.1, 3600),
        75.0,
        "Time between requests of a connection; less than 5 s only if the same for every role",
        (Alias("VDB_IDLE_TIMEOUT_SECS", EVENT_LOG, "300", _seconds(0.1, 3600)),),
    ),
    Setting(
        "HOLDFAST_SERVE_REQUESTS_PER_SECOND",
        _whole(0, 1_000_000),
        0,
        "Requests per second of one principal, however many connections; 0 is no limit",
        (Alias("VDB_RATE_LIMIT_RPS", EVENT_LOG, "", _whole(1, 1_000_000)),),
    ),
    Setting(
        "HOLDFAST_SERVE_TENANT_REQUESTS_PER_SECOND",
        _whole(0, 1_000_000),
        0,
        "Requests per second of one tenant, all its principals together; 0 is no limit",
    ),
    Setting(
        "HOLDFAST_SERVE_ADDRESS_REQUESTS_PER_SECOND",
        _whole(0, 1_000_000),
        0,
        "Requests per second from one address (of IPv6 a /64), known or not; 0 is no limit",
    ),
    Setting(
        "HOLDFAST_SERVE_ADDRESS_CONNECTIONS_MAX",
        _whole(0, 65536),
        0,
        "Connections at once from one address (of IPv6 a /64) that is no trusted proxy; more are "
        "refused with 503; 0 is no limit of its own",
    ),
    Setting(
        "HOLDFAST_SERVE_STOP_SECONDS", _seconds(0.1, 600), 20.0, "Time to drain when told to stop"
    ),
    Setting(
        "HOLDFAST_METRICS_BIND",
        _address,
        "",
        "Address of a port with /metrics alone, for scrapers that bring no credential, such as "
        "0.0.0.0:9090; with the door's TLS; none if empty",
    ),
    Setting(
        "HOLDFAST_REGISTRY_PROFILES_DIR",
        _path,
        None,
        "Folder of profiles to publish and watch; "
        "default profiles/government, else profiles/ in the data directory",
        (Alias("PROFILES_DIR", "collection registry", "/app/profiles/government", _path),),
    ),
    Setting(
        "HOLDFAST_REGISTRY_WATCH_SECONDS",
        _seconds(0.1, 3600),
        2.0,
        "Pause between looks at the folder",
    ),
    Setting("HOLDFAST_FLEET_LEASE_SECONDS", _whole(1, 3600), 30, "How long a task is leased"),
    Setting(
        "HOLDFAST_FLEET_BEAT_SECONDS", _seconds(0.1, 300), 5.0, "Time between a worker's beats"
    ),
    Setting(
        "HOLDFAST_FLEET_LOST_SECONDS",
        _seconds(0.5, 3600),
        30.0,
        "Silence after which a worker is lost",
    ),
    Setting(
        "HOLDFAST_FLEET_BACKOFF_SECONDS",
        _seconds(0.01, 3600),
        10.0,
        "First pause before a failed task is tried again",
    ),
    Setting(
        "HOLDFAST_FLEET_WORKERS_BOUND",
        _flag,
        False,
        "Whether workers are refused that neither show a certificate nor prove their key, as those "
        "of earlier releases",
    ),
    Setting(
        "HOLDFAST_FLEET_REQUESTS_PER_HOST",
        _whole(1, 1000),
        4,
        "Requests to one host at once, over all drones",
    ),
    Setting(
        "HOLDFAST_FLEET_REQUESTS_PER_HOST_OF",
        _numbers(1, 1000),
        (),
        "Hosts to be asked otherwise: host=1,host:port=8",
    ),
    Setting(
        "HOLDFAST_FLEET_TASKS_KEPT_DAYS",
        _whole(0, 36_500),
        30,
        "Days a finished task is kept; 0 keeps all of them",
    ),
    Setting(
        "HOLDFAST_FLEET_LEASES_URL",
        _url("memory", "sql"),
        "memory://",
        "Beats and leadership: memory:// or sql://",
    ),
    Setting(
        "HOLDFAST_LEDGER_TLS_CERTIFICATE_FILE",
        _path,
        None,
        "Certificate chain (PEM) of the ledger's own door, if it is another",
        (Alias("VDB_TLS_CERT", EVENT_LOG, "", _path),),
    ),
    Setting(
        "HOLDFAST_LEDGER_TLS_KEY_FILE",
        _path,
        None,
        "Private key (PEM) of the ledger's own door",
        (Alias("VDB_TLS_KEY", EVENT_LOG, "", _path),),
    ),
    Setting(
        "HOLDFAST_LEDGER_AUTH_MODE",
        _auth_mode,
        "none",
        "Credentials at the ledger's own door besides the operator token: jwt, apikey or both",
        (Alias("VDB_AUTH_MODE", EVENT_LOG, "none", _auth_mode),),
    ),
    Setting(
        "HOLDFAST_LEDGER_JWT_SECRET",
        _text,
        "",
        "Secret (32 bytes or more) that signs the HS256 tokens taken at the ledger's own door",
        (Alias("VDB_JWT_SECRET", EVENT_LOG),),
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_LEDGER_JWT_ISSUER",
        _text,
        "",
        "Issuer that such a token must name",
        (Alias("VDB_JWT_ISSUER", EVENT_LOG, "craton"),),
    ),
    Setting(
        "HOLDFAST_LEDGER_JWT_AUDIENCE",
        _text,
        "",
        "Audience that such a token must name",
        (Alias("VDB_JWT_AUDIENCE", EVENT_LOG, "craton"),),
    ),
    Setting(
        "HOLDFAST_LEDGER_JWT_SECONDS",
        _whole(1, 10 * 365 * 86_400),
        3600,
        "How far ahead such a token may end",
        (Alias("VDB_JWT_EXPIRATION_SECS", EVENT_LOG, "3600", _whole(1, 10 * 365 * 86_400)),),
    ),
    Setting(
        "HOLDFAST_LEDGER_REPLICATION",
        _one_of("none", "single-node", "cluster"),
        "none",
        "Whether several instances serve one log: cluster needs PostgreSQL",
        (
            Alias(
                "VDB_REPLICATION_MODE",
                EVENT_LOG,
                "none",
                _one_of("none", "single-node", "cluster"),
            ),
        ),
    ),
    Setting(
        "HOLDFAST_LEDGER_REPLICA",
        _whole(0, 255),
        0,
        "Number of this instance among several; it names it in logs and leases",
        (Alias("VDB_REPLICA_ID", EVENT_LOG, "0", _whole(0, 255)),),
    ),
    Setting(
        "HOLDFAST_LEDGER_ORIGIN",
        _origin,
        "",
        "Name under which logs are signed, such as example.org/ledger; made once if blank",
    ),
    Setting(
        "HOLDFAST_LEDGER_WITNESSES",
        _list,
        (),
        "Witnesses that cosign checkpoints: KEY@URL, each with its C2SP verifier key",
    ),
    Setting(
        "HOLDFAST_LEDGER_CHECKPOINT_SECONDS",
        _seconds(0.1, 3600),
        1.0,
        "Pause between checkpoints that are signed without being asked for",
    ),
    Setting(
        "HOLDFAST_LEDGER_LOOK_SECONDS",
        _seconds(0.1, 7 * 86400),
        3600.0,
        "Pause between looks over the whole ledger for damage, each at a twentieth of a core",
    ),
    Setting(
        "HOLDFAST_WATCH_WEBHOOK_URL",
        _HTTP,
        "",
        "Where notices (failed runs, changed shapes, silence) are posted; nowhere if empty",
    ),
    Setting(
        "HOLDFAST_WATCH_WEBHOOK_SECRET_FILE",
        _path,
        None,
        "File with the secret under which deliveries are signed; needed with a webhook",
    ),
    Setting(
        "HOLDFAST_WATCH_WEBHOOK_ALLOW",
        _list,
        (),
        "Private host:port pairs that the webhook may be at",
    ),
    Setting(
        "HOLDFAST_WATCH_WEBHOOK_TYPES",
        _list,
        NOTICE_TYPES,
        "Which notices the webhook is told",
    ),
    Setting("HOLDFAST_RECORDS_RAW_BYTES_MAX", _whole(1, 2**40), 2**31, "Largest raw response kept"),
    Setting(
        "HOLDFAST_REPORTS_SECONDS", _seconds(1, 3600), 120.0, "Longest computation of a report"
    ),
    Setting(
        "HOLDFAST_REPORTS_MEMORY_MB",
        _whole(128, 1 << 20),
        2048,
        "Memory for one report's computation",
    ),
    Setting(
        "HOLDFAST_REPORTS_QUERY_SECONDS",
        _seconds(1, 3600),
        30.0,
        "Longest query of `holdfast query`, and longest gathering of its tables",
    ),
    Setting(
        "HOLDFAST_REPORTS_QUERY_MEMORY_MB",
        _whole(256, 1 << 20),
        1024,
        "Memory for one query's process",
    ),
    Setting(
        "HOLDFAST_REPORTS_QUERY_ROWS_MAX",
        _whole(1, 10_000_000),
        100_000,
        "Most rows that a query is answered with",
    ),
    Setting(
        "HOLDFAST_REPORTS_QUERY_INPUT_MB",
        _whole(1, 1 << 20),
        256,
        "Most megabytes of tables that a query may speak of, as they are stored",
    ),
    Setting(
        "HOLDFAST_DRONE_CONTROL_PLANE",
        _HTTP,
        "",
        "The gateway a drone works for",
        (Alias("CONTROL_PLANE", "collection drone", "", _HTTP),),
    ),
    Setting(
        "HOLDFAST_DRONE_ID",
        _text,
        "",
        "Name of the drone; made and kept if blank; with --count N it gets -1 to -N",
        (Alias("DRONE_ID", "collection drone"),),
    ),
    Setting(
        "HOLDFAST_DRONE_JOIN_TOKEN_FILE",
        _path,
        None,
        "File with the join token from `holdfast worker token`",
    ),
    Setting(
        "HOLDFAST_DRONE_PROCESS_INTERVAL",
        _seconds(0.01, 86400),
        None,
        "Pause between empty polls; unset, the drone waits at the coordinator instead",
        (Alias("PROCESS_INTERVAL", "collection drone", "", _seconds(0.01, 86400)),),
    ),
    Setting(
        "HOLDFAST_COLLECT_CONTACT", _text, "", "E-mail or page of the operator, for the User-Agent"
    ),
    Setting(
        "HOLDFAST_COLLECT_REPLAY_FILE",
        _path,
        None,
        "Map of addresses to recorded copies (operator only)",
    ),
    Setting("HOLDFAST_COLLECT_ALLOW", _list, (), "Private host:port pairs that may be fetched"),
    Setting(
        "HOLDFAST_COLLECT_RESOLVER", _text, "system", "system, dns:ADDRESS[:PORT] or file:PATH"
    ),
    Setting(
        "HOLDFAST_COLLECT_CA_FILE", _path, None, "Further certificate authorities (PEM) for sources"
    ),
    Setting(
        "HOLDFAST_COLLECT_SPOOL_DIR",
        _path,
        None,
        "Where drones spool; default spool/ in the data directory",
    ),
    Setting(
        "HOLDFAST_OPERATOR_TOKEN_FILE",
        _path,
        None,
        "File with the token that commands send: the operator's, or an API key. Default: the "
        "operator token of the data directory",
    ),
)

NOT_SETTINGS = re.compile(
    # IMAGE and UID are for the Compose files.
    r"HOLDFAST_(URL|SECRET_.+|CI|RECORDED_SOURCES|VECTORS|TEST_.+|SOAK_.+|IMAGE|UID)"
    # What Kubernetes injects for a Service called holdfast or holdfast-<role>.
    r"|HOLDFAST(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?)"
    r"|HOLDFAST(_[A-Z0-9]+)*_PORT(_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?"
)
"""Names that begin with ``HOLDFAST_`` and are no settings of ours."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """One setting's value and where it came from."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, resolved. Attribute access by key: ``settings["gateway_bind"]``."""

    resolved: Mapping[str, Resolved]
    warnings: tuple[str, ...] = field(default=())

    def __getitem__(self, key: str) -> Any:
        return self.resolved[key].value

    def origin(self, key: str) -> str:
        """``default``, the file, the variable or the flag that set it."""
        return self.resolved[key].origin

    @property
    def data_dir(self) -> Path:
        path: Path = self["data_dir"]
        return path

    @property
    def keys_dir(self) -> Path:
        return self["keys_dir"] or self.data_dir / "keys"

    @property
    def trust_dir(self) -> Path:
        return self["trust_dir"] or self.keys_dir / "trusted"

    @property
    def secrets_dir(self) -> Path:
        return self["secrets_dir"] or self.data_dir / "secrets"

    @property
    def spool_dir(self) -> Path:
        return self["collect_spool_dir"] or self.data_dir / "spool"

    @property
    def database_url(self) -> str:
        return self["database_url"] or f"sqlite:///{(self.data_dir / 'state' / 'holdfast.db')}"

    @property
    def objects_url(self) -> str:
        return self["objects_url"] or f"file://{(self.data_dir / 'objects').resolve()}"

    @property
    def profiles_dir(self) -> Path:
        if self["registry_profiles_dir"] is not None:
            named: Path = self["registry_profiles_dir"]
            return named
        shipped = Path("profiles/government")
        return shipped if shipped.is_dir() else self.data_dir / "profiles"


def resolve(
    environment: Mapping[str, str], flags: Mapping[str, str] | None = None, file: Path | None = None
) -> Settings:
    """Resolve all settings or raise :class:`Invalid` that lists everything that is wrong."""
    settings, problems = examine(environment, flags, file)
    if problems:
        raise Invalid(
            "cannot start: some settings are wrong",
            code="settings-invalid",
            problems=problems,
            hint="`holdfast config show` prints every setting with its meaning",
        )
    return settings


def examine(
    environment: Mapping[str, str], flags: Mapping[str, str] | None = None, file: Path | None = None
) -> tuple[Settings, list[Problem]]:
    """All settings, and everything that is wrong; a wrong one counts as not set."""
    problems: list[Problem] = []
    sources: dict[str, list[tuple[str, str, Convert]]] = {s.key: [] for s in SETTINGS}
    _from_file(file, sources, problems)
    _from_environment(environment, sources, problems)
    for key, value in (flags or {}).items():
        setting = _BY_KEY[key]
        sources[key].append((f"--{key.replace('_', '-')}", value, setting.convert))
    resolved = {s.key: _pick(s, sources[s.key], problems) for s in SETTINGS}
    _apply_families(environment, resolved)
    return Settings(resolved), problems


_BY_KEY = {setting.key: setting for setting in SETTINGS}
_BY_NAME = {setting.name: setting for setting in SETTINGS}
ALIASES: dict[str, tuple[Setting, Alias]] = {
    alias.name: (setting, alias) for setting in SETTINGS for alias in setting.aliases
}


def _from_file(
    file: Path | None, sources: dict[str, list[tuple[str, str, Convert]]], problems: list[Problem]
) -> None:
    if file is None:
        return
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        problems.append(Problem(str(file), f"cannot be read: {error}"))
        return
    flat: dict[str, Any] = {}
    for section, value in content.items():
        members = value.items() if isinstance(value, dict) else [("", value)]
        for name, item in members:
            flat["_".join(part for part in (section, name) if part)] = item
    for key, item in flat.items():
        setting = _BY_KEY.get(key)
        if setting is None:
            problems.append(Problem(f"{file}: {key}", "is not a setting", _near(key, _BY_KEY)))
            continue
        text = ",".join(map(str, item)) if isinstance(item, list) else str(item)
        sources[key].append((str(file), text, setting.convert))


def _from_environment(
    environment: Mapping[str, str],
    sources: dict[str, list[tuple[str, str, Convert]]],
    problems: list[Problem],
) -> None:
    for name, value in environment.items():
        if not name.startswith("HOLDFAST_") or NOT_SETTINGS.fullmatch(name):
            continue
        setting = _BY_NAME.get(name)
        if setting is not None:
            sources[setting.key].append((name, value, setting.convert))
            continue
        of_file = _BY_NAME.get(name.removesuffix("_FILE"))
        if name.endswith("_FILE") and of_file is not None and of_file.file_variant:
            try:
                content = Path(value).read_text(encoding="utf-8").strip()
                sources[of_file.key].append((name, content, of_file.convert))
            except OSError as error:
                problems.append(Problem(name, f"cannot read {value}: {error.strerror}"))
            except UnicodeDecodeError:
                problems.append(Problem(name, f"cannot read {value}: it is no text"))
            continue
        problems.append(Problem(name, "is not a setting", _near(name, _BY_NAME)))
    for name, (setting, alias) in ALIASES.items():
        value = environment.get(name, "")
        if value and setting.key != "database_url" and not _service_link(name, value):
            sources[setting.key].append((name, value, alias.convert))
    _from_database_aliases(environment, sources["database_url"], problems)


def _from_database_aliases(
    environment: Mapping[str, str],
    found: list[tuple[str, str, Convert]],
    problems: list[Problem],
) -> None:
    """``DB_DRIVER`` and ``DB_DSN`` of guide 1 name one thing together; guide 3's is a path."""
    if path := environment.get("PLATFORM_SQLITE_PATH", "").strip():
        found.append(("PLATFORM_SQLITE_PATH", f"sqlite:///{path}", _url(*DATABASE_SCHEMES)))
    driver, dsn = environment.get("DB_DRIVER", "").lower(), environment.get("DB_DSN", "")
    if not driver and not dsn:
        return
    if driver not in ("", "sqlite", "postgres"):
        problems.append(Problem("DB_DRIVER", f"{driver!r} is not known", "sqlite or postgres"))
    elif driver == "postgres":
        if not dsn:
            problems.append(Problem("DB_DSN", "is needed when DB_DRIVER is postgres"))
        else:
            url = re.sub(r"^postgres(ql)?://", "postgresql://", dsn)
            found.append(("DB_DSN", url, _url(*DATABASE_SCHEMES)))
    elif dsn and not driver and re.match(r"^postgres(ql)?://", dsn):
        problems.append(
            Problem("DB_DRIVER", "is needed: DB_DSN names PostgreSQL", "DB_DRIVER=postgres")
        )
    elif dsn:
        path = dsn.removeprefix("sqlite://").removeprefix("file:")
        found.append(
            (
                "DB_DSN",
                f"sqlite:///{path.lstrip('/') if dsn.startswith('sqlite:///') else path}",
                _url(*DATABASE_SCHEMES),
            )
        )


def _pick(
    setting: Setting, found: list[tuple[str, str, Convert]], problems: list[Problem]
) -> Resolved:
    converted: list[tuple[str, Any]] = []
    for origin, text, convert in found:
        try:
            converted.append((origin, convert(text)))
        except ValueError as error:
            shown = "the value" if setting.secret else repr(text)
            reason = str(error) or "is not right"
            if reason.startswith("invalid literal"):
                reason = "a whole number is needed"
            problems.append(Problem(origin, f"{shown}: {reason}"))
    if not converted:
        return Resolved(setting.default, "default")
    in_environment = [(o, v) for o, v in converted if not o.startswith("--") and o.isupper()]
    if len({repr(value) for _, value in in_environment}) > 1:
        names = " and ".join(origin for origin, _ in in_environment)
        problems.append(Problem(names, "disagree", "set one of them"))
    origin, value = converted[-1]
    return Resolved(value, origin)


def _apply_families(environment: Mapping[str, str], resolved: dict[str, Resolved]) -> None:
    """A guide table's defaults hold when one of its variables is set, and only then."""
    active = {alias.family for name, (_, alias) in ALIASES.items() if environment.get(name)}
    for name, (setting, alias) in ALIASES.items():
        if alias.family not in active or not alias.guide_default or setting.key == "database_url":
            continue
        if resolved[setting.key].origin == "default":
            value = alias.convert(alias.applied or alias.guide_default)
            resolved[setting.key] = Resolved(value, f"guide default of {name}")


def _service_link(name: str, value: str) -> bool:
    """What Kubernetes injects for a Service of that name: ``tcp://…``, never an address of ours."""
    return value.startswith("tcp://") and name.endswith("_PORT")


def _near(name: str, known: Mapping[str, Any]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"did you mean {close[0]}?" if close else ""
