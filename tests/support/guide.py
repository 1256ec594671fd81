"""A page of the documentation, run: its commands, programs and queries, in the order they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import jinja2

BLOCK = re.compile(r"^```(sh|python|sql|sql\+jinja|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 600.0


@dataclass(frozen=True)
class Block:
    kind: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """Every block of a kind that can be run or written down."""
    return [Block(kind, text) for kind, text in BLOCK.findall(page.read_text("utf-8"))]


def run_shell(text: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Commands, as a shell runs them; the first that fails fails all."""
    return _run(["bash", "-euo", "pipefail", "-c", text], folder, environment)


def run_python(text: str, folder: Path, environment: Mapping[str, str]) -> str:
    """A program, in a process of its own; what it printed."""
    return _run([sys.executable, "-W", "error", "-c", text], folder, environment)


def _run(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{arguments[-1]}\n{done.stderr}\n{done.stdout}"
    return done.stdout


def run_models(models: Mapping[str, str], locations: Mapping[str, str], database: Path) -> None:
    """dbt's models, rendered as dbt would and made on DuckDB, each after those it refers to."""
    waiting = dict(models)
    with duckdb.connect(str(database)) as connection:
        while waiting:
            made = {name for name in models if name not in waiting}
            for name, text in list(waiting.items()):
                referred: list[str] = []

                def ref(other: str, referred: list[str] = referred) -> str:
                    referred.append(other)
                    return f'"{other}"'

                rendered = (
                    jinja2.Environment(autoescape=False)
                    .from_string(text)
                    .render(
                        config=lambda **_: "", ref=ref, source=lambda _, table: locations[table]
                    )
                )
                if set(referred) <= made:
                    connection.execute(f'CREATE OR REPLACE TABLE "{name}" AS {rendered}')
                    del waiting[name]
                    break
            else:
                raise AssertionError(f"models refer to each other or to nothing: {sorted(waiting)}")
