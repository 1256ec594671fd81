"""Secrets of sources: references in profiles, values only here, only while a request is built.

Two locks, and an operator holds the key to both. ``secret://env/NAME`` reads the variable
``HOLDFAST_SECRET_NAME`` and no other; ``secret://file/NAME`` reads a file of the secrets directory,
never a link. And each secret is *bound*: to a tenant and to the hosts it may be sent to, by
``HOLDFAST_SECRET_NAME_HOSTS`` (with ``HOLDFAST_SECRET_NAME_TENANT``) or by an entry of
``secret-bindings.yaml`` in the secrets directory::

    env/STATION_KEY: {tenant: default, hosts: [api.example.org]}
    file/station.token: {hosts: ["api.example.org:8443", "http://127.0.0.1:9000"]}

A host is https unless the entry says ``http://`` with host and port: then the operator has named
that very address. A profile, whoever wrote it, cannot send a secret anywhere else.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from holdfast.kernel.errors import Denied, Invalid
from holdfast.kernel.ids import DEFAULT_TENANT
from holdfast.kernel.outbound import AddressInvalid, parse_target

BINDINGS_FILE = "secret-bindings.yaml"
VARIABLE_PREFIX = "HOLDFAST_SECRET_"

_REFERENCE = re.compile(
    r"secret://(env)/([A-Z0-9_]{1,128})|secret://(file)/([A-Za-z0-9_-][A-Za-z0-9_.-]{0,127})"
)
_RESERVED_ENDS = ("_HOSTS", "_TENANT")
_SIZE_BYTES_MAX = 64 * 1024
_BINDINGS_BYTES_MAX = 256 * 1024


class SecretRefused(Denied):
    """The secret may not be used here: not bound, or bound to another tenant or host."""

    code = "secret-refused"


class SecretMissing(Invalid):
    """The reference is fine and there is nothing behind it on this drone."""

    code = "secret-missing"


class Binding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one secret may go."""

    hosts: Annotated[list[str], msgspec.Meta(min_length=1)]
    tenant: str = DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class SecretStore:
    """The secrets of one drone. ``variables`` are the ``HOLDFAST_SECRET_…`` ones of its start."""

    variables: Mapping[str, str]
    directory: Path | None = None

    def resolve(self, reference: str, tenant: str, url: str) -> str:
        """The value behind ``reference``, for a request of ``tenant`` to ``url``.

        Read anew at each call, so that a rotated secret is used by the next run. Raises
        :class:`SecretRefused` or :class:`SecretMissing`; messages name the reference, never the
        value.
        """
        kind, name = _parsed(reference)
        self._check_bound(kind, name, tenant, url)
        value = self._variable(name) if kind == "env" else self._file(name)
        if not value:
            raise SecretMissing(f"cannot use {reference}: it is empty")
        return value

    def _check_bound(self, kind: str, name: str, tenant: str, url: str) -> None:
        binding = self._binding(kind, name)
        if binding is None:
            raise SecretRefused(
                f"cannot use secret://{kind}/{name}: it is bound to no host",
                hint=_how_to_bind(kind, name),
            )
        # The same words for another tenant's secret as for an unbound one would mislead whoever
        # set the binding; the tenant is the operator's own word, so it is named.
        if binding.tenant != tenant:
            raise SecretRefused(
                f"cannot use secret://{kind}/{name}: it is not bound to the tenant {tenant}",
                hint=_how_to_bind(kind, name),
            )
        origin = parse_target(url).origin
        if origin not in {_origin(host) for host in binding.hosts}:
            raise SecretRefused(
                f"cannot send secret://{kind}/{name} to {parse_target(url).host_port}: "
                "it is not bound to that host and port over https",
                hint=_how_to_bind(kind, name),
            )

    def _binding(self, kind: str, name: str) -> Binding | None:
        if kind == "env":
            hosts = self.variables.get(f"{VARIABLE_PREFIX}{name}_HOSTS", "")
            if hosts:
                tenant = self.variables.get(f"{VARIABLE_PREFIX}{name}_TENANT") or DEFAULT_TENANT
                listed = [host.strip() for host in hosts.split(",") if host.strip()]
                return Binding(hosts=listed, tenant=tenant) if listed else None
        return self._bindings().get(f"{kind}/{name}")

    def _bindings(self) -> dict[str, Binding]:
        if self.directory is None:
            return {}
        path = self.directory / BINDINGS_FILE
        try:
            if path.stat().st_size > _BINDINGS_BYTES_MAX:
                raise Invalid(f"cannot read {path}: it is over {_BINDINGS_BYTES_MAX} bytes")
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise Invalid(f"cannot read {path}: {error}") from error
        import yaml  # few machines have the file

        try:
            data = yaml.safe_load(text)
            return msgspec.convert(data or {}, dict[str, Binding])
        except (ValueError, yaml.YAMLError) as error:
            raise Invalid(f"cannot read {path}: {error}") from error

    def _variable(self, name: str) -> str:
        value = self.variables.get(VARIABLE_PREFIX + name)
        if value is None:
            raise SecretMissing(
                f"cannot use secret://env/{name}: {VARIABLE_PREFIX}{name} is not set on this drone"
            )
        return value

    def _file(self, name: str) -> str:
        if self.directory is None:
            raise SecretMissing(f"cannot use secret://file/{name}: no secrets directory is set")
        if name == BINDINGS_FILE:
            raise SecretRefused(f"cannot use secret://file/{name}: it is not a secret")
        return _read_private(self.directory / name, f"secret://file/{name}")


