"""Who ends an erasure, of roles that share a keyring: the one that keeps copies beside the keys.

It notes in the keyring that it is there. One that has never been started with it, or is of a
release that noted nothing, is known by what it has sealed: raw responses. Whoever ends an erasure
where neither is so ends it in good faith; should somebody with copies come after that, every
erasure is taken up once more, by them.
"""

from __future__ import annotations

from holdfast.keyring.ports import Rows

NOTE = "copies"
"""The name of the note among what the keyring tells of itself."""


def note_copies(rows: Rows) -> int:
    """Note that a role of this keyring keeps copies beside the keys: no other ends an erasure.

    The first time, what others have ended is not done any more; how many of those there are.
    """
    if _noted(rows):
        return 0
    rows.all("INSERT INTO keyring_meta (name, value) VALUES ($1, 'kept')", NOTE)
    return reopen(rows)


def copies_kept(rows: Rows, tenant: str) -> bool:
    """Whether some role keeps copies of the tenant's data beside the keys, as far as is known."""
    return _noted(rows) or bool(
        rows.all(
            "SELECT id FROM keyring_keys WHERE tenant = $1 AND kind = 'object' LIMIT 1", tenant
        )
    )


def reopen(rows: Rows) -> int:
    """Mark every erasure as not done; how many were."""
    count = rows.all("SELECT count(*) FROM keyring_erasures WHERE state = 'done'")
    rows.all("UPDATE keyring_erasures SET state = 'erasing', done_at = '' WHERE state = 'done'")
    return int(count[0][0])


def _noted(rows: Rows) -> bool:
    return bool(rows.all("SELECT value FROM keyring_meta WHERE name = $1", NOTE))
