"""Every setting there is: its name, default, meaning, and the guides' names for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.app import convert
from holdfast.app.convert import Convert


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


# Families: a guide's defaults hold where one variable of the same family is set.
EVENT_LOG = "event log server"
AGENTS = "agent control plane"
AGENTS_AUTH = "agent control plane: authentication"
PLATFORM = "platform"
DOCUMENTS_AUTH = "documents: admin key"
AGENTS_TLS = "agent control plane: TLS"

NOTICE_TYPES = (
    "run.failed",
    "run.partial",
    "run.withheld",
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


_HTTP = convert.url("http", "https")


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
        convert.address,
        f"127.0.0.1:{DEFAULT_PORTS[role]}",
        f"Address the {role} listens on; port 0 takes a free one",
    )


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "HOLDFAST_DATA_DIR",
        convert.path,
        Path("data"),
        "Where everything is kept; not in the file, which may lie there",
        (Alias("VDB_DATA_DIR", EVENT_LOG, "", convert.path),),
    ),
    Setting(
        "HOLDFAST_LOG_LEVEL",
        convert.one_of("debug", "info", "warning", "error"),
        "info",
        "Least level logged",
        (
            Alias("VDB_LOG_LEVEL", EVENT_LOG, "info", convert.guide_level),
            Alias("ARAGORA_LOG_LEVEL", AGENTS, "info", convert.guide_level),
        ),
    ),
    Setting(
        "HOLDFAST_LOG_FORMAT", convert.one_of("console", "json"), "console", "How a log line looks"
    ),
    Setting(
        "HOLDFAST_DATABASE_URL",
        convert.url(*DATABASE_SCHEMES),
        "",
        "State: sqlite:///PATH or postgresql://…; unset, it is SQLite in the data directory",
        (
            Alias(
                "DB_DRIVER", "collection database", "sqlite", convert.one_of("sqlite", "postgres")
            ),
            Alias("DB_DSN", "collection database", "", convert.text),
            Alias("PLATFORM_SQLITE_PATH", PLATFORM, "", convert.text),
        ),
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_OBJECTS_URL",
        convert.url(*OBJECT_SCHEMES),
        "",
        "Raw responses and report files: file:///PATH or s3://BUCKET/PREFIX; unset, it is objects/ "
        "in the data directory",
    ),
    Setting(
        "HOLDFAST_DATABASE_PASSWORD",
        convert.secret,
        "",
        "Password of the PostgreSQL role, when it is not in the URL",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_DATABASE_UNFLUSHED",
        convert.flag,
        False,
        "Whether a PostgreSQL server with fsync or full_page_writes off is taken, which loses at a "
        "power cut what it acknowledged: for tests and benchmarks; readiness is degraded",
    ),
    Setting(
        "HOLDFAST_OBJECTS_S3_ENDPOINT",
        _HTTP,
        "",
        "Address of the S3-compatible store, when it is not Amazon's",
    ),
    Setting("HOLDFAST_OBJECTS_S3_REGION", convert.text, "us-east-1", "Region of the S3 store"),
    Setting(
        "HOLDFAST_OBJECTS_S3_ACCESS_KEY_ID",
        convert.secret,
        "",
        "Access key of the S3 store",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_OBJECTS_S3_SECRET_ACCESS_KEY",
        convert.secret,
        "",
        "Secret key of the S3 store",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_TRUST_DIR",
        convert.path,
        None,
        "Public keys by which roles know each other; default trusted/ among the keys",
    ),
    Setting(
        "HOLDFAST_KEYS_DIR",
        convert.path,
        None,
        "Role keys and peppers; default keys/ in the data directory",
    ),
    Setting(
        "HOLDFAST_KEYRING_URL",
        convert.url(*DATABASE_SCHEMES),
        "",
        "Wrapped keys, apart from the data: sqlite:///PATH or postgresql://…; unset, it is a file "
        "in the data directory, or with PostgreSQL a schema of its own beside the data",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_KEYRING_PASSWORD",
        convert.secret,
        "",
        "Password of the keyring's PostgreSQL role, when it is not in the URL",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_KEYRING_MASTER_KEY",
        convert.secret,
        "",
        "The master key, where the operator hands it in; unset, it is the file master.key among "
        "the keys",
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_KEYRING_BACKUP_DAYS",
        convert.whole(1, 3650),
        7,
        "How many days copies of the keyring are kept: after that an erased subject is "
        "unrecoverable",
    ),
    Setting(
        "HOLDFAST_KEYRING_WAL_DAYS",
        convert.whole(1, 3650),
        7,
        "How many days the PostgreSQL server under the keyring, its archives, replicas and backups "
        "keep write-ahead log: an erased subject is not told to be unrecoverable before",
    ),
    Setting(
        "HOLDFAST_BACKUP_DIR",
        convert.path,
        None,
        "Backups of the data; default backups/ in the data directory",
    ),
    Setting(
        "HOLDFAST_BACKUP_KEYS_DIR",
        convert.path,
        None,
        "Backups of the keys, kept apart and for less long; default key-backups/ in the data "
        "directory",
    ),
    Setting(
        "HOLDFAST_SECRETS_DIR",
        convert.path,
        None,
        "Files for secret://file/NAME; default secrets/ in the data directory",
    ),
    Setting(
        "HOLDFAST_GATEWAY_BIND",
        convert.address,
        f"127.0.0.1:{DEFAULT_PORTS['gateway']}",
        "Address the gateway listens on; port 0 takes a free one",
        (Alias("PLATFORM_HTTP_ADDR", PLATFORM, "0.0.0.0:8080", convert.address, "127.0.0.1:8080"),),
    ),
    *(_bind(role) for role in ROLES if role not in ("gateway", "ledger")),
    Setting(
        "HOLDFAST_LEDGER_BIND",
        convert.address,
        f"127.0.0.1:{DEFAULT_PORTS['ledger']}",
        "Address the ledger listens on; port 0 takes a free one",
        (Alias("VDB_BIND_ADDR", EVENT_LOG, "0.0.0.0:5432", convert.address, "127.0.0.1:5432"),),
    ),
    *(_role_url(role) for role in ROLES if role != "gateway"),
    Setting(
        "HOLDFAST_GATEWAY_HOSTS",
        convert.hosts,
        (),
        "Host names answered for besides the bound address and localhost",
    ),
    Setting(
        "HOLDFAST_TLS_ENABLED",
        convert.flag,
        None,
        "Whether roles serve TLS: true stops a start without a certificate, false leaves the files "
        "unused; unset, TLS is on where there is a certificate",
        (Alias("ARAGORA_TLS_ENABLED", AGENTS_TLS, "", convert.flag),),
    ),
    Setting(
        "HOLDFAST_TLS_CERTIFICATE_FILE",
        convert.path,
        None,
        "Certificate chain (PEM) that every role of the process serves with",
        (Alias("ARAGORA_TLS_CERT_FILE", AGENTS_TLS, "", convert.path),),
    ),
    Setting(
        "HOLDFAST_TLS_KEY_FILE",
        convert.path,
        None,
        "Private key (PEM) of that certificate",
        (Alias("ARAGORA_TLS_KEY_FILE", AGENTS_TLS, "", convert.path),),
    ),
    Setting(
        "HOLDFAST_TLS_CA_FILE",
        convert.path,
        None,
        "Authorities (PEM) that roles, drones and commands trust each other's certificates by, and "
        "no others",
        (Alias("ARAGORA_TLS_CA_FILE", AGENTS_TLS, "", convert.path),),
    ),
    Setting(
        "HOLDFAST_TLS_CLIENTS",
        convert.one_of("none", "optional", "required"),
        "none",
        "Whether callers are asked for a certificate of those authorities; a role's is bound to "
        "its every request, a drone's to its registration",
    ),
    Setting(
        "HOLDFAST_TLS_CLIENT_CERTIFICATE_FILE",
        convert.path,
        None,
        "Certificate chain (PEM) presented to others; {name} in it is the drone's name",
    ),
    Setting(
        "HOLDFAST_TLS_CLIENT_KEY_FILE",
        convert.path,
        None,
        "Private key (PEM) of that certificate; {name} in it is the drone's name",
    ),
    Setting(
        "HOLDFAST_GATEWAY_TLS_CERTIFICATE_FILE",
        convert.path,
        None,
        "Certificate chain (PEM) of the door, if it is another",
    ),
    Setting("HOLDFAST_GATEWAY_TLS_KEY_FILE", convert.path, None, "Private key (PEM) of the door"),
    Setting(
        "HOLDFAST_GATEWAY_TLS_CLIENTS",
        convert.one_of("none", "optional", "required"),
        "",
        "Whether the door asks for client certificates, if otherwise than the roles behind it: "
        "people have none, so optional is for a door that both people and drones come to",
    ),
    Setting(
        "HOLDFAST_GATEWAY_ADMIN_KEY",
        convert.secret,
        "",
        "Bearer of your own making (32 characters or more) for the operator, besides the token in "
        "the data directory",
        (Alias("ADMIN_KEY", DOCUMENTS_AUTH),),
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_GATEWAY_TERMINATOR",
        convert.text,
        "",
        "Name of what ends TLS in front of the door, if something does (a proxy, an ingress)",
    ),
    Setting(
        "HOLDFAST_GATEWAY_TRUSTED_PROXIES",
        convert.networks,
        (),
        "Networks whose X-Forwarded-For is believed",
    ),
    Setting(
        "HOLDFAST_GATEWAY_ORIGINS",
        convert.origins,
        (),
        "Sites whose pages may ask, with a token of their own and never with a cookie: "
        "https://app.example.org, or * for any",
        (Alias("ARAGORA_CORS_ORIGINS", AGENTS, "*", convert.origins, applied="none"),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_KEYS_FILE",
        convert.path,
        None,
        "File of API keys (JSON), besides those that `holdfast apikey` makes",
        (Alias("AUTH_API_KEYS_FILE", "collection authentication", "", convert.path),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_KEYS_SECONDS",
        convert.seconds(0.1, 3600),
        30.0,
        "How soon an edit of that file counts",
        (
            Alias(
                "AUTH_API_KEYS_TTL_SECONDS",
                "collection authentication",
                "30",
                convert.seconds(0.1, 3600),
            ),
        ),
    ),
    Setting(
        "HOLDFAST_IDENTITY_JWT_SECRET_FILE",
        convert.path,
        None,
        "File of the secret (32 bytes or more) that signs HS256 tokens",
        (Alias("AUTH_JWT_HS256_SECRET_FILE", "collection authentication", "", convert.path),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_TOKEN_SECRET",
        convert.secret,
        "",
        "That secret by value, where there is no file of it",
        (Alias("ARAGORA_JWT_SECRET", AGENTS_AUTH),),
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_IDENTITY_JWT_SECONDS",
        convert.whole(0, 10 * 365 * 86_400),
        0,
        "How many seconds ahead such a token may end; 0 is no bound",
        (Alias("ARAGORA_JWT_EXPIRY", AGENTS_AUTH, "3600", convert.whole(1, 10 * 365 * 86_400)),),
    ),
    Setting("HOLDFAST_IDENTITY_JWT_ISSUER", convert.text, "", "Issuer that a token must name"),
    Setting("HOLDFAST_IDENTITY_JWT_AUDIENCE", convert.text, "", "Audience that a token must name"),
    Setting(
        "HOLDFAST_IDENTITY_JWKS_URL",
        _HTTP,
        "",
        "Where an issuer publishes the keys (JWK Set) of its RS256, ES256 or EdDSA tokens; issuer "
        "and audience are needed then",
    ),
    Setting(
        "HOLDFAST_IDENTITY_JWKS_STALE_SECONDS",
        convert.seconds(60, 30 * 86_400),
        86_400.0,
        "How long the last good keys hold while that address does not answer",
    ),
    Setting(
        "HOLDFAST_IDENTITY_DEFAULT_ROLE",
        convert.one_of("viewer", "operator", "approver", "auditor", "admin"),
        "viewer",
        "Role of a token that names none of ours, and of people of an allowed domain",
        (
            Alias(
                "ARAGORA_RBAC_DEFAULT_ROLE",
                AGENTS_AUTH,
                "viewer",
                convert.one_of("viewer", "operator", "approver", "auditor", "admin"),
            ),
        ),
    ),
    Setting(
        "HOLDFAST_IDENTITY_TENANT_REQUIRED",
        convert.flag,
        False,
        "Whether holders of keys and tokens must send X-Tenant-ID",
        (Alias("AUTH_TENANT_REQUIRED", "collection authentication", "false", convert.flag),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_SESSION_SECONDS",
        convert.seconds(60, 30 * 86_400),
        12 * 3600.0,
        "How long a browser stays signed in",
        (Alias("PLATFORM_SESSION_TTL_SECS", PLATFORM, "3600", convert.seconds(60, 30 * 86_400)),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_SESSION_IDLE_SECONDS",
        convert.seconds(60, 30 * 86_400),
        2 * 3600.0,
        "Silence after which a browser is signed out",
    ),
    Setting(
        "HOLDFAST_IDENTITY_WEBAUTHN_RP_ID",
        convert.text,
        "",
        "Name that passkeys belong to, such as example.org; unset, the name of the page's address",
        (Alias("PLATFORM_WEBAUTHN_RP_ID", PLATFORM, "", convert.text),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_WEBAUTHN_ORIGIN",
        _HTTP,
        "",
        "Address of the pages that passkeys are used on; unset, the one that was asked",
        (Alias("PLATFORM_WEBAUTHN_RP_ORIGIN", PLATFORM, "", _HTTP),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_GITHUB_CLIENT_ID",
        convert.text,
        "",
        "Client id of an OAuth app at GitHub; with it, people may sign in by GitHub",
        (Alias("PLATFORM_OAUTH_GITHUB_CLIENT_ID", PLATFORM, "", convert.text),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_GITHUB_CLIENT_SECRET",
        convert.secret,
        "",
        "Its client secret",
        (Alias("PLATFORM_OAUTH_GITHUB_CLIENT_SECRET", PLATFORM, "", convert.text),),
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
        convert.one_of("none", "google", "github", "oidc"),
        "none",
        "Whose accounts sign people in: google, github, or oidc with an issuer",
        (
            Alias(
                "ARAGORA_OAUTH_PROVIDER",
                AGENTS_AUTH,
                "",
                convert.one_of("none", "google", "github", "oidc"),
            ),
        ),
    ),
    Setting(
        "HOLDFAST_IDENTITY_OAUTH_CLIENT_ID",
        convert.text,
        "",
        "Client id at that provider",
        (Alias("ARAGORA_OAUTH_CLIENT_ID", AGENTS_AUTH, "", convert.text),),
    ),
    Setting(
        "HOLDFAST_IDENTITY_OAUTH_CLIENT_SECRET",
        convert.secret,
        "",
        "Client secret at that provider",
        (Alias("ARAGORA_OAUTH_CLIENT_SECRET", AGENTS_AUTH, "", convert.text),),
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_IDENTITY_OAUTH_ISSUER",
        convert.url("http", "https"),
        "",
        "The provider's issuer, exactly as it names itself (oidc)",
    ),
    Setting(
        "HOLDFAST_IDENTITY_OAUTH_ALLOW",
        convert.listed,
        (),
        "Private host:port pairs that a provider, or the keys of tokens, may be at",
    ),
    Setting(
        "HOLDFAST_IDENTITY_OAUTH_DOMAINS",
        convert.domains,
        (),
        "Domains whose verified addresses come without an invitation, with the default role",
    ),
    Setting(
        "HOLDFAST_IDENTITY_ADMIN_USERS",
        convert.emails,
        (),
        "Verified addresses that come as administrators, each bound once to issuer and subject",
        (Alias("ARAGORA_ADMIN_USERS", AGENTS_AUTH, "", convert.emails),),
    ),
    Setting(
        "HOLDFAST_SERVE_CONNECTIONS_MAX",
        convert.whole(1, 65536),
        1024,
        "Connections at once; more are refused with 503",
        (Alias("VDB_MAX_CONNECTIONS", EVENT_LOG, "1024", convert.whole(1, 65536)),),
    ),
    Setting(
        "HOLDFAST_SERVE_HEADER_SECONDS",
        convert.seconds(0.1, 300),
        10.0,
        "Time for a request's headers",
    ),
    Setting(
        "HOLDFAST_SERVE_BODY_SECONDS",
        convert.seconds(0.1, 3600),
        60.0,
        "Longest silence inside a body",
    ),
    Setting(
        "HOLDFAST_SERVE_IDLE_SECONDS",
        convert.seconds(0.1, 3600),
        75.0,
        "Time between requests of a connection; less than 5 s only if the same for every role",
        (Alias("VDB_IDLE_TIMEOUT_SECS", EVENT_LOG, "300", convert.seconds(0.1, 3600)),),
    ),
    Setting(
        "HOLDFAST_SERVE_REQUESTS_PER_SECOND",
        convert.whole(0, 1_000_000),
        0,
        "Requests per second of one principal, however many connections; 0 is no limit",
        (Alias("VDB_RATE_LIMIT_RPS", EVENT_LOG, "", convert.whole(1, 1_000_000)),),
    ),
    Setting(
        "HOLDFAST_SERVE_TENANT_REQUESTS_PER_SECOND",
        convert.whole(0, 1_000_000),
        0,
        "Requests per second of one tenant, all its principals together; 0 is no limit",
    ),
    Setting(
        "HOLDFAST_SERVE_ADDRESS_REQUESTS_PER_SECOND",
        convert.whole(0, 1_000_000),
        0,
        "Requests per second from one address (of IPv6 a /64), known or not; 0 is no limit",
    ),
    Setting(
        "HOLDFAST_SERVE_ADDRESS_CONNECTIONS_MAX",
        convert.whole(0, 65536),
        None,
        "Connections at once from one address (of IPv6 a /64) that is no trusted proxy; more are "
        "refused with 503; unset, three quarters of all; 0 is no limit of its own",
    ),
    Setting(
        "HOLDFAST_SERVE_STOP_SECONDS",
        convert.seconds(0.1, 600),
        20.0,
        "Time to drain when told to stop",
    ),
    Setting(
        "HOLDFAST_METRICS_BIND",
        convert.address,
        "",
        "Address of a port with /metrics alone, for scrapers that bring no credential, such as "
        "0.0.0.0:9090; with the door's TLS; none unless set",
    ),
    Setting(
        "HOLDFAST_REGISTRY_PROFILES_DIR",
        convert.path,
        None,
        "Folder of profiles to publish and watch; "
        "default profiles/government, else profiles/ in the data directory",
        (Alias("PROFILES_DIR", "collection registry", "/app/profiles/government", convert.path),),
    ),
    Setting(
        "HOLDFAST_REGISTRY_WATCH_SECONDS",
        convert.seconds(0.1, 3600),
        2.0,
        "Pause between looks at the folder",
    ),
    Setting(
        "HOLDFAST_FLEET_LEASE_SECONDS",
        convert.whole(1, 3600),
        30,
        "How long a task is leased, in seconds",
    ),
    Setting(
        "HOLDFAST_FLEET_BEAT_SECONDS",
        convert.seconds(0.1, 300),
        5.0,
        "Time between a worker's beats",
    ),
    Setting(
        "HOLDFAST_FLEET_LOST_SECONDS",
        convert.seconds(0.5, 3600),
        30.0,
        "Silence after which a worker is lost",
    ),
    Setting(
        "HOLDFAST_FLEET_BACKOFF_SECONDS",
        convert.seconds(0.01, 3600),
        10.0,
        "First pause before a failed task is tried again",
    ),
    Setting(
        "HOLDFAST_FLEET_WORKERS_BOUND",
        convert.flag,
        False,
        "Whether workers are refused that neither show a certificate nor prove their key, as those "
        "of earlier releases",
    ),
    Setting(
        "HOLDFAST_FLEET_REQUESTS_PER_HOST",
        convert.whole(1, 1000),
        4,
        "Requests to one host at once, over all drones",
    ),
    Setting(
        "HOLDFAST_FLEET_REQUESTS_PER_HOST_OF",
        convert.numbers(1, 1000),
        (),
        "Hosts to be asked otherwise: host=1,host:port=8",
    ),
    Setting(
        "HOLDFAST_FLEET_TASKS_KEPT_DAYS",
        convert.whole(0, 36_500),
        30,
        "Days a finished task is kept; 0 keeps all of them",
    ),
    Setting(
        "HOLDFAST_FLEET_LEASES_URL",
        convert.url("memory", "sql"),
        "memory://",
        "Beats and leadership: memory:// for one coordinator, sql:// (the database) for several",
    ),
    Setting(
        "HOLDFAST_LEDGER_TLS_CERTIFICATE_FILE",
        convert.path,
        None,
        "Certificate chain (PEM) of the ledger's own door, if it is another",
        (Alias("VDB_TLS_CERT", EVENT_LOG, "", convert.path),),
    ),
    Setting(
        "HOLDFAST_LEDGER_TLS_KEY_FILE",
        convert.path,
        None,
        "Private key (PEM) of the ledger's own door",
        (Alias("VDB_TLS_KEY", EVENT_LOG, "", convert.path),),
    ),
    Setting(
        "HOLDFAST_LEDGER_AUTH_MODE",
        convert.auth_mode,
        "none",
        "Credentials at the ledger's own door besides the operator token: jwt, apikey or both",
        (Alias("VDB_AUTH_MODE", EVENT_LOG, "none", convert.auth_mode),),
    ),
    Setting(
        "HOLDFAST_LEDGER_JWT_SECRET",
        convert.secret,
        "",
        "Secret (32 bytes or more) that signs the HS256 tokens taken at the ledger's own door",
        (Alias("VDB_JWT_SECRET", EVENT_LOG),),
        secret=True,
        file_variant=True,
    ),
    Setting(
        "HOLDFAST_LEDGER_JWT_ISSUER",
        convert.text,
        "",
        "Issuer that such a token must name",
        (Alias("VDB_JWT_ISSUER", EVENT_LOG, "craton"),),
    ),
    Setting(
        "HOLDFAST_LEDGER_JWT_AUDIENCE",
        convert.text,
        "",
        "Audience that such a token must name",
        (Alias("VDB_JWT_AUDIENCE", EVENT_LOG, "craton"),),
    ),
    Setting(
        "HOLDFAST_LEDGER_JWT_SECONDS",
        convert.whole(1, 10 * 365 * 86_400),
        3600,
        "How many seconds ahead such a token may end",
        (Alias("VDB_JWT_EXPIRATION_SECS", EVENT_LOG, "3600", convert.whole(1, 10 * 365 * 86_400)),),
    ),
    Setting(
        "HOLDFAST_LEDGER_REPLICATION",
        convert.one_of("none", "single-node", "cluster"),
        "none",
        "Whether several instances serve one log: cluster needs PostgreSQL",
        (
            Alias(
                "VDB_REPLICATION_MODE",
                EVENT_LOG,
                "none",
                convert.one_of("none", "single-node", "cluster"),
            ),
        ),
    ),
    Setting(
        "HOLDFAST_LEDGER_REPLICA",
        convert.whole(0, 255),
        0,
        "Number of this instance among several; it names it in logs and leases",
        (Alias("VDB_REPLICA_ID", EVENT_LOG, "0", convert.whole(0, 255)),),
    ),
    Setting(
        "HOLDFAST_LEDGER_ORIGIN",
        convert.origin,
        "",
        "Name under which logs are signed, such as example.org/ledger; made once if blank",
    ),
    Setting(
        "HOLDFAST_LEDGER_WITNESSES",
        convert.listed,
        (),
        "Witnesses that cosign checkpoints: KEY@URL, each with its C2SP verifier key",
    ),
    Setting(
        "HOLDFAST_LEDGER_CHECKPOINT_SECONDS",
        convert.seconds(0.1, 3600),
        1.0,
        "Pause between checkpoints that are signed without being asked for",
    ),
    Setting(
        "HOLDFAST_LEDGER_LOOK_SECONDS",
        convert.seconds(0.1, 7 * 86400),
        3600.0,
        "Pause between looks over the whole ledger for damage, each at a twentieth of a core",
    ),
    Setting(
        "HOLDFAST_WATCH_WEBHOOK_URL",
        _HTTP,
        "",
        "Where notices (failed runs, changed shapes, silence) are posted; nowhere unless set",
    ),
    Setting(
        "HOLDFAST_WATCH_WEBHOOK_SECRET_FILE",
        convert.path,
        None,
        "File with the secret under which deliveries are signed; needed with a webhook",
    ),
    Setting(
        "HOLDFAST_WATCH_WEBHOOK_ALLOW",
        convert.listed,
        (),
        "Private host:port pairs that the webhook may be at",
    ),
    Setting(
        "HOLDFAST_WATCH_WEBHOOK_TYPES",
        convert.listed,
        NOTICE_TYPES,
        "Which notices the webhook is told",
    ),
    Setting(
        "HOLDFAST_RECORDS_RAW_BYTES_MAX",
        convert.whole(1, 2**40),
        2**31,
        "Largest raw response kept, in bytes",
    ),
    Setting(
        "HOLDFAST_REPORTS_SECONDS",
        convert.seconds(1, 3600),
        120.0,
        "Longest computation of a report",
    ),
    Setting(
        "HOLDFAST_REPORTS_MEMORY_MB",
        convert.whole(128, 1 << 20),
        2048,
        "Memory for one report's computation, in megabytes",
    ),
    Setting(
        "HOLDFAST_REPORTS_QUERY_SECONDS",
        convert.seconds(1, 3600),
        30.0,
        "Longest query of `holdfast query`, and longest gathering of its tables",
    ),
    Setting(
        "HOLDFAST_REPORTS_QUERY_MEMORY_MB",
        convert.whole(256, 1 << 20),
        1024,
        "Memory for one query's process, in megabytes",
    ),
    Setting(
        "HOLDFAST_REPORTS_QUERY_ROWS_MAX",
        convert.whole(1, 10_000_000),
        100_000,
        "Most rows that a query is answered with",
    ),
    Setting(
        "HOLDFAST_REPORTS_QUERY_INPUT_MB",
        convert.whole(1, 1 << 20),
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
        convert.text,
        "",
        "Name of the drone; made and kept if blank; with --count N it gets -1 to -N",
        (Alias("DRONE_ID", "collection drone"),),
    ),
    Setting(
        "HOLDFAST_DRONE_JOIN_TOKEN_FILE",
        convert.path,
        None,
        "File with the join token from `holdfast worker token`",
    ),
    Setting(
        "HOLDFAST_DRONE_PROCESS_INTERVAL",
        convert.seconds(0.01, 86400),
        None,
        "Pause between empty polls; unset, the drone waits at the coordinator instead",
        (Alias("PROCESS_INTERVAL", "collection drone", "", convert.seconds(0.01, 86400)),),
    ),
    Setting(
        "HOLDFAST_COLLECT_CONTACT",
        convert.text,
        "",
        "E-mail or page of the operator, for the User-Agent",
    ),
    Setting(
        "HOLDFAST_COLLECT_REPLAY_FILE",
        convert.path,
        None,
        "Map of addresses to recorded copies (operator only)",
    ),
    Setting(
        "HOLDFAST_COLLECT_ALLOW", convert.listed, (), "Private host:port pairs that may be fetched"
    ),
    Setting(
        "HOLDFAST_COLLECT_RESOLVER",
        convert.text,
        "system",
        "What turns host names into addresses: system, dns:ADDRESS[:PORT] or file:PATH",
    ),
    Setting(
        "HOLDFAST_COLLECT_CA_FILE",
        convert.path,
        None,
        "Further certificate authorities (PEM) for sources",
    ),
    Setting(
        "HOLDFAST_COLLECT_SPOOL_DIR",
        convert.path,
        None,
        "Where drones spool; default spool/ in the data directory",
    ),
    Setting(
        "HOLDFAST_OPERATOR_TOKEN_FILE",
        convert.path,
        None,
        "File with the token that commands send: the operator's, or an API key. Default: the "
        "operator token of the data directory",
    ),
    Setting(
        "HOLDFAST_TENANT",
        convert.text,
        None,
        "Tenant that the token of commands is of; they send it as X-Tenant-ID, for doors that "
        "require it",
    ),
)
