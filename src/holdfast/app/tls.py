"""TLS of a process, from its settings: what it serves with and what it presents to others.

One certificate and key serve every role of a process (``HOLDFAST_TLS_…``); the gateway and the
ledger may have their own, since the public reaches them. ``HOLDFAST_TLS_CLIENTS`` asks callers for
certificates that the authority signed: between roles that binds every hop token to the caller, at
the gateway it binds workers to their registrations.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.app.settings import ROLES, Settings
from holdfast.kernel.errors import Invalid, Problem, Unavailable
from holdfast.kernel.tls import ClientTls, machine_trust, nobody

if TYPE_CHECKING:
    from holdfast.kernel.clock import Clock
    from holdfast.kernel.serving import Tls

OWN = ("gateway", "ledger")
"""The roles whose certificate may be another than that of the rest."""
FORTNIGHT = timedelta(days=14)
NAME = "{name}"
"""What stands for a drone's name in the paths of its certificate."""


def lead_of(roles: frozenset[str] | tuple[str, ...]) -> str:
    """The role whose door a process has."""
    return "gateway" if "gateway" in roles else next(role for role in ROLES if role in roles)


def certificate_of(settings: Settings, role: str) -> tuple[Path | None, Path | None]:
    """Certificate and key that ``role`` serves with; none without TLS."""
    if settings["tls_enabled"] is False:
        return None, None
    if role in OWN and (
        settings[f"{role}_tls_certificate_file"] or settings[f"{role}_tls_key_file"]
    ):
        return settings[f"{role}_tls_certificate_file"], settings[f"{role}_tls_key_file"]
    return settings["tls_certificate_file"], settings["tls_key_file"]


def clients_of(settings: Settings, role: str) -> str:
    """Whether ``role`` asks its callers for certificates: ``none``, ``optional``, ``required``."""
    if settings["tls_enabled"] is False:
        return "none"
    own: str = settings["gateway_tls_clients"] if role == "gateway" else ""
    found: str = own or settings["tls_clients"]
    return found


def check_tls(settings: Settings, role: str) -> None:
    """Refuse a start whose TLS would be less than its settings say: all that is wrong at once."""
    problems = list(_problems(settings, role))
    if problems:
        raise Invalid(
            "cannot start: TLS is set by half",
            code="tls-incomplete",
            problems=problems,
            hint="`holdfast pki init`, `pki server` and `pki client` make what is missing",
        )


def _problems(settings: Settings, role: str) -> Iterator[Problem]:
    certificate, key = certificate_of(settings, role)
    if bool(certificate) != bool(key):
        which = f"HOLDFAST_{role.upper()}_TLS" if role in OWN else "HOLDFAST_TLS"
        yield Problem(
            f"{which}_{'KEY' if certificate else 'CERTIFICATE'}_FILE",
            "is missing: TLS needs both a certificate and its key",
        )
    if settings["tls_enabled"] and not certificate:
        yield Problem(
            "HOLDFAST_TLS_CERTIFICATE_FILE", "is missing: TLS is to be on, and there is none"
        )
    if clients_of(settings, role) != "none":
        if not certificate:
            yield Problem("HOLDFAST_TLS_CLIENTS", "asks for certificates, and there is no TLS")
        if not settings["tls_ca_file"]:
            yield Problem(
                "HOLDFAST_TLS_CA_FILE", "is missing: nobody is named whose certificates count"
            )
    own, own_key = settings["tls_client_certificate_file"], settings["tls_client_key_file"]
    if bool(own) != bool(own_key):
        yield Problem(
            f"HOLDFAST_TLS_CLIENT_{'KEY' if own else 'CERTIFICATE'}_FILE",
            "is missing: a certificate is presented with its key",
        )


def server_tls(settings: Settings, role: str) -> Tls | None:
    """What ``role`` serves with."""
    from holdfast.kernel.serving import Tls

    certificate, key = certificate_of(settings, role)
    if certificate is None or key is None:
        return None
    clients = clients_of(settings, role)
    return Tls(
        certificate,
        key,
        settings["tls_ca_file"] if clients != "none" else None,
        client_required=clients == "required",
    )


class ServedCertificate:
    """The time of the certificate that is served: as its file was at the start, or at SIGHUP."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self.read()

    def read(self) -> None:
        """Look at the file, which has just been taken."""
        from holdfast.identity.pki import read_certificate

        try:
            found = read_certificate(self._path.read_bytes(), str(self._path))
        except OSError as error:
            raise Invalid(f"cannot read {self._path}: {error.strerror}") from error
        self._begins, self._ends = found.not_valid_before_utc, found.not_valid_after_utc

    async def check(self) -> str | None:
        """Readiness: unhealthy outside of its time, degraded in its last fifth or fortnight,
        whichever is shorter."""
        begins, ends, now = self._begins, self._ends, self._clock.now()
        if now < begins:
            raise Unavailable(f"nobody accepts {self._path} before {begins:%Y-%m-%d %H:%M} UTC")
        if now > ends:
            raise Unavailable(f"nobody accepts {self._path} since {ends:%Y-%m-%d %H:%M} UTC")
        return "degraded" if ends - now < min(FORTNIGHT, (ends - begins) / 5) else None


def client_tls(settings: Settings, name: str = "") -> ClientTls | None:
    """What this process calls others with, where anything is set; a drone's has its ``name``."""
    authorities: Path | None = settings["tls_ca_file"]
    certificate, key = (
        None if path is None else Path(str(path).replace(NAME, name))
        for path in (settings["tls_client_certificate_file"], settings["tls_client_key_file"])
    )
    if authorities is None and certificate is None:
        return None
    return ClientTls(authorities, certificate, key)


def trust_of(tls: ClientTls | None, urls: Iterable[str]) -> ClientTls | ssl.SSLContext:
    """As a :class:`holdfast.kernel.http.pool.RolePool` takes it, to call these roles."""
    return verify_of(None, urls) if tls is None else tls


def verify_of(tls: ClientTls | None, urls: Iterable[str]) -> ssl.SSLContext:
    """As httpx takes it, to call these: our context, or what the machine trusts."""
    if tls is not None:
        return tls.context
    return machine_trust() if any(url.startswith("https:") for url in urls) else nobody()


def url_scheme(settings: Settings, role: str) -> str:
    """How ``role`` is reached on this machine where no address of it is named."""
    return "https" if certificate_of(settings, role)[0] else "http"
