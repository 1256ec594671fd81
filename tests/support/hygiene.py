"""Looks through everything that served programs wrote for secrets, after each test that had some.

Looked for are the secrets that Holdfast issues, by their shapes (:data:`SHAPES`), and those that
are known: what a test configured by environment or file, and what lies in the files that are there
to hold a secret (:data:`HOLDERS`). They are looked for as they are, and in base64, hexadecimal and
URL encoding. Looked through are all files below the directories of the tests, what commands
printed, the arguments of processes, metrics and events. What is found is told by kind, file and
offset, and never shown.

The cost is one pass over each file, however many secrets there are (:func:`_positions`).
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

import httpx
import numpy as np

from holdfast.app.settings import SETTINGS, Setting

_TAIL = rb"_[0-9a-f-]{36}_[A-Za-z0-9_-]{43}"
SHAPES: Mapping[str, tuple[bytes, re.Pattern[bytes]]] = {
    **{
        f"{prefix.decode()}_": (prefix + b"_", re.compile(prefix + _TAIL))
        for prefix in (b"hf", b"hfw", b"hfj", b"hfi", b"hfs")
    },
    "hfo_": (b"hfo_", re.compile(rb"hfo_[0-9a-f]{64}")),
    # Grants, hop tokens and tokens of others: whoever has one is who it names.
    "signed token": (
        b"eyJ",
        re.compile(rb"eyJ[A-Za-z0-9_-]{8,600}\.eyJ[A-Za-z0-9_-]{8,6000}\.[A-Za-z0-9_-]{20}"),
    ),
    "private key": (b"PRIVATE KEY-----", re.compile(rb"PRIVATE KEY-----\s[A-Za-z0-9+/]{20}")),
    "login link": (b"login#", re.compile(rb"login#[0-9a-f]{64}")),
}
"""What Holdfast issues: where such a secret begins, and the whole of what makes it one."""

HOLDERS: Mapping[str, tuple[str, ...]] = {
    # The operator's token, which is known by being in this file.
    "operator.token": ("hfo_",),
    # What `up` gives its own drones to register with, and a stack of tests to its drones.
    "join-token": ("hfj_",),
    # Who a drone is, and the key it signs with.
    "*.credential": ("hfw_",),
    # The same, and the keys of certificates: `pki` writes each beside its certificate.
    "*.key": ("private key",),
    # The keys of the roles, the peppers, the installation's secret and the master key.
    "keys/*": (),
    # The database of wrapped keys, which the master key opens.
    "keyring/*": (),
    # Secrets for sources, by reference.
    "secrets/*": tuple(SHAPES),
}
"""Files that are there to hold a secret, and which of the shapes: mode 0600, or they are no such.

Those with none of the shapes hold secrets that are known from there. What a test itself hands to a
program by a setting that names a file is held there as well.
"""
GROUPS = "data/drone/join-token"
"""What `drone-up` gives a container: its group reads it, whatever user the container runs as."""
NOT_LOOKED_INTO = (
    "image",  # A disk with a data directory on it, its holders included.
    "*.sock",
)
TELLS = (
    ("apikey", "create"), ("worker", "token"), ("login",), ("person", "invite"),
    ("person", "create-admin"), ("person", "recover"), ("key", "export"), ("key", "new-master"),
    ("key", "recover"),
)  # fmt: skip
"""Commands whose output is a secret, shown once to whoever asked for it."""
SECRET_FILES = re.compile(r"(SECRET|KEY|KEYS|TOKEN|PASSWORD)_FILE$")
UNFINISHED = re.compile(r"\.(.+)\.\d+\.[0-9a-f]{8}")
LENGTH_MIN = 12
"""Shorter ones are words that stand anywhere."""
PIECE_BYTES = 1 << 24
OVERLAP_BYTES = 8192
ANSWER_BYTES_MAX = 1 << 22
ANSWER_SECONDS = 10.0
_KEY = 6


class Served(Protocol):
    """A program that runs."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    token: str

    @property
    def client(self) -> httpx.Client: ...


