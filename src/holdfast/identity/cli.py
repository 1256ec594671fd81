"""``holdfast apikey``, ``holdfast role`` and ``holdfast pki``."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from holdfast.identity.telling import tell_ending
from holdfast.kernel.cli import (
    command_line,
    fail,
    print_json,
    print_list,
    print_table,
    run,
    say,
    say_more,
    session,
)
from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.errors import Conflict, HoldfastError, Invalid, NotFound
from holdfast.kernel.files import write_over
from holdfast.kernel.options import JsonOption, LimitOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509

    from holdfast.identity.client import IdentityClient
    from holdfast.identity.model import ApiKey, NewApiKey
    from holdfast.identity.pki import Authority, Key, Request
    from holdfast.kernel.http.client import ApiClient

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

pki_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Certificates: an authority of your own, servers, clients, renewal.",
    epilog="Example: holdfast pki init && holdfast pki server --host localhost --host 127.0.0.1",
)

apikey_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Keys for programs: make, list, revoke."
)
role_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Roles and what they allow."
)


@apikey_app.command(
    "create",
    help="Make a key and print its secret, once: of the role viewer, for 90 days, for every "
    "profile and from anywhere, unless it is said otherwise. It may do no more than whoever makes "
    "it; one that a key makes ends with that key, at the latest.",
    epilog="Example: holdfast apikey create reader --role viewer --profile scripps-co2-monthly",
)
def create_key(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for.")],
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            help="See `role list`; repeatable.",
            show_default="viewer, unless permissions are given",
        ),
    ] = None,
    permission: Annotated[
        list[str] | None,
        typer.Option("--permission", help="One more, such as records:export; repeatable."),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile", help="Only this profile; repeatable.", show_default="every profile"
        ),
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option(
            "--address",
            help="Only from there, such as 10.0.0.0/8; repeatable.",
            show_default="anywhere",
        ),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=1, max=3650, help="Its lifetime in days.")
    ] = 90,
    json: JsonOption = False,
) -> None:
    from holdfast.identity.client import IdentityClient
    from holdfast.identity.model import ApiKeyCreate

    wanted = ApiKeyCreate(
        name=name,
        roles=role or ([] if permission else ["viewer"]),
        permissions=permission or [],
        profiles=profile or [],
        addresses=address or [],
        days=days,
    )

    async def body() -> None:
        async with session(ctx) as api:
            client = IdentityClient(api)
            made = await client.create_key(None, wanted)
            # It is made: nothing that fails from here on may keep its secret back.
            missing = [] if json else await _missing(api, wanted.profiles)
            alike = [] if json else await _alike(client, made.key)
        if json:
            print_json(made)
            return
        sys.stdout.write(f"{made.secret}\n")
        _say_made(made, wanted.days)
        say("this is the only time it is shown; send it as `Authorization: Bearer …`, or keep it")
        say("in a file that HOLDFAST_OPERATOR_TOKEN_FILE names: then these commands act by it")
        for name_of in missing:
            say(f"there is no profile {name_of} yet: the key opens it once there is")
        if alike:
            say(f"{_keys(alike)} named {name}, too: revoke by id what is not needed any more")

    run(body)


@apikey_app.command(
    "list", help="Keys, the newest first; never a secret.", epilog="Example: holdfast apikey list"
)
def list_keys(ctx: typer.Context, limit: LimitOption = 100, json: JsonOption = False) -> None:
    from holdfast.identity.client import IdentityClient
    from holdfast.identity.model import KEYS

    async def body() -> None:
        async with session(ctx) as api:
            found, more = await IdentityClient(api).list_keys(None, limit=limit)
        if json:
            print_list(found, KEYS, more)
            return
        print_table(
            ("name", "state", "until", "permissions", "profiles", "addresses", "made by", "id"),
            [
                (
                    each.name,
                    "revoked" if each.revoked_at else _state(each.expires_at),
                    each.expires_at[:10],
                    _allowed(each.permissions),
                    " ".join(each.profiles),
                    " ".join(each.addresses),
                    each.created_by,
                    each.id,
                )
                for each in found
            ],
            spare=("addresses", "made by", "profiles", "until", "permissions"),
            wraps=("permissions",),
            empty="no keys yet: `holdfast apikey create NAME` makes one",
        )
        say_more(more, limit)

    run(body)


@apikey_app.command(
    "revoke",
    help="End a key, within five seconds at every door, with the keys and the open invitations "
    "that were made by it. Whom it invited stays. Of one that has ended it says since when.",
    epilog="Example: holdfast apikey revoke 01a21cbb-894a-76f7-9f5f-41e756bbe4c4 | "
    "holdfast apikey revoke reader --dry-run",
)
def revoke_key(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="The key's id, or its name.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would end with it.")
    ] = False,
    json: JsonOption = False,
) -> None:
    from holdfast.identity.client import IdentityClient

    async def body() -> None:
        async with session(ctx) as api:
            client = IdentityClient(api)
            identity = await _id_of(client, key)
            if await tell_ending(api, identity, json, dry_run):
                return
            ended = await client.revoke_key(None, identity)
        if json:
            print_json(ended)
        else:
            say(f"{ended.name} was revoked at {ended.revoked_at}")

    run(body)


def _allowed(permissions: Sequence[str]) -> str:
    """What a key may, in a word where that is what a role of ours allows."""
    from holdfast.identity.model import ROLES

    for name, granted in ROLES.items():
        if granted == set(permissions):
            return f"as {name}"
    return " ".join(permissions)


def _say_made(made: NewApiKey, days: int) -> None:
    """What it is and what limits it: whoever gave no option learns what it came to."""
    key, plural = made.key, "s" if len(made.roles) > 1 else ""
    role = f"has the role{plural} {', '.join(made.roles)} and " if made.roles else ""
    say(f"key {key.id} {role}may {', '.join(key.permissions)}")
    lasts = parse_timestamp(key.expires_at) - parse_timestamp(key.created_at)
    cut = "" if lasts >= timedelta(days=days) else ", when the key that made it ends"
    of = f"{', '.join(key.profiles)} only" if key.profiles else "every profile"
    where = f"{', '.join(key.addresses)} only" if key.addresses else "any address"
    say(f"it holds until {key.expires_at[:10]} ({lasts.days} days{cut}), for {of}, from {where}")


async def _alike(client: IdentityClient, made: ApiKey) -> list[ApiKey]:
    """Other live keys of that name, as far as whoever made it may see them."""
    try:
        return [each for each in await _keys_named(client, made.name, live=True) if each != made]
    except HoldfastError:
        return []


async def _missing(api: ApiClient, profiles: Sequence[str]) -> list[str]:
    """Those of ``profiles`` that nobody has published yet; a name may be misspelled."""
    found = []
    for name in profiles:
        try:
            await api.request("GET", f"/v1/profiles/{quote(name, safe='')}")
        except HoldfastError as error:
            if error.code == "profile-unknown":
                found.append(name)
    return found


async def _keys_named(client: IdentityClient, name: str, *, live: bool) -> list[ApiKey]:
    """The keys of this name, the newest first; ``live``: those that still open something."""
    named: list[ApiKey] = []
    before: str | None = ""
    while before is not None:
        found, before = await client.list_keys(None, before=before, limit=1000)
        named += [each for each in found if each.name == name]
    return [each for each in named if _holds(each)] if live else named


def _holds(key: ApiKey) -> bool:
    return not key.revoked_at and _state(key.expires_at) == "holds"


async def _id_of(client: IdentityClient, key: str) -> str:
    """The id that was given, or that of the one live key with this name; if none of that name is,
    of the one that ended last: to end it again is no mistake."""
    if _ID.fullmatch(key):
        return key
    named = await _keys_named(client, key, live=False)
    alike = [each for each in named if _holds(each)]
    if not named:
        raise NotFound(
            f"cannot find a key with the id or the name {key}",
            code="key-not-found",
            hint="`holdfast apikey list` shows them",
        )
    if not alike:
        return max(named, key=lambda each: each.revoked_at or each.expires_at).id
    if len(alike) > 1:
        raise Conflict(
            f"cannot revoke {key}: {_keys(alike)} named so",
            code="key-ambiguous",
            hint=f"name one by its id: {', '.join(each.id for each in alike)}",
        )
    return alike[0].id


def _keys(alike: Sequence[ApiKey]) -> str:
    return "another live key is" if len(alike) == 1 else f"{len(alike)} live keys are"


@role_app.command(
    "list", help="Roles and what they allow.", epilog="Example: holdfast role list --json"
)
def list_roles(ctx: typer.Context, json: JsonOption = False) -> None:
    from holdfast.identity.client import IdentityClient

    async def body() -> None:
        async with session(ctx) as api:
            found = await IdentityClient(api).list_roles(None)
        if json:
            print_list(found)
            return
        print_table(
            ("role", "", "allows"),
            [
                (each.name, "built in" if each.built_in else "yours", " ".join(each.permissions))
                for each in found
            ],
        )

    run(body)


@role_app.command(
    "define",
    help="Make or change a role of your own.",
    epilog="Example: holdfast role define reader --permission records:read",
)
def define_role(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Letters, digits and hyphens.")],
    permission: Annotated[list[str], typer.Option("--permission", help="What it allows.")],
    json: JsonOption = False,
) -> None:
    from holdfast.identity.client import IdentityClient
    from holdfast.identity.model import RoleDefine

    async def body() -> None:
        _check_role(name)
        async with session(ctx) as api:
            made = await IdentityClient(api).define_role(
                None, name, RoleDefine(permissions=permission)
            )
        if json:
            print_json(made)
        else:
            say(f"{made.name} allows {', '.join(made.permissions)}")

    run(body)


@role_app.command(
    "drop",
    help="Forget a role of your own. What people with it made, and may make no more, ends.",
    epilog="Example: holdfast role drop reader",
)
def drop_role(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The role's name.")],
    json: JsonOption = False,
) -> None:
    from holdfast.identity.client import IdentityClient

    async def body() -> None:
        _check_role(name)
        async with session(ctx) as api:
            await IdentityClient(api).drop_role(None, name)
        if json:
            print_json({"name": name, "dropped": True})
        else:
            say(f"{name} is no role any more")

    run(body)


def _check_role(name: str) -> None:
    """Without a name, or with a dot for one, the address would be another one's."""
    if not name.strip(" ."):
        raise Invalid(
            f"cannot use {name!r}: that is no name of a role", hint="`role list` shows them"
        )


