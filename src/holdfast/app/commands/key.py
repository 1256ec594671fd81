"""``holdfast key``, with the two commands that work on the key files themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from holdfast.app.keys import master_file
from holdfast.app.settings import Settings
from holdfast.kernel.cli import check_new, command_line, fail, say, session
from holdfast.kernel.errors import Corrupt, HoldfastError, Invalid, NotFound
from holdfast.keyring.cli import app
from holdfast.keyring.lines import ERASURES, RESTRICTIONS

__all__ = ["app"]

FORMAT = "holdfast-recovery-1"
PUT_BACK = "put back"
_PARTS = {"tenant-secrets": "tenant-secret", ERASURES: "erasures", RESTRICTIONS: "restrictions"}
RECOVERY_BYTES_MAX = 64 * 1024 * 1024
"""It has the list of erased people."""


class Recovery(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Everything that cannot be made again: as text, so that it may be printed and typed."""

    format: str
    master_key: str
    tenant_secret: str
    erasures: str = ""
    restrictions: str = ""
    exported_at: str = ""
    """Up to when the lists know everything; not in files of earlier releases."""

    def lists(self) -> dict[str, str]:
        """The files that no restore goes back behind, by their names; those that there are."""
        found = {ERASURES: self.erasures, RESTRICTIONS: self.restrictions}
        return {name: text for name, text in found.items() if text}


@app.command(
    "export",
    help="Write the master key and the tenant secret to a file, for recovery. Keep it elsewhere.",
    epilog="Example: holdfast key export --out /media/safe/holdfast-recovery.json",
)
def export(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="A new file; mode 0600.")],
) -> None:
    """Read from the data directory itself: keys never travel over HTTP.

    On the record before it is written. Where nobody can write that down (a role's own data
    directory, a database that cannot be opened) the keys are exported all the same, and it is said:
    whoever can read these files can copy them without us.
    """
    from holdfast.keyring.master import write_new

    try:
        check_new(out)
        settings = _settings(ctx)
        recovery = _recovery(settings)
        _note(ctx, "exported", recovery.master_key)
        write_new(out, msgspec.json.format(msgspec.json.encode(recovery), indent=2).decode() + "\n")
    except HoldfastError as error:
        fail(error)
    except UnicodeError as error:
        fail(Corrupt(f"cannot export the keys: a file of them is damaged: {error}"))
    except OSError as error:
        fail(Invalid(f"cannot export the keys: {error.filename}: {error.strerror}"))
    say(f"written: {out}; whoever has it and the data of {settings.data_dir} can read everything")


def _recovery(settings: Settings) -> Recovery:
    """What is to be kept of the data directory's keys; ``NotFound`` if it has none."""
    from holdfast.kernel.clock import SystemClock, timestamp
    from holdfast.keyring.master import MasterKeys, render_master

    now = timestamp(SystemClock().now())  # before the lists are read: all until then is in them
    try:
        if settings["keyring_master_key"]:
            masters = MasterKeys.from_text(settings["keyring_master_key"])
        else:
            masters = MasterKeys.from_file(master_file(settings))
        secret = (settings.secrets_dir / "tenant-secrets").read_text(encoding="ascii")
    except FileNotFoundError as error:
        raise NotFound(
            f"cannot export the keys of {settings.data_dir.absolute()}: there is no "
            f"{error.filename}",
            hint="name the data directory of the system with --data-dir; where its master key lies "
            "elsewhere, HOLDFAST_KEYRING_MASTER_KEY_FILE names it here, too",
        ) from error
    return Recovery(
        format=FORMAT,
        master_key=render_master(masters.versions),
        tenant_secret=secret,
        erasures=_text_of(settings.keys_dir / ERASURES),
        restrictions=_text_of(settings.keys_dir / RESTRICTIONS),
        exported_at=now,
    )


@app.command(
    "import",
    help="Put the master key and the tenant secret back from a file of `key export`.",
    epilog="Example: holdfast key import /media/safe/holdfast-recovery.json",
)
def import_(ctx: typer.Context, file: Annotated[Path, typer.Argument(help="The file.")]) -> None:
    """Never over a file that is there, unless it is the same. On the record when it is there: the
    record itself is sealed under these keys."""
    try:
        settings = _settings(ctx)
        recovery = read_recovery(file)
        wanted = wanted_files(settings, recovery)
        for path, text in wanted.items():
            check_free(path, text)  # all of them, before one is written
        parts = []
        for path, text in wanted.items():
            done = put_back(path, text)
            say(f"{done}: {path}")
            if done == PUT_BACK:
                parts.append(_PARTS.get(path.name, "master-key"))
        if parts:
            _note(ctx, "imported", recovery.master_key, parts)
    except HoldfastError as error:
        fail(error)
    except OSError as error:
        fail(Invalid(f"cannot import the keys: {error.filename}: {error.strerror}"))


