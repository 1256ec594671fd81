"""Ten recorded public sources that ship with the program, and the profiles that read them.

``data/`` holds the files byte for byte, ``data/MANIFEST.yaml`` where each came from, under which
licence, its digest, and facts computed from it with other tools than ours. The profiles name the
original addresses; a run on the recording is marked *replayed*.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent

DATA_DIR = _HERE / "data"
PROFILES_DIR = _HERE / "profiles"
REPORTS_DIR = _HERE / "reports"


def manifest() -> dict[str, Any]:
    """The provenance of every recording, and the facts about it."""
    import yaml

    found: dict[str, Any] = yaml.safe_load((DATA_DIR / "MANIFEST.yaml").read_text("utf-8"))
    return found


def profile_files() -> list[Path]:
    """The ten profiles, by name."""
    return sorted(PROFILES_DIR.glob("*.yaml"))


def recordings() -> dict[str, Path]:
    """Original address → the file recorded from it."""
    return {entry["source"]: DATA_DIR / entry["file"] for entry in manifest()["files"]}