def _state(expires_at: str) -> str:
    return "holds" if expires_at > timestamp(datetime.now(UTC)) else "expired"


# --- certificates ---------------------------------------------------------------------------------

DirOption = Annotated[
    Path | None,
    typer.Option(
        "--dir", help="Folder of the certificates.", show_default="pki/ in the data directory"
    ),
]
DaysOption = Annotated[int, typer.Option("--days", help="How long it is good for, up to 825.")]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Replace what is there, which is then lost.")
]
AUTHORITY = "ca"


@pki_app.command(
    "init",
    help="Make the certificate authority: ca.crt for everybody, ca.key for nobody else.",
    epilog="Example: holdfast pki init --name 'Statistics office'",
)
def init(
    ctx: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Whose authority it is.")] = "Holdfast",
    directory: DirOption = None,
    replace: ReplaceOption = False,
    json: JsonOption = False,
) -> None:
    from cryptography import x509

    from holdfast.identity import pki

    folder = _folder(ctx, directory)

    def body() -> x509.Certificate:
        key = pki.new_key()
        made = pki.make_authority(
            name, key, now=datetime.now(UTC), serial=x509.random_serial_number()
        )
        _write(folder, AUTHORITY, made, key, replace=replace)
        return made

    _told(_run(body), folder / f"{AUTHORITY}.crt", json)


