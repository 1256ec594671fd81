"""Write the next revision: the difference between the tables as declared and as migrated.

    python -m holdfast.migrations.generate "Say why" --oldest-code 0.1.0

``--replace`` writes the newest revision anew: only for one that no release has carried. Read what
was written before you commit it: a rename looks like a drop and an add.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from holdfast.kernel.database.sqlite_session import sqlite_engine
from holdfast.migrations.runner import configuration


def generate(message: str, *, oldest_code: str, replace: bool) -> Path:
    """Write the revision; its path."""
    newest = _newest()
    if replace and newest is not None:
        newest.unlink()
        newest = _newest()
    number = int(newest.stem.removeprefix("revision_")) + 1 if newest else 1
    with tempfile.TemporaryDirectory() as folder:
        engine = sqlite_engine(Path(folder) / "empty.db")
        with engine.connect() as conn:
            conn.exec_driver_sql("BEGIN IMMEDIATE")
            conn.execute(text("SELECT 1"))
            config = configuration(conn)
            if newest is not None:
                command.upgrade(config, "head")
            command.revision(
                config,
                message=message,
                autogenerate=True,
                rev_id=f"{number:04}",
            )
        engine.dispose()
    written = _newest()
    assert written is not None
    # The template cannot be handed a value of ours: put it in afterwards.
    written.write_text(written.read_text().replace("OLDEST_CODE", oldest_code))
    if ruff := shutil.which("ruff"):
        subprocess.run([ruff, "format", "--quiet", written], check=False)
        subprocess.run([ruff, "check", "--quiet", "--fix", written], check=False)
    return written


def _newest() -> Path | None:
    script = ScriptDirectory.from_config(configuration())
    head = script.get_current_head()
    return None if head is None else Path(script.get_revision(head).path)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="holdfast.migrations.generate")
    parser.add_argument("message")
    parser.add_argument("--oldest-code", required=True, help="the oldest release it works with")
    parser.add_argument("--replace", action="store_true", help="write the newest revision anew")
    given = parser.parse_args(arguments)
    path = generate(given.message, oldest_code=given.oldest_code, replace=given.replace)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
