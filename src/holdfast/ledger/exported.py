"""An export of a log, checked elsewhere: entry by entry, up to its signed checkpoint. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from holdfast.kernel.canonical import decode_strict
from holdfast.kernel.errors import Invalid
from holdfast.kernel.merkle import leaf_hash
from holdfast.kernel.outbox import commitment
from holdfast.ledger.errors import ExportRefused, FrameDamaged, NoteRefused
from holdfast.ledger.frames import read_leaf
from holdfast.ledger.model import ExportLine, Trust
from holdfast.ledger.tree import Tree
from holdfast.ledger.trusting import trusted_checkpoint


class CheckedExport(Struct, frozen=True, kw_only=True):
    """An export that holds."""

    origin: str
    entries: int
    erased: int
    streams: int
    root: str


@dataclass(slots=True)
class _Walk:
    """What is known of the entries so far; it grows with the streams, not with the entries."""

    trust: Trust
    tree: Tree = field(default_factory=Tree)
    versions: dict[str, int] = field(default_factory=dict)
    recorded: str = ""
    erased: int = 0

    def entry(self, line: ExportLine) -> None:
        position = self.tree.size
        if line.position != position:
            raise _refused(f"entry {position} is missing")
        data = line.leaf.encode()
        try:
            leaf = read_leaf(data)
        except FrameDamaged as error:
            raise _refused(f"entry {position} has no header") from error
        if leaf.tenant != self.trust.tenant:
            raise _refused(f"entry {position} is of another tenant than the policy's")
        version = self.versions.get(leaf.stream, 0) + 1
        if leaf.version != version or leaf.recorded < self.recorded:
            raise _refused(f"entry {position} does not follow what is in front of it")
        if line.payload is None and not line.salt:
            self.erased += 1
        elif line.payload is None:
            raise _refused(f"entry {position} has a salt for a payload that it does not show")
        else:
            payload = line.payload.encode()
            told = commitment(_bytes(line.salt, position), payload).hex()
            if len(payload) != leaf.length or not hmac.compare_digest(told, leaf.commitment):
                raise _refused(f"the payload of entry {position} is not what was committed to")
        self.versions[leaf.stream], self.recorded = version, leaf.recorded
        self.tree.append(leaf_hash(data))

    def end(self, line: ExportLine) -> CheckedExport:
        try:
            said = trusted_checkpoint(line.checkpoint, self.trust)
        except NoteRefused as error:
            raise _refused(f"its checkpoint does not hold: {error.detail}") from error
        size, root = self.tree.size, self.tree.root()
        if (said.size, line.entries) != (size, size):
            raise _refused(f"it has {size} entries, and its checkpoint speaks of {said.size}")
        if said.root != root:
            raise _refused("its entries are not those that were signed")
        return CheckedExport(
            origin=said.origin,
            entries=size,
            erased=self.erased,
            streams=len(self.versions),
            root=root.hex(),
        )


def check_export(lines: Iterable[bytes], trust: Trust) -> CheckedExport:
    """What an export of the whole log says, if all of it holds; ``ExportRefused`` if not.

    Every header and payload, versions, times and the tree, up to the checkpoint at its end, which a
    key of the policy has signed. Whoever hands it over can leave payloads out, as if they were
    erased: how many are is told.
    """
    walk, found = _Walk(trust), None
    for data in lines:
        if found is not None:
            raise _refused("something follows its last line")
        try:
            line = msgspec.convert(decode_strict(data), ExportLine)
        except (Invalid, msgspec.ValidationError) as error:
            raise _refused(f"line {walk.tree.size + 1} is none of an export, or cut off") from error
        if line.checkpoint:
            if line != ExportLine(checkpoint=line.checkpoint, entries=line.entries):
                raise _refused("its last line holds more than the checkpoint")
            found = walk.end(line)
        elif line.entries is not None:
            raise _refused(f"line {walk.tree.size + 1} is an entry and says how many there are")
        elif walk.tree.size == 0 and line.position:
            raise _refused(f"it begins at entry {line.position}: only one of everything can be")
        else:
            walk.entry(line)
    if found is None:
        raise _refused("it was cut off: the checkpoint at its end is missing")
    return found


def _bytes(text: str, position: int) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise _refused(f"the salt of entry {position} is none") from error


def _refused(reason: str) -> ExportRefused:
    return ExportRefused(
        f"cannot accept the export: {reason}",
        hint="export again, and see that the policy is of this log and not from before its last "
        "rotation; if it still does not hold, do not believe it",
    )