@pki_app.command(
    "server",
    help="Make a server's certificate with the names it is reached by.",
    epilog="Example: holdfast pki server gateway --host holdfast.example.org --host 10.0.0.5",
)
def server(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the files and of the server.")] = "server",
    host: Annotated[
        list[str] | None, typer.Option("--host", help="A name or address it is reached by.")
    ] = None,
    days: DaysOption = 365,
    directory: DirOption = None,
    replace: ReplaceOption = False,
    json: JsonOption = False,
) -> None:
    from holdfast.identity import pki

    hosts = pki.hosts_of(host or ["localhost", "127.0.0.1", "::1"])
    wanted = pki.Request(pki.Purpose.SERVER, name, hosts, days)
    _issue(_folder(ctx, directory), wanted, replace, json)


@pki_app.command(
    "client",
    help="Make a client's certificate, for a worker or a program.",
    epilog="Example: holdfast pki client drone-1 --days 90",
)
def client(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the files and of the client.")],
    days: DaysOption = 365,
    directory: DirOption = None,
    replace: ReplaceOption = False,
    json: JsonOption = False,
) -> None:
    from holdfast.identity import pki

    wanted = pki.Request(pki.Purpose.CLIENT, name, (), days)
    _issue(_folder(ctx, directory), wanted, replace, json)


