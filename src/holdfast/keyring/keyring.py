"""The keyring: opens, makes, wraps and destroys keys. Synchronous, and safe from any thread.

Its store may be another machine's, and slow to answer: who is in an event loop goes through
:meth:`Keyring.apart`, which has threads of its own, so that nobody else waits for a thread.

Every key below the master lies wrapped in the store (:mod:`holdfast.keyring.wrapping`). Rewrapping
changes these rows and nothing else: what the keys sealed stays as it is.

Opened purpose keys are kept in memory, a bounded number of them. Subject and object keys are not: a
destroyed key is gone for every process the moment its row is.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import hmac
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Corrupt, Internal, OutcomeUnknown, Unavailable
from holdfast.keyring import statements
from holdfast.keyring.errors import (
    KeyDestroyed,
    KeyringMissing,
    MasterKeyForeign,
    MasterKeyMissing,
    NotThisRole,
)
from holdfast.keyring.master import MasterKeys
from holdfast.keyring.model import (
    NAMES,
    PURPOSES,
    RECORDS,
    RESPONSES,
    SUBJECT_TOKEN_BYTES,
    Checked,
    DataKey,
    KeyCounts,
    KeyringInfo,
    MasterInfo,
    Rewrapped,
    Rotation,
)
from holdfast.keyring.ports import KeyStore, Rows
from holdfast.keyring.statements import keyring_id
from holdfast.keyring.wrapping import KEEP_HINT, Random, Wrapping, keep

CURRENT_SECONDS = 60.0
"""How long another process may go on sealing under a purpose key that was rotated."""
THREADS = 4
"""Its units run one after the other: more would only wait."""
REWRAP_ROWS = 500

T = TypeVar("T")


class Keyring:
    """Keys of every tenant, for the purposes that this process has business with."""

    def __init__(
        self,
        store: KeyStore,
        masters: MasterKeys,
        clock: Clock,
        *,
        purposes: Iterable[str] = PURPOSES,
        random: Random = os.urandom,
    ) -> None:
        self._store = store
        self._masters = masters
        self._clock = clock
        self._purposes = frozenset(purposes)
        self._random = random
        self._wrapping = Wrapping(masters, clock, random)
        self._guard = threading.Lock()
        self._opened: OrderedDict[tuple[str, str, bytes], DataKey] = OrderedDict()
        self._current: OrderedDict[tuple[str, str], tuple[float, DataKey]] = OrderedDict()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="keyring")

    # --- opening ------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """What the data carries, to know its keyring again."""
        return self._store.transact(keyring_id)

    @property
    def store(self) -> KeyStore:
        return self._store

    @property
    def masters(self) -> MasterKeys:
        return self._masters

    def close(self) -> None:
        """Forget what is open and give the store up."""
        self._wrapping.forget()
        with self._guard:
            self._opened.clear()
            self._current.clear()
        self._threads.shutdown(cancel_futures=True)
        self._store.close()

    async def apart(self, work: Callable[..., T], *arguments: Any) -> T:
        """What ``work`` of the arguments gives, in a thread of the keyring's own."""
        run = partial(contextvars.copy_context().run, work, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    # --- purpose keys -------------------------------------------------------------------------

    def current(self, tenant: str, purpose: str) -> DataKey:
        """The key that seals for this purpose now; made when there is none yet."""
        self._allowed(purpose)
        now = self._clock.monotonic()
        with self._guard:
            known = self._current.get((tenant, purpose))
            if known is not None and now - known[0] < CURRENT_SECONDS:
                return known[1]
        found = self._repeatable(lambda rows: self._purpose_key(rows, tenant, purpose))
        with self._guard:
            keep(self._current, (tenant, purpose), (now, found))
            keep(self._opened, (tenant, purpose, found.id), found)
        return found

    def find(self, tenant: str, purpose: str, key_id: bytes) -> DataKey:
        """The key with this id; :class:`KeyDestroyed` if there is none (any more).

        Only purpose keys are remembered.
        """
        self._allowed(purpose)
        with self._guard:
            known = self._opened.get((tenant, purpose, key_id))
        if known is not None:
            return known
        found = self.find_many(tenant, purpose, [key_id]).get(key_id)
        if found is None:
            raise destroyed()
        return found

    def find_many(
        self, tenant: str, purpose: str, key_ids: Iterable[bytes]
    ) -> dict[bytes, DataKey]:
        """Those of the keys that there are, opened."""
        found = self.find_owned(tenant, purpose, key_ids)
        return {key_id: key for key_id, (key, _) in found.items()}

    def find_owned(
        self, tenant: str, purpose: str, key_ids: Iterable[bytes]
    ) -> dict[bytes, tuple[DataKey, str]]:
        """:meth:`find_many`, each with the keyed name of whose own it is: empty if nobody's.

        One transaction for all of them; none for those that are remembered.
        """
        self._allowed(purpose)
        wanted = set(key_ids)
        found = dict(self._remembered(tenant, purpose, wanted))
        asked = sorted(key_id.hex() for key_id in wanted - found.keys())

        def unit(rows: Rows) -> list[tuple[str, str, DataKey]]:
            return [
                (row[1], row[3], self._wrapping.unwrapped(rows, tenant, row))
                for row in statements.by_ids(rows, tenant, asked)
                if row[1] == "subject" or row[2] == purpose
            ]

        for kind, name, key in self._store.transact(unit) if asked else []:
            if kind == "purpose":
                with self._guard:
                    keep(self._opened, (tenant, purpose, key.id), key)
            found[key.id] = key, name if kind == "subject" else ""
        return found

    def all_remembered(self, tenant: str, purpose: str, key_ids: Iterable[bytes]) -> bool:
        """Whether none of these needs the store: only purpose keys are remembered."""
        wanted = set(key_ids)
        return len(self._remembered(tenant, purpose, wanted)) == len(wanted)

    def _remembered(
        self, tenant: str, purpose: str, key_ids: Iterable[bytes]
    ) -> Mapping[bytes, tuple[DataKey, str]]:
        with self._guard:
            return {
                key_id: (known, "")
                for key_id in key_ids
                if (known := self._opened.get((tenant, purpose, key_id))) is not None
            }

    # --- subjects -----------------------------------------------------------------------------

    def subject_token(self, tenant: str, subject: str) -> str:
        """The keyed name of a subject: the same for the same text, and not to be guessed."""
        return self.subject_tokens(tenant, [subject])[0]

    def subject_tokens(self, tenant: str, subjects: Sequence[str]) -> list[str]:
        """:meth:`subject_token` of each."""
        secret = self.current(tenant, NAMES).secret
        return [
            hmac.digest(secret, subject.encode(), hashlib.sha256)[:SUBJECT_TOKEN_BYTES].hex()
            for subject in subjects
        ]

    def subject_keys(
        self, tenant: str, tokens: Iterable[str], *, purpose: str = RECORDS
    ) -> dict[str, DataKey | None]:
        """Each subject's key, made where there is none yet; ``None`` for those erased."""
        self._allowed(purpose)
        wanted = sorted(set(tokens))

        def unit(rows: Rows) -> dict[str, DataKey | None]:
            found: dict[str, DataKey | None] = {
                row[3]: self._wrapping.unwrapped(rows, tenant, row)
                for row in statements.named(rows, tenant, "subject", wanted)
            }
            # Also where there is a key: a copy of the keyring brought it, and it is to go.
            found |= dict.fromkeys(statements.erased_of(rows, tenant, wanted))
            fresh = [token for token in wanted if token not in found]
            return found | self._wrapping.made(rows, tenant, "subject", "", fresh)

        return self._repeatable(unit) if wanted else {}

    def erased(self, tenant: str, tokens: Iterable[str]) -> set[str]:
        """Which of these subjects are erased."""
        wanted = sorted(set(tokens))
        return (
            self._store.transact(lambda rows: statements.erased_of(rows, tenant, wanted))
            if wanted
            else set()
        )

    def anybody_erased(self, tenant: str) -> bool:
        """Whether any subject of the tenant is erased."""
        statement = "SELECT subject FROM keyring_erasures WHERE tenant = $1 LIMIT 1"
        return bool(self._store.transact(lambda rows: rows.all(statement, tenant)))

    # --- objects ------------------------------------------------------------------------------

    def object_key(self, tenant: str, name: str) -> DataKey:
        """The key of one stored object; made where there is none yet."""
        self._allowed(RESPONSES)

        def unit(rows: Rows) -> DataKey:
            for row in statements.named(rows, tenant, "object", [name]):
                return self._wrapping.unwrapped(rows, tenant, row)
            return self._wrapping.made(rows, tenant, "object", RESPONSES, [name])[name]

        return self._repeatable(unit)

    def destroy_objects(self, tenant: str, names: Iterable[str]) -> int:
        """Destroy the keys of these objects; how many there were. What they sealed is gone.

        Their bytes are in the store's files until its next :meth:`~KeyStore.scrub`, which costs
        what all keys cost: it is whoever calls this who knows when to.
        """
        wanted = sorted(set(names))

        def unit(rows: Rows) -> int:
            gone = statements.named(rows, tenant, "object", wanted)
            rows.many(
                "DELETE FROM keyring_keys WHERE tenant = $1 AND id = $2",
                [(tenant, row[0]) for row in gone],
            )
            return len(gone)

        return self._store.transact(unit) if wanted else 0

    # --- the operator's ------------------------------------------------------------------------

    def describe(self) -> KeyringInfo:
        """Counts and versions; no key."""

        def unit(rows: Rows) -> KeyringInfo:
            wraps = {
                row[0]: int(row[1])
                for row in rows.all(
                    "SELECT wrapped_by, count(*) FROM keyring_keys GROUP BY wrapped_by"
                )
            }
            counts = rows.all(
                "SELECT tenant, kind, purpose, count(*), max(version), min(wrapped_by_version)"
                " FROM keyring_keys GROUP BY tenant, kind, purpose ORDER BY tenant, kind, purpose"
            )
            erased = rows.all("SELECT count(*) FROM keyring_erasures")[0][0]
            held = rows.all("SELECT count(*) FROM keyring_restrictions")[0][0]
            return KeyringInfo(
                keyring=str(statements.meta(rows, "keyring")),
                masters=[
                    MasterInfo(
                        version=key.version,
                        id=key.id.hex(),
                        wraps=wraps.get(key.id.hex(), 0),
                        current=key == self._masters.current,
                    )
                    for key in self._masters.versions
                ],
                keys=[
                    KeyCounts(
                        tenant=row[0],
                        kind=row[1],
                        purpose=row[2],
                        keys=int(row[3]),
                        version=int(row[4]),
                        wrapped_by_version=int(row[5]),
                    )
                    for row in counts
                ],
                erased_subjects=int(erased),
                held_subjects=int(held),
            )

        return self._store.transact(unit)

    def check(self) -> Checked:
        """Open every wrapped key, some at a time; the ids of those that do not open."""
        checked, damaged, after = 0, list[str](), ("", "")
        while True:
            page, last = self._store.transact(partial(self._check, after=after))
            checked += len(page)
            damaged += [key_id for key_id, good in page if not good]
            if last is None:
                return Checked(keys=checked, damaged=damaged)
            after = last

    def _check(
        self, rows: Rows, after: tuple[str, str]
    ) -> tuple[list[tuple[str, bool]], tuple[str, str] | None]:
        found = rows.all(
            f"SELECT tenant, {statements.KEY} FROM keyring_keys"  # noqa: S608 - our own column names
            " WHERE (tenant, id) > ($1, $2) ORDER BY tenant, id LIMIT $3",
            *after,
            REWRAP_ROWS,
        )
        page = []
        for tenant, *row in found:
            try:
                self._wrapping.unwrapped(rows, tenant, row)
                page.append((str(row[0]), True))
            except (Corrupt, KeyDestroyed):
                page.append((str(row[0]), False))
        return page, (found[-1][0], found[-1][1]) if found else None

    def rotate_master(self) -> Rotation:
        """A new version of the master key: durable in its file, then known to the keyring.

        From then on it wraps; :meth:`rewrap` moves the tenants' keys over and retires the old one.
        If the process dies in between, the next start finds both and goes on.
        """
        key = self._masters.add_version(self._random)

        def unit(rows: Rows) -> int:
            statements.know_master(rows, key)
            return self._wrapping.pending(rows)

        pending = self._store.transact(unit)
        return Rotation(what="master", version=key.version, pending=pending)

    def rotate_tenant(self, tenant: str) -> Rotation:
        """A new wrapping key and new purpose keys for a tenant.

        What is sealed from now on is sealed under the new ones; what was, stays readable under the
        old ones, which :meth:`rewrap` wraps anew.
        """

        def unit(rows: Rows) -> tuple[int, int]:
            version = self._wrapping.new_tenant_key(rows, tenant)
            for (purpose,) in rows.all(
                "SELECT DISTINCT purpose FROM keyring_keys WHERE tenant = $1 AND kind = 'purpose'",
                tenant,
            ):
                if purpose != NAMES:  # names stay: they are compared with what is stored
                    self._new_purpose_key(rows, tenant, purpose)
            return version, self._wrapping.pending(rows)

        version, pending = self._store.transact(unit)
        with self._guard:
            for key in [key for key in self._current if key[0] == tenant]:
                del self._current[key]
        return Rotation(what="tenant", version=version, pending=pending)

    def rewrap(self, limit: int = REWRAP_ROWS) -> Rewrapped:
        """Wrap some keys anew that are not under the newest version of what wraps them.

        Each call is one transaction; kill it anywhere and call again. The last one retires the
        versions that wrap nothing any more.
        """

        def unit(rows: Rows) -> tuple[int, int, int]:
            done = self._wrapping.rewrap_tenant_keys(rows, limit)
            done += self._wrapping.rewrap_data_keys(rows, limit - done)
            pending = self._wrapping.pending(rows)
            retired = 0 if pending else statements.retire_tenant_keys(rows)
            return done, pending, retired

        done, pending, retired = self._store.transact(unit)
        if not pending:
            retired += len(self._masters.retire(self._store.transact(statements.used_wrappers)))
            self._store.transact(lambda rows: statements.forget_masters(rows, self._masters))
            # Also where nothing was retired: whoever did that may not have come as far as this.
            self._store.scrub()
        return Rewrapped(done=done, pending=pending, retired=retired)

    # --- inside of a transaction ----------------------------------------------------------------

    def _allowed(self, purpose: str) -> None:
        if purpose not in self._purposes:
            raise NotThisRole(f"cannot open a key for {purpose}: this role has no business with it")

    def _repeatable(self, unit: Callable[[Rows], T]) -> T:
        """Run what finds the next time what it has made: nobody has used a key not yet given out.

        So where its outcome is not known, nothing was done that anybody must know of.
        """
        try:
            return self._store.transact(unit)
        except OutcomeUnknown as error:
            raise Unavailable(
                "cannot use the keyring: its database was lost while it made a key",
                code="keyring-unavailable",
                retry_after_seconds=error.retry_after_seconds,
                internal=error.internal,
            ) from error

    def _purpose_key(self, rows: Rows, tenant: str, purpose: str) -> DataKey:
        found = rows.all(
            f"SELECT {statements.KEY} FROM keyring_keys WHERE tenant = $1 AND kind = 'purpose'"  # noqa: S608
            " AND purpose = $2 ORDER BY version DESC LIMIT 1",
            tenant,
            purpose,
        )
        if found:
            return self._wrapping.unwrapped(rows, tenant, found[0])
        return self._new_purpose_key(rows, tenant, purpose)

    def _new_purpose_key(self, rows: Rows, tenant: str, purpose: str) -> DataKey:
        newest = rows.all(
            "SELECT max(version) FROM keyring_keys WHERE tenant = $1 AND kind = 'purpose'"
            " AND purpose = $2",
            tenant,
            purpose,
        )[0][0]
        version = int(newest or 0) + 1
        made = self._wrapping.made(rows, tenant, "purpose", purpose, [""], version=version)
        return made[""]


def open_keyring(
    store: KeyStore,
    masters: Callable[[bool], MasterKeys],
    clock: Clock,
    *,
    new_id: str,
    expected: str | None,
    purposes: Iterable[str] = PURPOSES,
    random: Random = os.urandom,
) -> Keyring:
    """The keyring in ``store`` under the master key that ``masters`` gives.

    ``masters(may_create)`` may make a master key only if it is told so: nothing is wrapped yet and
    no data names a keyring (``expected``, the id that the data carries). Raises
    :class:`MasterKeyMissing`, :class:`MasterKeyForeign` or :class:`KeyringMissing` instead of ever
    starting anew beside what is sealed.
    """
    there = store.transact(lambda rows: statements.meta(rows, "keyring"))
    if there is None and expected is not None:
        raise KeyringMissing(
            "cannot start: the data was sealed under a keyring that is not here",
            hint="put its file back, or restore it: holdfast backup restore",
        )
    if there is not None and expected not in (None, there):
        raise KeyringMissing(
            "cannot start: this keyring is not the one that the data was sealed under",
            hint="HOLDFAST_KEYRING_URL names it; put back the one that belongs to the data",
        )
    keys = masters(there is None)

    def unit(rows: Rows) -> None:
        if statements.meta(rows, "keyring") is None:
            rows.all("INSERT INTO keyring_meta (name, value) VALUES ('keyring', $1)", new_id)
            statements.know_master(rows, keys.current)
            return
        known = dict(rows.all("SELECT id, check_value FROM keyring_masters"))
        for key in keys.versions:
            value = known.get(key.id.hex())
            if value is not None and not hmac.compare_digest(value, key.check_value):
                raise Internal("cannot use the master key: two keys have one id")
        lacking = set(known) - {key.id.hex() for key in keys.versions}
        if lacking == set(known):
            raise MasterKeyForeign(
                "cannot start: the master key does not belong to this keyring",
                hint=KEEP_HINT,
            )
        if lacking & statements.used_wrappers(rows):
            raise MasterKeyMissing(
                "cannot start: a version of the master key that still wraps keys is missing",
                hint=KEEP_HINT,
            )

    store.transact(unit)
    return Keyring(store, keys, clock, purposes=purposes, random=random)


def destroyed() -> KeyDestroyed:
    return KeyDestroyed("cannot open what is sealed: its key was destroyed")
