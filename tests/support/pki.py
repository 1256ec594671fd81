"""Certificates as ``holdfast pki`` leaves them, and such as nobody should accept."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from typer.testing import CliRunner

from holdfast.app.commandline import app
from holdfast.identity import pki


@dataclass(frozen=True)
class Pki:
    """A folder that ``holdfast pki`` filled: an authority, and what it signed."""

    data_dir: Path

    @classmethod
    def init(cls, data_dir: Path) -> Pki:
        """An authority of its own."""
        made = cls(data_dir)
        made.command("init")
        return made

    @property
    def folder(self) -> Path:
        return self.data_dir / "pki"

    @property
    def authority(self) -> Path:
        return self.folder / "ca.crt"

    def command(self, *arguments: str) -> None:
        """``holdfast pki ARGUMENTS``, which must succeed."""
        result = CliRunner().invoke(app, ["--data-dir", str(self.data_dir), "pki", *arguments])
        assert result.exit_code == 0, result.output

    def server(self, name: str) -> None:
        """A certificate for a role on this machine."""
        self.command("server", name, "--host", "localhost", "--host", "127.0.0.1")

    def client(self, name: str) -> None:
        """A certificate for a caller."""
        self.command("client", name)

    def expired_client(self, name: str) -> None:
        """A caller's certificate that was right until a week ago."""
        self._expired(pki.Request(pki.Purpose.CLIENT, name, days=1))

    def expired_server(self, name: str) -> None:
        """A role's certificate that was right until a week ago."""
        hosts = ("localhost", "127.0.0.1")
        self._expired(pki.Request(pki.Purpose.SERVER, name, hosts, days=1))

    def _expired(self, wanted: pki.Request) -> None:
        authority = pki.Authority(
            pki.read_certificate(self.authority.read_bytes(), "ca"),
            pki.read_key((self.folder / "ca.key").read_bytes(), "ca"),
        )
        key = pki.new_key()
        began = datetime.now(UTC) - timedelta(days=8)
        name = wanted.name
        made = pki.issue(authority, wanted, key.public_key(), now=began, serial=99)
        (self.folder / f"{name}.crt").write_bytes(pki.certificate_pem(made))
        file = self.folder / f"{name}.key"
        file.touch(mode=0o600)
        file.write_bytes(pki.key_pem(key))

    def context(self, name: str = "", of: Pki | None = None) -> ssl.SSLContext:
        """A caller that trusts this authority and presents ``name``'s certificate, if any."""
        found = ssl.create_default_context(cafile=self.authority)
        if name:
            folder = (of or self).folder
            found.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
        return found

    def serving(self, role: str) -> dict[str, str]:
        """The settings of a role that asks everybody for a certificate."""
        return {
            "HOLDFAST_TLS_CERTIFICATE_FILE": str(self.folder / f"{role}.crt"),
            "HOLDFAST_TLS_KEY_FILE": str(self.folder / f"{role}.key"),
            "HOLDFAST_TLS_CLIENTS": "required",
            **self.calling(f"{role}-caller"),
        }

    def calling(self, name: str) -> dict[str, str]:
        """The settings of a caller."""
        return {
            "HOLDFAST_TLS_CA_FILE": str(self.authority),
            "HOLDFAST_TLS_CLIENT_CERTIFICATE_FILE": str(self.folder / f"{name}.crt"),
            "HOLDFAST_TLS_CLIENT_KEY_FILE": str(self.folder / f"{name}.key"),
        }
