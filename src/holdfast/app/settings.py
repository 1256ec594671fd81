"""The settings, resolved: what each known one is (``known_settings.py``), and where that came from.

Resolution: defaults, ``holdfast.toml``, environment, flags, in that order. One frozen object is
built here and handed down; nothing below ``app`` reads the environment. All that is wrong is
reported at once, and anything wrong stops the start: unknown ``HOLDFAST_…`` names, bad values, two
aliases that disagree.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from holdfast.app import convert
from holdfast.app.convert import Convert
from holdfast.app.known_settings import (
    DATABASE_SCHEMES,
    DEFAULT_PORTS,
    NOTICE_TYPES,
    PLANNED_ROLES,
    ROLES,
    SETTINGS,
    Alias,
    Setting,
)
from holdfast.kernel.errors import Invalid, Problem
from holdfast.kernel.files import read_handed

__all__ = [
    "ALIASES",
    "DEFAULT_PORTS",
    "NOTICE_TYPES",
    "NOT_SETTINGS",
    "PLANNED_ROLES",
    "ROLES",
    "SETTINGS",
    "Alias",
    "Resolved",
    "Setting",
    "Settings",
    "examine",
    "resolve",
]

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
    file: Path | None = None
    """The file that the value, a secret, was read from, where a ``…_FILE`` named one."""


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

    def file_of(self, key: str) -> Path | None:
        """The file that a secret was read from: whoever holds it for long reads it again."""
        return self.resolved[key].file

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

    def unused_addresses(self, roles: Collection[str]) -> list[str]:
        """What names an address of a role that is in this process, where nobody asks for it."""
        if "gateway" not in roles:
            return []
        origins = [self.resolved[f"{role}_url"].origin for role in roles if role != "gateway"]
        # What a guide would have set beside something else nobody set.
        return sorted(o for o in origins if o != "default" and not o.startswith(GUIDE_DEFAULT))

    def alone(self) -> Settings:
        """The same for a system that is opened for one command, with every role in one process.

        Its roles know each other by keys beside its own; in a folder that others share theirs are
        neither asked for nor added to.
        """
        own = Resolved(None, "in one process")
        return replace(self, resolved={**self.resolved, "trust_dir": own})

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
    for key, one in resolved.items():
        if one.origin == f"{_BY_KEY[key].name}_FILE":
            resolved[key] = replace(one, file=Path(environment[one.origin]))
    settings = Settings(resolved)
    problems += _folders_that_hold_all(settings)
    return settings, problems


_BY_KEY = {setting.key: setting for setting in SETTINGS}
_BY_NAME = {setting.name: setting for setting in SETTINGS}
ALIASES: dict[str, tuple[Setting, Alias]] = {
    alias.name: (setting, alias) for setting in SETTINGS for alias in setting.aliases
}


GUIDE_PREFIXES = ("ARAGORA_", "AUTH_", "PLATFORM_", "VDB_")
WITHOUT_EFFECT = frozenset(
    {"ARAGORA_AUTH_ENABLED", "ARAGORA_OAUTH_ENABLED", "ARAGORA_RBAC_ENABLED", "AUTH_REQUIRED"}
)
"""Names of the guides that are taken and change nothing: docs/compatibility.md says why."""
GUIDE_DEFAULT = "guide default of "
"""What an origin begins with where another variable of its table was set, and this one was not."""
UNUSED = {"PLATFORM_NATS_URL": "events are kept in the database, and no broker is asked"}
"""Of those the ones that whoever sets them relies on for something that does not happen."""
NEARLY = 0.84
"""How alike a name must be to one of the guides' to be taken for a slip: ``VDB_AUTHMODE`` is. These
prefixes are other programs', too, so that a name like none of ours is none of our business."""