def _parsed(reference: str) -> tuple[str, str]:
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise Invalid(f"cannot use {reference[:100]!r}: it is not a secret reference")
    kind, name = match[1] or match[3], match[2] or match[4]
    if kind == "env" and name.endswith(_RESERVED_ENDS):
        raise SecretRefused(f"cannot use secret://env/{name}: that variable is not a secret")
    return kind, name


def _origin(host: str) -> tuple[object, ...]:
    """The origin a binding names: https, or http with host and port spelled out."""
    text = host if "://" in host else f"https://{host}"
    try:
        target = parse_target(text)
    except AddressInvalid as error:
        raise Invalid(f"cannot bind a secret to {host!r}: {error.detail}") from error
    if target.path not in {"", "/"} or target.query:
        raise Invalid(f"cannot bind a secret to {host!r}: name a host, or host:port")
    if target.scheme != "https" and not re.fullmatch(r"http://[^/]+:[0-9]+/?", text):
        raise Invalid(f"cannot bind a secret to {host!r}: http needs host and port, spelled out")
    return target.origin


def _how_to_bind(kind: str, name: str) -> str:
    if kind == "env":
        return (
            f"the operator sets {VARIABLE_PREFIX}{name}_HOSTS=host[,host] on the drone; "
            "another port than 443 is written out, as host:port"
        )
    return (
        f"the operator adds 'file/{name}: {{hosts: [host]}}' to {BINDINGS_FILE}; "
        "another port than 443 is written out, as host:port"
    )


def _read_private(path: Path, shown: str) -> str:
    """The text of a small regular file that others cannot read or change; links are refused."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SecretMissing(f"cannot use {shown}: the secrets directory has no such file") from None
    except OSError as error:
        raise SecretRefused(f"cannot use {shown}: {error.strerror} (links are refused)") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise SecretRefused(f"cannot use {shown}: it is not a regular file")
        # Readable by the group is how orchestrators hand files to an arbitrary user id.
        if found.st_mode & 0o037:
            raise SecretRefused(
                f"cannot use {shown}: others may read or change it", hint="chmod 0600 (or 0640)"
            )
        if found.st_size > _SIZE_BYTES_MAX:
            raise SecretRefused(f"cannot use {shown}: it is over {_SIZE_BYTES_MAX} bytes")
        data = os.read(handle, _SIZE_BYTES_MAX)
    finally:
        os.close(handle)
    try:
        return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise SecretRefused(f"cannot use {shown}: it is not UTF-8 text") from error