@pki_app.command(
    "renew",
    help="Make successors of the certificates that end soon: same names, same purpose, a new key.",
    epilog="Example: holdfast pki renew --within 30",
)
def renew(
    ctx: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Only these; else all.")] = None,
    within: Annotated[int, typer.Option("--within", min=0, help="Ending in this many days.")] = 30,
    directory: DirOption = None,
    json: JsonOption = False,
) -> None:
    from holdfast.identity import pki

    folder = _folder(ctx, directory)
    now = datetime.now(UTC)

    def body() -> list[tuple[Path, x509.Certificate]]:
        authority = _authority(folder)
        made: list[tuple[Path, x509.Certificate]] = []
        for path in _leaves(folder, names):
            certificate = pki.read_certificate(path.read_bytes(), str(path))
            ends = certificate.not_valid_after_utc
            if ends - now > timedelta(days=within) and not names:
                continue
            key = pki.new_key()
            successor = _signed(authority, pki.request_of(certificate), key, now)
            _write(folder, path.stem, successor, key, replace=True)
            made.append((path, successor))
        return made

    made = _run(body)
    if json:
        print_json([_facts(path, certificate) for path, certificate in made])
        return
    for path, certificate in made:
        say(f"{path}: until {certificate.not_valid_after_utc:%Y-%m-%d}")
    if not made:
        say(f"nothing ends within {within} days")


@pki_app.command(
    "list",
    help="What is there, for whom, until when.",
    epilog="Example: holdfast pki list --json",
)
def list_certificates(
    ctx: typer.Context, directory: DirOption = None, json: JsonOption = False
) -> None:
    from holdfast.identity import pki

    folder = _folder(ctx, directory)

    def body() -> list[dict[str, Any]]:
        if directory is not None and not folder.is_dir():
            raise NotFound(
                f"cannot list certificates: {folder} is no folder",
                hint="`holdfast pki init --dir FOLDER` makes one with an authority",
            )
        return [
            _facts(path, pki.read_certificate(path.read_bytes(), str(path)))
            for path in sorted(folder.glob("*.crt"))
        ]

    found = _run(body)
    if json:
        print_list(found)
        return
    print_table(
        ("file", "purpose", "name", "hosts", "until", "fingerprint"),
        [
            (
                f["file"],
                f["purpose"],
                f["name"],
                " ".join(f["hosts"]),
                f["until"][:10],
                f["fingerprint"][:16],
            )
            for f in found
        ],
        empty=f"no certificates in {folder}: begin with `holdfast pki init`",
    )


