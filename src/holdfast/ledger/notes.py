"""Checkpoints as C2SP signed notes, verifier keys, and the cosignatures of witnesses. Pure.

A checkpoint is three lines: origin, size, root in base64. A note is that text, an empty line, and
signature lines; each names its key by a name and four bytes of a hash. Whoever verifies holds the
keys; a signature line of a key that is not known is passed over, one of a known key must hold.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from holdfast.kernel.signing import SigningKey
from holdfast.ledger.errors import NoteRefused

ED25519 = 1
COSIGNATURE = 4
NOTE_BYTES_MAX = 1_000_000
SIGNATURES_MAX = 100
_NAME = re.compile(r"[^\s+]{1,255}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")
_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself: which log, how large, with which root."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The text that is signed."""
        lines = (self.origin, str(self.size), b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key that signs notes under a name."""

    name: str
    public: bytes
    algorithm: int = ED25519

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """The key in its C2SP spelling ``name+hash+key``; ``NoteRefused`` if it is none."""
        name, _, rest = text.strip().partition("+")
        hashed, _, encoded = rest.partition("+")
        data = _base64(encoded)
        if not _NAME.fullmatch(name) or len(data) != 33 or data[0] not in (ED25519, COSIGNATURE):
            raise NoteRefused(f"cannot use the verifier key {text[:80]!r}: it is not one")
        key = cls(name, data[1:], data[0])
        if key.hash.hex() != hashed:
            raise NoteRefused(f"cannot use the verifier key {text[:80]!r}: its hash is another's")
        return key

    @property
    def hash(self) -> bytes:
        """Four bytes that name the key in a signature line."""
        said = self.name.encode() + b"\n" + bytes([self.algorithm]) + self.public
        return sha256(said).digest()[:4]

    def text(self) -> str:
        """``name+hash+key``."""
        encoded = b64encode(bytes([self.algorithm]) + self.public).decode()
        return f"{self.name}+{self.hash.hex()}+{encoded}"

    def check(self, text: str, signature: bytes) -> None:
        """Return if ``signature`` (without the key's hash) is this key's over ``text``."""
        said = text.encode()
        if self.algorithm == COSIGNATURE:
            if len(signature) != 72:
                raise _refused("a cosignature has another length")
            moment = int.from_bytes(signature[:8], "big")
            said = f"cosignature/v1\ntime {moment}\n".encode() + said
            signature = signature[8:]
        self.check_bytes(said, signature)

    def check_bytes(self, said: bytes, signature: bytes) -> None:
        """Return if ``signature`` is this key's over exactly ``said``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, said)
        except (InvalidSignature, ValueError) as error:
            raise _refused(f"the signature of {self.name} does not verify") from error


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line of a note."""

    name: str
    hash: bytes
    signature: bytes

    def line(self) -> str:
        """The line, with its end."""
        return f"— {self.name} {b64encode(self.hash + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A signed text."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> str:
        """The note as it is handed out."""
        return f"{self.text}\n{''.join(each.line() for each in self.signatures)}"


def parse_note(data: bytes | str) -> Note:
    """The note in ``data``; ``NoteRefused`` if it is none. Signatures are not checked here."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise _refused("it is not UTF-8") from error
    if len(text) > NOTE_BYTES_MAX:
        raise _refused("it is too long")
    if any(ord(character) < 0x20 and character != "\n" for character in text):
        raise _refused("it holds control characters")
    body, separator, tail = text.rpartition("\n\n")
    if not separator or not body or not tail.endswith("\n"):
        raise _refused("it has no signatures")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise _refused("it has too many signatures")
    return Note(f"{body}\n", tuple(_signature(line) for line in lines))


def _signature(line: str) -> Signature:
    match = _SIGNATURE.fullmatch(line)
    data = _base64(match[2]) if match else b""
    if match is None or len(data) < 5:
        raise _refused("a signature line is malformed")
    return Signature(match[1], data[:4], data[4:])


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] != "":
        raise _refused("it is no checkpoint")
    origin, size, root, *extensions = lines[:-1]
    hashed = _base64(root)
    if not origin or not _SIZE.fullmatch(size) or len(hashed) != 32 or "" in extensions:
        raise _refused("it is no checkpoint")
    return Checkpoint(origin, int(size), hashed, tuple(extensions))


def open_note(data: bytes | str, keys: Iterable[VerifierKey]) -> tuple[Note, list[VerifierKey]]:
    """The note and which of ``keys`` signed it; ``NoteRefused`` if none did or one did wrongly."""
    note = parse_note(data)
    known = {(key.name, key.hash): key for key in keys}
    signers: list[VerifierKey] = []
    for each in note.signatures:
        key = known.get((each.name, each.hash))
        if key is None:
            continue
        key.check(note.text, each.signature)
        if key not in signers:
            signers.append(key)
    if not signers:
        raise _refused("no key that is trusted has signed it")
    return note, signers


def verifier_key(name: str, key: SigningKey, algorithm: int = ED25519) -> VerifierKey:
    """The public half of ``key`` under ``name``."""
    return VerifierKey(name, key.public_bytes(), algorithm)


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> Note:
    """``checkpoint`` as a note signed by the log's key; the key's name is the origin."""
    text = checkpoint.text()
    named = verifier_key(checkpoint.origin, key)
    return Note(text, (Signature(named.name, named.hash, key.sign_bytes(text.encode())),))


def cosign(note: Note, name: str, key: SigningKey, unix_seconds: int) -> Signature:
    """A witness's cosignature of a checkpoint (C2SP tlog-cosignature v1)."""
    said = f"cosignature/v1\ntime {unix_seconds}\n{note.text}".encode()
    named = verifier_key(name, key, COSIGNATURE)
    return Signature(name, named.hash, unix_seconds.to_bytes(8, "big") + key.sign_bytes(said))


def _base64(text: str) -> bytes:
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused("something in it is not base64") from error
    if b64encode(data).decode() != text:
        raise _refused("something in it is not spelled canonically")
    return data


def _refused(reason: str) -> NoteRefused:
    return NoteRefused(f"cannot accept the note: {reason}")


# --- paths of tiles -----------------------------------------------------------------------------


def tile_path(level: str, number: int, width: int = 256) -> str:
    """The C2SP path of a tile: ``tile/0/x001/234``, with ``.p/N`` for one of N hashes."""
    parts = [f"{number % 1000:03}"]
    while number >= 1000:
        number //= 1000
        parts.append(f"x{number % 1000:03}")
    partial = "" if width == 256 else f".p/{width}"
    return f"tile/{level}/{'/'.join(reversed(parts))}{partial}"


_PATH = re.compile(
    r"(0|[1-9]|[1-5][0-9]|6[0-3]|entries)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([0-9]{1,3}))?"
)


def parse_tile_path(path: str) -> tuple[str, int, int] | None:
    """Level (or ``entries``), number and width in the path after ``tile/``; none if it is none."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    number = int(match[2].replace("x", "").replace("/", ""))
    width = int(match[3]) if match[3] else 256
    wanted = match[1], number, width
    return wanted if 0 < width <= 256 and tile_path(*wanted) == f"tile/{path}" else None


def own_signature(note: str) -> str:
    """The checkpoint with the log's own signature alone: a receipt holds nothing unchecked."""
    found = parse_note(note)
    origin = parse_checkpoint(found.text).origin
    own = tuple(each for each in found.signatures if each.name == origin)
    return Note(found.text, own).encode()
