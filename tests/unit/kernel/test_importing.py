"""What libraries would load on the chance that it is there, and nobody of ours uses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from holdfast.kernel.importing import REFUSED

LOADS = {
    "httpx": "httpx",
    "structlog": "structlog",
    "litestar": "litestar.plugins.pydantic",
    "mako": "mako.exceptions",
}
"""The import that makes each package load what it is refused."""


def loaded(code: str) -> list[str]:
    """Which of the refused modules a fresh interpreter has loaded after ``code``."""
    code += (
        f"\nimport json, sys\nprint(json.dumps([m for m in {list(REFUSED)!r} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def importing(package: str) -> str:
    return f"try:\n    import {LOADS[package]}\nexcept ImportError:\n    pass\n"


@pytest.mark.parametrize("package", sorted(set(REFUSED.values())))
def test_a_package_does_without_what_it_is_refused(package: str) -> None:
    refused = {name for name, to in REFUSED.items() if to == package and name != "attr"}
    assert refused <= set(loaded(importing(package))), "nothing to refuse any more"
    assert not refused & set(loaded(f"import holdfast, {package}\n{importing(package)}"))


def test_what_is_refused_to_one_is_there_for_others() -> None:
    others = "\n".join(f"import {name}" for name in REFUSED if "." not in name)
    code = f"import holdfast, httpx, structlog, litestar\nassert httpx.AsyncClient\n{others}"
    assert set(loaded(code)) == {name for name in REFUSED if "." not in name}


def test_a_web_application_is_made_without_what_is_refused() -> None:
    code = "import holdfast\nfrom litestar import Litestar\nLitestar([])"
    assert not {"pydantic", "attr"} & set(loaded(code))
    assert {"pydantic", "attr"} <= set(loaded("from litestar import Litestar\nLitestar([])"))