def _issue(folder: Path, wanted: Request, replace: bool, json: bool) -> None:
    from holdfast.identity import pki

    def body() -> x509.Certificate:
        if wanted.name == AUTHORITY:
            raise Invalid(f"cannot make {AUTHORITY}: that is the authority's own name")
        key = pki.new_key()
        made = _signed(_authority(folder), wanted, key, datetime.now(UTC))
        _write(folder, wanted.name, made, key, replace=replace)
        return made

    _told(_run(body), folder / f"{wanted.name}.crt", json)


def _signed(authority: Authority, wanted: Request, key: Key, now: datetime) -> x509.Certificate:
    from cryptography import x509

    from holdfast.identity import pki

    return pki.issue(
        authority, wanted, key.public_key(), now=now, serial=x509.random_serial_number()
    )


def _run(body: Any) -> Any:
    try:
        return body()
    except HoldfastError as error:
        fail(error)


def _folder(ctx: typer.Context, named: Path | None) -> Path:
    return named or command_line(ctx).data_dir / "pki"


def _authority(folder: Path) -> Authority:
    from holdfast.identity import pki

    certificate, key = folder / f"{AUTHORITY}.crt", folder / f"{AUTHORITY}.key"
    try:
        return pki.Authority(
            pki.read_certificate(certificate.read_bytes(), str(certificate)),
            pki.read_key(key.read_bytes(), str(key)),
        )
    except FileNotFoundError as error:
        raise NotFound(
            f"cannot sign: there is no authority in {folder}", hint="`holdfast pki init` makes one"
        ) from error


def _leaves(folder: Path, names: list[str] | None) -> list[Path]:
    if not names:
        return [p for p in sorted(folder.glob("*.crt")) if p.stem != AUTHORITY]
    paths = [folder / f"{name}.crt" for name in names]
    for path in paths:
        if path.stem == AUTHORITY or not path.exists():
            raise NotFound(
                f"cannot renew {path.stem}: {path} is no certificate of a server or client",
                hint="`holdfast pki list` shows what is there",
            )
    return paths


def _write(
    folder: Path, name: str, certificate: x509.Certificate, key: Key, *, replace: bool
) -> None:
    """The key first, then the certificate: whoever finds a certificate finds its key."""
    from holdfast.identity import pki

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificate_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    if not replace and (certificate_file.exists() or key_file.exists()):
        raise Conflict(
            f"cannot make {name}: {certificate_file} is there already",
            hint="--replace makes it anew, and what the old one signed has to be made again"
            if name == AUTHORITY
            else "--replace makes it anew; `holdfast pki renew` makes its successor",
        )
    write_over(key_file, pki.key_pem(key))
    write_over(certificate_file, pki.certificate_pem(certificate), 0o644)


def _facts(path: Path, certificate: x509.Certificate) -> dict[str, Any]:
    from cryptography import x509

    from holdfast.identity import pki

    authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    request = None if authority else pki.request_of(certificate)
    return {
        "file": str(path),
        "purpose": "authority" if request is None else request.purpose.value,
        "name": pki.common_name(certificate),
        "hosts": list(request.hosts) if request else [],
        "until": certificate.not_valid_after_utc.isoformat(),
        "fingerprint": pki.fingerprint(certificate),
    }


def _told(certificate: x509.Certificate, path: Path, json: bool) -> None:
    facts = _facts(path, certificate)
    if json:
        print_json(facts)
        return
    names = f" for {', '.join(facts['hosts'])}" if facts["hosts"] else ""
    say(f"{path}: {facts['purpose']} {facts['name']}{names}, until {facts['until'][:10]}")
    say(f"its key, for its owner only: {path.with_suffix('.key')}")