def without_effect(environment: Mapping[str, str]) -> list[Problem]:
    """Names that are nearly one of the guides', and are taken for another program's for want of a
    prefix that is one of theirs: ``DB_DSNN``; and those of the guides that name what is not there.
    They stop nothing; whoever asks is told of them."""
    named = [alias for alias in (*ALIASES, "DB_DRIVER") if not alias.startswith(GUIDE_PREFIXES)]
    found = [
        Problem(name, "changes nothing", why)
        for name, why in UNUSED.items()
        if environment.get(name)
    ]
    for name in sorted(environment):
        if (
            name in ALIASES
            or name == "DB_DRIVER"
            or name.startswith(("HOLDFAST_", *GUIDE_PREFIXES))
        ):
            continue
        meant = _near(name, dict.fromkeys(named), NEARLY)
        if meant:
            found.append(Problem(name, "is taken for another program's", meant))
    return found


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
        if key == "data_dir":
            # The file may lie in it, and two files would name each other.
            hint = "HOLDFAST_DATA_DIR or --data-dir names it"
            problems.append(Problem(f"{file}: {key}", "is settled before this is read", hint))
            continue
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
                content = read_handed(Path(value), "the secret", tell=False).decode("utf-8").strip()
                sources[of_file.key].append((name, content, of_file.convert))
            except OSError as error:
                problems.append(Problem(name, f"cannot read {value}: {error.strerror}"))
            except Invalid as error:
                problems.append(Problem(name, error.detail, error.hint))
            except UnicodeDecodeError:
                problems.append(Problem(name, f"cannot read {value}: it is no text"))
            continue
        problems.append(Problem(name, "is not a setting", _near(name, _BY_NAME)))
    for name, (setting, alias) in ALIASES.items():
        value = environment.get(name, "")
        if value and setting.key != "database_url" and not _service_link(name, value):
            sources[setting.key].append((name, value, alias.convert))
    for name in sorted(environment):
        if name.startswith(GUIDE_PREFIXES) and name not in ALIASES and name not in WITHOUT_EFFECT:
            meant = _near(name, ALIASES, NEARLY)
            if meant:
                problems.append(Problem(name, "is not a setting", meant))
    _from_database_aliases(environment, sources["database_url"], problems)


def _from_database_aliases(
    environment: Mapping[str, str],
    found: list[tuple[str, str, Convert]],
    problems: list[Problem],
) -> None:
    """``DB_DRIVER`` and ``DB_DSN`` of guide 1 name one thing together; guide 3's is a path."""
    if path := environment.get("PLATFORM_SQLITE_PATH", "").strip():
        found.append(("PLATFORM_SQLITE_PATH", f"sqlite:///{path}", convert.url(*DATABASE_SCHEMES)))
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
            found.append(("DB_DSN", url, convert.url(*DATABASE_SCHEMES)))
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
                convert.url(*DATABASE_SCHEMES),
            )
        )


def _pick(
    setting: Setting, found: list[tuple[str, str, Convert]], problems: list[Problem]
) -> Resolved:
    converted: list[tuple[str, Any]] = []
    for origin, text, taken_by in found:
        try:
            converted.append((origin, taken_by(text)))
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


def _folders_that_hold_all(settings: Settings) -> list[Problem]:
    """Folders of keys and secrets in which the data directory would be: all of a folder is copied
    with the keys."""
    return [
        Problem(
            settings.resolved[key].origin,
            f"{settings[key]} is the data directory, or holds it",
            "name a folder of its own",
        )
        for key in ("keys_dir", "secrets_dir")
        if settings[key] is not None
        and settings.data_dir.resolve().is_relative_to(settings[key].resolve())
    ]


def _apply_families(environment: Mapping[str, str], resolved: dict[str, Resolved]) -> None:
    """A guide table's defaults hold when one of its variables is set, and only then."""
    active = {alias.family for name, (_, alias) in ALIASES.items() if environment.get(name)}
    for name, (setting, alias) in ALIASES.items():
        if alias.family not in active or not alias.guide_default or setting.key == "database_url":
            continue
        if resolved[setting.key].origin == "default":
            value = alias.convert(alias.applied or alias.guide_default)
            resolved[setting.key] = Resolved(value, f"{GUIDE_DEFAULT}{name}")


def _service_link(name: str, value: str) -> bool:
    """What Kubernetes injects for a Service of that name: ``tcp://…``, never an address of ours."""
    return value.startswith("tcp://") and name.endswith("_PORT")


def _near(name: str, known: Mapping[str, Any], cutoff: float = 0.75) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"did you mean {close[0]}?" if close else ""