def spellings(secret: bytes) -> Iterator[bytes]:
    """How ``secret`` may stand somewhere: itself, encoded, and as a part of something encoded."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for before in range(3):
        # What is around it changes the first and the last characters only.
        padded = b"\0" * before + secret
        whole = base64.b64encode(padded)[(0, 2, 3)[before] : len(padded) * 8 // 6]
        yield whole
        yield whole.replace(b"+", b"-").replace(b"/", b"_")
    text = secret.decode("latin-1")
    yield quote(secret, safe="").encode()
    yield json.dumps(text)[1:-1].encode()


@dataclass(frozen=True)
class _Pattern:
    name: str
    text: bytes


class Index:
    """Known secrets in all their spellings, to be looked for in one pass."""

    def __init__(self, known: Mapping[str, bytes]) -> None:
        self._by_key: dict[bytes, set[_Pattern]] = {}
        for name, secret in known.items():
            for text in {*spellings(secret), *_binary(secret)}:
                self._add(_Pattern(name, text))
        for kind, (start, _) in SHAPES.items():
            if kind.startswith("hf") and kind != "hfo_":
                # Their ids begin with a time: some bytes are the same in all of them.
                for text in set(spellings(start + b"01")) - {start + b"01"}:
                    self._add(_Pattern(f"{kind} encoded", text))
        self._tables = [np.zeros(1 << 16, dtype=bool) for _ in range(_KEY // 2)]
        for key in self._by_key:
            for table, pair in zip(self._tables, np.frombuffer(key, "<u2"), strict=True):
                table[pair] = True

    def _add(self, pattern: _Pattern) -> None:
        if len(pattern.text) >= _KEY:
            self._by_key.setdefault(pattern.text[:_KEY], set()).add(pattern)

    def find(self, data: bytes) -> Iterator[tuple[int, str]]:
        """Where something stands, and what."""
        for at in self._positions(data):
            for pattern in self._by_key.get(data[at : at + _KEY], ()):
                if data.startswith(pattern.text, at):
                    yield at, pattern.name

    def _positions(self, data: bytes) -> Iterator[int]:
        """Where one may begin: two bytes at a time are looked up in a table."""
        for start in (0, 1):
            count = (len(data) - start) // 2
            if count < len(self._tables):
                continue
            pairs = np.frombuffer(data, "<u2", count, start)
            found = self._tables[0][pairs].nonzero()[0]
            for ahead, table in enumerate(self._tables[1:], 1):
                found = found[found + ahead < count]
                found = found[table[pairs[found + ahead]]]
            yield from (int(each) * 2 + start for each in found)


def _binary(secret: bytes) -> Iterator[bytes]:
    """The random part alone, and the bytes that it stands for."""
    for digits in re.findall(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", secret):
        yield from (*spellings(digits), *spellings(bytes.fromhex(digits.decode())))
    part = rb"(?:(?<=[0-9a-f]{12}_)|^)([A-Za-z0-9_-]{43})(?:_[0-9a-f]{8})?$"
    for text in re.findall(part, secret):
        yield from (*spellings(text), *spellings(base64.urlsafe_b64decode(text + b"=")))


def shapes_in(data: bytes) -> Iterator[tuple[int, str]]:
    """Where in ``data`` something stands that Holdfast issues, and its kind."""
    for kind, (start, whole) in SHAPES.items():
        at = data.find(start)
        while at >= 0:
            if whole.match(data, at):
                yield at, kind
            at = data.find(start, at + 1)


@dataclass
class Guard:
    """What was started in a module of tests, with which secrets; and what it wrote elsewhere."""

    known: dict[str, bytes] = field(default_factory=dict)
    handed: set[Path] = field(default_factory=set)
    """Files in which a test handed over a secret."""
    heard: list[tuple[str, bytes]] = field(default_factory=list)
    looked: int = 0
    """Bytes that were looked through, of all."""
    active: bool = False
    """Whether programs were started since the last :meth:`forget`."""

    # --- what is noted while tests run

    def configured(self, environment: Mapping[str, str]) -> None:
        """Note the secrets with which a program is started."""
        self.active = True
        for name, value in environment.items():
            if SECRET_FILES.search(name) and value:
                self.handed.add(Path(value))
                self._know_file(name, Path(value))
            elif name in _secret_names() or (
                name.startswith("HOLDFAST_SECRET_") and not name.endswith("_HOSTS")
            ):
                for each in _values(value):
                    self._know(name, each)

    def hear(self, where: str, data: bytes | str) -> None:
        """Note what was written elsewhere than into a file."""
        self.heard.append((where, data.encode() if isinstance(data, str) else data))

    def command(self, arguments: Iterable[str], stdout: str, stderr: str) -> None:
        """Note what a command said. What it shows to whoever asked for a secret is theirs."""
        words = tuple(arguments)
        tells = any(words[: len(each)] == each for each in TELLS)
        if tells and "--out" in words:
            self.handed.add(Path(words[words.index("--out") + 1]))
        self.hear(f"standard error of {' '.join(words[:2])}", stderr)
        if not tells:
            self.hear(f"output of {' '.join(words[:2])}", stdout)

    def parting(self, program: Served) -> None:
        """Look at a program that is about to stop: its processes, its metrics and its events."""
        if program.process.poll() is not None:
            return
        for pid in _family(program.process.pid):
            with suppress(OSError):
                self.hear("the arguments of a process", Path(f"/proc/{pid}/cmdline").read_bytes())
        if program.token:
            for path in ("/metrics", "/v1/ledger/export"):
                self.hear(path, _answer(program.client, path))

    def _know(self, name: str, value: str) -> None:
        if len(value) >= LENGTH_MIN:
            self.known[f"the value of {name}"] = value.encode()

    def _know_file(self, name: str, path: Path) -> None:
        with suppress(OSError, UnicodeDecodeError):
            text = path.read_text().strip()
            if "PRIVATE KEY" not in text:
                for number, each in enumerate(_values(text)):
                    self._know(f"{name}, {number}", each)

    # --- what is looked through when they have ended

    def settle(self, folders: Iterable[Path]) -> list[str]:
        """Everything found in what was heard and in the files of ``folders``; then forget."""
        files = [path for folder in folders for path in _files(folder)]
        for path in files:
            if _holder(path) is not None:
                for number, value in enumerate(_held(path)):
                    self.known[f"what {path.name} holds, {number}"] = value
        index = Index(self.known)
        found = []
        for where, data in self.heard:
            found += [f"{what} in {where}, byte {at}" for at, what in self._search(data, index)]
        for path in files:
            found += self._search_file(path, index)
        self.heard.clear()
        return found

    def forget(self) -> None:
        """The programs of these secrets are gone."""
        self.known.clear()
        self.handed.clear()
        self.heard.clear()
        self.active = False

    def _search(self, data: bytes, index: Index) -> Iterator[tuple[int, str]]:
        self.looked += len(data)
        yield from shapes_in(data)
        yield from index.find(data)

    def _search_file(self, path: Path, index: Index) -> Iterator[str]:
        allowed = _holder(path)
        if path in self.handed or path.resolve() in self.handed:
            return
        seen = set()
        try:
            for start, piece in _pieces(path):
                for at, what in self._search(piece, index):
                    if allowed is None or (what in SHAPES and what not in allowed):
                        seen.add((start + at, what))
        except OSError:
            return  # Gone meanwhile, or of a disk that is.
        for at, what in sorted(seen):
            yield f"{what} in {path}, byte {at}"


GUARD = Guard()
"""Of this process: whatever starts programs tells it."""


def _secret_names() -> Mapping[str, Setting]:
    """Every name by which a secret is handed over by value."""
    return {
        name: setting
        for setting in SETTINGS
        if setting.secret
        for name in (setting.name, *(alias.name for alias in setting.aliases))
    }


def _values(text: str) -> Iterator[str]:
    """The secrets in what a setting says: a URL's password, a key of many, the text itself."""
    if "://" in text:
        with suppress(ValueError):
            if password := urlsplit(text).password:
                yield unquote(password)
        return
    with suppress(ValueError):
        said = json.loads(text)
        if isinstance(said, dict):
            yield from _private(said)
            return
    if lines := re.findall(r"^holdfast-master-1 \d+ ([0-9a-f]{64})", text, re.M):
        yield from lines
    elif "\n" not in text.strip():
        yield text.strip()