@app.command(
    "new-master",
    help="Print a line with a new version of a master key that you hand in yourself.",
    epilog="Example: holdfast key new-master --version 1 > master.key",
)
def new_master(
    version: Annotated[int, typer.Option("--version", min=1, help="Higher than the last one.")],
) -> None:
    """For operators who keep the master key in a secret store of their own.

    Add the line to the secret of every process that shares the keyring and start each again before
    `key rewrap`: one that lacks a version which others know wraps no new keys.
    """
    import os
    import sys

    from holdfast.keyring.envelope import KEY_BYTES
    from holdfast.keyring.master import MasterKey, render_master

    text = render_master([MasterKey(version, os.urandom(KEY_BYTES))])
    sys.stdout.write(text.splitlines()[-1] + "\n")


def read_recovery(file: Path) -> Recovery:
    """The file's content; ``NotFound`` or ``Invalid`` if it is not one of ours, ``Corrupt`` if it
    was changed."""
    from holdfast.keyring.master import parse_master

    hint = "name the file that `holdfast key export --out FILE` made"
    try:
        with file.open("rb") as stream:
            data = stream.read(RECOVERY_BYTES_MAX + 1)
        if len(data) > RECOVERY_BYTES_MAX:
            raise Invalid(
                f"cannot read {file}: it is too large for a file of `key export`", hint=hint
            )
        found = msgspec.json.decode(data, type=Recovery)
    except FileNotFoundError as error:
        raise NotFound(f"cannot read {file}: there is no such file", hint=hint) from error
    except OSError as error:
        raise Invalid(f"cannot read {file}: {error.strerror}", hint=hint) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(
            f"cannot read {file}: it is no recovery file of `key export`", hint=hint
        ) from error
    if found.format != FORMAT:
        raise Invalid(f"cannot read {file}: its format is {found.format[:40]!r}", hint=hint)
    parse_master(found.master_key, str(file))
    return found


def wanted_files(settings: Settings, recovery: Recovery) -> dict[Path, str]:
    """Where the parts of a recovery file belong."""
    files = {settings.secrets_dir / "tenant-secrets": recovery.tenant_secret}
    if not settings["keyring_master_key"]:
        files[master_file(settings)] = recovery.master_key
    for name, text in recovery.lists().items():
        if not (settings.keys_dir / name).exists():
            files[settings.keys_dir / name] = text
    return files


def put_back(path: Path, text: str) -> str:
    """Write the file if it is missing; ``Invalid`` if another one is there."""
    from holdfast.keyring.master import write_new

    if check_free(path, text):
        write_new(path, text)
        return PUT_BACK
    return "there already"


def check_free(path: Path, text: str) -> bool:
    """Whether there is no such file; ``Invalid`` if another one than ``text`` is there."""
    try:
        there = path.read_bytes()
    except FileNotFoundError:
        return True
    if there != text.encode():
        raise Invalid(
            f"cannot put {path} back: another one is there",
            hint="move it away first, if you are sure",
        )
    return False


def _note(ctx: typer.Context, what: str, master_key: str, parts: Sequence[str] = ()) -> None:
    """Bring it on the record; where that is not possible, say that it is not there, and why."""
    from holdfast.keyring.client import KeysClient
    from holdfast.keyring.master import parse_master
    from holdfast.keyring.model import KeysHandled

    masters = [key.id.hex() for key in parse_master(master_key, "the master key")]
    handled = msgspec.convert(
        {"what": what, "masters": masters, "parts": list(parts)}, type=KeysHandled
    )

    async def tell() -> None:
        async with session(ctx) as api:
            await KeysClient(api).handled(handled)

    try:
        asyncio.run(tell())
    except HoldfastError as error:
        from holdfast.identity.hop import hop_missing

        if error.detail == hop_missing().detail:
            say("not on the record: a role that runs alone takes no notes but from its gateway")
        else:
            say(f"not on the record: {error.detail}")
    except Exception as error:  # whatever is wrong with the data: the keys are what is wanted
        say(f"not on the record: {type(error).__name__}: {error}")


def _text_of(path: Path) -> str:
    """What a list says, in whatever letters reasons were given; empty without one."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _settings(ctx: typer.Context) -> Settings:
    from holdfast.app.line import settings_of

    return settings_of(command_line(ctx))
