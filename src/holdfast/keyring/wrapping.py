"""What wraps what: keys made, wrapped, opened and wrapped anew, inside of a transaction.

``master → tenant → purpose, subject and object keys``. A wrapped key is an envelope whose context
is the tenant, the purpose, the subject, the id of the wrapped key and the version of the wrapping
one, so a row that is moved, renamed or taken from another tenant does not open.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from holdfast.kernel.clock import Clock, timestamp
from holdfast.kernel.errors import Corrupt
from holdfast.keyring import statements
from holdfast.keyring.envelope import (
    KEY_BYTES,
    KEY_ID_BYTES,
    Context,
    length_prefixed,
    seal,
    unseal,
)
from holdfast.keyring.errors import MasterKeyMissing
from holdfast.keyring.master import MasterKey, MasterKeys
from holdfast.keyring.model import DataKey, Kind
from holdfast.keyring.ports import Rows

CACHED_KEYS_MAX = 4096
KEEP_HINT = "put it back: holdfast key import FILE, with the file that `holdfast key export` made"

Random = Callable[[int], bytes]


class Wrapping:
    """The keys below the master, of every tenant. Opened tenants' keys are kept, some of them."""

    def __init__(self, masters: MasterKeys, clock: Clock, random: Random) -> None:
        self._masters = masters
        self._clock = clock
        self._random = random
        self._guard = threading.Lock()
        self._wrappers: OrderedDict[tuple[str, bytes], DataKey] = OrderedDict()

    def forget(self) -> None:
        """Keep no opened key any more."""
        with self._guard:
            self._wrappers.clear()

    # --- making and opening ----------------------------------------------------------------------

    def made(
        self,
        rows: Rows,
        tenant: str,
        kind: Kind,
        purpose: str,
        names: list[str],
        *,
        version: int = 1,
    ) -> dict[str, DataKey]:
        """Fresh keys for these names, wrapped and inserted."""
        if not names:
            return {}
        wrapper, wrapper_version = self.tenant_key(rows, tenant)
        made = {
            name: DataKey(self._random(KEY_ID_BYTES), self._random(KEY_BYTES)) for name in names
        }
        now = timestamp(self._clock.now())
        values = [
            (
                tenant,
                key.id.hex(),
                kind,
                purpose,
                name,
                version,
                wrapper.id.hex(),
                wrapper_version,
                self._wrapped(wrapper, wrapper_version, tenant, kind, purpose, name, key),
                now,
            )
            for name, key in made.items()
        ]
        rows.many(statements.INSERT, values)
        return made

    def tenant_key(self, rows: Rows, tenant: str) -> tuple[DataKey, int]:
        """The tenant's newest wrapping key, made when there is none yet."""
        found = statements.newest_tenant_key(rows, tenant)
        if not found:
            self.new_tenant_key(rows, tenant)
            found = statements.newest_tenant_key(rows, tenant)
        return self.unwrapped(rows, tenant, found[0]), int(found[0][4])

    def _master(self, rows: Rows) -> MasterKey:
        """The version of the master key that wraps now, and is known to the keyring.

        Another process may have added it: what we wrapped under the one before would be lost when
        that is retired. ``MasterKeyMissing`` where we were not handed it.
        """
        newest = rows.all("SELECT id, version FROM keyring_masters ORDER BY version DESC LIMIT 1")
        newer = newest and int(newest[0][1]) > self._masters.current.version
        if newer and self._masters.find(bytes.fromhex(newest[0][0])) is None:
            raise MasterKeyMissing(
                "cannot wrap a key: there is a newer version of the master key, and it is not here",
                hint="hand this process the version that others were started with, and start it "
                "again",
            )
        statements.know_master(rows, self._masters.current)
        return self._masters.current

    def new_tenant_key(self, rows: Rows, tenant: str) -> int:
        """A further wrapping key of the tenant, under the master key; its version."""
        found = statements.newest_tenant_key(rows, tenant)
        version = int(found[0][4]) + 1 if found else 1
        master = self._master(rows)
        key = DataKey(self._random(KEY_ID_BYTES), self._random(KEY_BYTES))
        wrapper = DataKey(master.id, master.secret)
        rows.many(
            statements.INSERT,
            [
                (
                    tenant,
                    key.id.hex(),
                    "tenant",
                    "",
                    "",
                    version,
                    master.id.hex(),
                    master.version,
                    self._wrapped(wrapper, master.version, tenant, "tenant", "", "", key),
                    timestamp(self._clock.now()),
                )
            ],
        )
        return version

    def _wrapped(
        self,
        wrapper: DataKey,
        wrapper_version: int,
        tenant: str,
        kind: str,
        purpose: str,
        subject: str,
        key: DataKey,
    ) -> bytes:
        context = _wrapping(tenant, kind, purpose, subject, key.id.hex(), wrapper_version)
        return seal(wrapper.secret, wrapper.id, context, key.secret, random=self._random)

    def unwrapped(self, rows: Rows, tenant: str, row: Sequence[Any]) -> DataKey:
        """The key of a row (:data:`statements.KEY`); ``Corrupt`` if it is not this row's."""
        key_id, kind, purpose, subject, _, wrapped_by, wrapped_by_version, wrapped = row
        try:
            wrapper_id, version = bytes.fromhex(wrapped_by), int(wrapped_by_version)
            sealed = bytes(wrapped)
        except (TypeError, ValueError) as error:
            raise Corrupt(
                "cannot open a key: its row is damaged", code="keyring-damaged"
            ) from error
        wrapper = self._wrapper(rows, tenant, kind, wrapper_id)
        context = _wrapping(tenant, kind, purpose, subject, key_id, version)
        secret = unseal(wrapper.secret, context, sealed)
        return DataKey(bytes.fromhex(key_id), secret)

    def _wrapper(self, rows: Rows, tenant: str, kind: str, wrapper_id: bytes) -> DataKey:
        if kind == "tenant":
            master = self._masters.find(wrapper_id)
            if master is not None:
                return DataKey(master.id, master.secret)
            if not rows.all("SELECT id FROM keyring_masters WHERE id = $1", wrapper_id.hex()):
                raise _wrapper_missing()
            raise MasterKeyMissing(
                "cannot open a key: the version of the master key that wraps it is not here",
                hint=KEEP_HINT,
            )
        key = (tenant, wrapper_id)
        with self._guard:
            known = self._wrappers.get(key)
        if known is not None:
            return known
        found = statements.by_ids(rows, tenant, [wrapper_id.hex()])
        if not found or found[0][1] != "tenant":
            raise _wrapper_missing()
        opened = self.unwrapped(rows, tenant, found[0])
        with self._guard:
            keep(self._wrappers, key, opened)
        return opened

    # --- wrapping anew ---------------------------------------------------------------------------

    def rewrap_tenant_keys(self, rows: Rows, limit: int) -> int:
        """Wrap some tenants' keys under the current master key; how many."""
        master = self._master(rows)
        found = rows.all(
            f"SELECT tenant, {statements.KEY} FROM keyring_keys"  # noqa: S608
            " WHERE kind = 'tenant' AND wrapped_by <> $1 ORDER BY tenant, id LIMIT $2",
            master.id.hex(),
            limit,
        )
        wrapper = DataKey(master.id, master.secret)
        self._rewrap_rows(rows, found, lambda _tenant: (wrapper, master.version))
        return len(found)

    def rewrap_data_keys(self, rows: Rows, limit: int) -> int:
        """Wrap some keys under their tenant's newest wrapping key; how many."""
        found = rows.all(
            f"SELECT k.tenant, {statements.K_KEY} FROM keyring_keys k JOIN ({statements.NEWEST}) n"  # noqa: S608
            " ON n.tenant = k.tenant WHERE k.kind <> 'tenant' AND k.wrapped_by_version < n.version"
            " ORDER BY k.tenant, k.id LIMIT $1",
            max(limit, 0),
        )
        self._rewrap_rows(rows, found, lambda tenant: self.tenant_key(rows, tenant))
        return len(found)

    def _rewrap_rows(
        self,
        rows: Rows,
        found: list[tuple[Any, ...]],
        wrapper_of: Callable[[str], tuple[DataKey, int]],
    ) -> None:
        wrappers: dict[str, tuple[DataKey, int]] = {}
        values = []
        for tenant, *row in found:
            if tenant not in wrappers:
                wrappers[tenant] = wrapper_of(tenant)
            wrapper, version = wrappers[tenant]
            key = self.unwrapped(rows, tenant, row)
            wrapped = self._wrapped(wrapper, version, tenant, row[1], row[2], row[3], key)
            values.append((wrapper.id.hex(), version, wrapped, tenant, row[0]))
        rows.many(
            "UPDATE keyring_keys SET wrapped_by = $1, wrapped_by_version = $2, wrapped = $3"
            " WHERE tenant = $4 AND id = $5",
            values,
        )

    def pending(self, rows: Rows) -> int:
        """How many keys are not under the newest version of what wraps them."""
        tenants = rows.all(
            "SELECT count(*) FROM keyring_keys WHERE kind = 'tenant' AND wrapped_by <> $1",
            self._masters.current.id.hex(),
        )[0][0]
        others = rows.all(
            f"SELECT count(*) FROM keyring_keys k JOIN ({statements.NEWEST}) n"  # noqa: S608
            " ON n.tenant = k.tenant WHERE k.kind <> 'tenant' AND k.wrapped_by_version < n.version"
        )[0][0]
        return int(tenants) + int(others)


def _wrapper_missing() -> Corrupt:
    return Corrupt("cannot open a key: what wraps it is missing", code="keyring-damaged")


def _wrapping(
    tenant: str, kind: str, purpose: str, subject: str, key_id: str, version: int
) -> Context:
    """What a wrapped key is bound to: tenant, purpose, subject, its id, the wrapping version."""
    bound = length_prefixed(kind.encode(), subject.encode(), key_id.encode())
    return Context(tenant, f"wrapped-key/{purpose}", bound.hex(), str(version))


def keep(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > CACHED_KEYS_MAX:
        cache.popitem(last=False)