def _private(said: Any) -> Iterator[str]:
    """What in a document is secret, by its name."""
    if isinstance(said, dict):
        for name, value in said.items():
            if isinstance(value, str) and name in ("d", "k", "secret", "key", "credential"):
                yield value
            else:
                yield from _private(value)
    elif isinstance(said, list):
        for each in said:
            yield from _private(each)


def _holder(path: Path) -> tuple[str, ...] | None:
    """Which shapes the file is there to hold; ``None`` if it is none, or open to others."""
    # As it is while it is written: whoever is killed then leaves it behind.
    unfinished = UNFINISHED.fullmatch(path.name)
    for pattern, kinds in HOLDERS.items():
        if (path.with_name(unfinished[1]) if unfinished else path).match(pattern):
            others = 0o037 if path.match(GROUPS) else 0o077
            return kinds if path.stat().st_mode & others == 0 else None
    return None


def _held(path: Path) -> Iterator[bytes]:
    """The secrets in a file that is there to hold one."""
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return  # Wrapped keys.
    if path.suffix == ".credential":
        text = text.replace('"key"', '"public"')
    for each in _values(text):
        if LENGTH_MIN <= len(each) < 4096 and not each.startswith("-----"):
            yield each.encode()


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        with suppress(OSError):
            if path.is_symlink() or not path.is_file():
                continue
            if not any(path.match(pattern) for pattern in NOT_LOOKED_INTO):
                yield path


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """The file, in pieces that overlap by more than the longest of what is looked for."""
    with path.open("rb") as file:
        start, tail = 0, b""
        while piece := file.read(PIECE_BYTES):
            yield start - len(tail), tail + piece
            start += len(piece)
            tail = piece[-OVERLAP_BYTES:]


def _family(pid: int) -> Iterator[int]:
    """The process and all it started."""
    yield pid
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in (thread / "children").read_text().split():
                    yield from _family(int(child))


def _answer(client: httpx.Client, path: str) -> bytes:
    """The answer, or the beginning of a long one; nothing from who does not answer."""
    got = bytearray()
    with suppress(httpx.HTTPError), client.stream("GET", path, timeout=ANSWER_SECONDS) as answer:
        for piece in answer.iter_bytes():
            got += piece
            if len(got) > ANSWER_BYTES_MAX:
                break
    return bytes(got)


__all__ = ["GUARD", "HOLDERS", "SHAPES", "Guard", "Index", "shapes_in", "spellings"]
