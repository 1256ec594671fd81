"""Who ends an erasure, of roles that share a keyring: the one that keeps copies beside the keys.

It notes in the keyring which database those copies are of: only a process on that one ends an
erasure. One that has never been started with it, or is of a release that noted otherwise, is known
by what it has sealed: raw responses. Whoever ends an erasure where neither is so ends it in good
faith; should somebody with copies come after that, every erasure is taken up once more, by them.
"""

from __future__ import annotations

from holdfast.keyring.ports import Rows

NOTE = "copies of"
"""The name of the note among what the keyring tells of itself.

Earlier releases wrote another (``copies``), which does not say whose they are, and which any
command on a ledger's directory could leave: it tells nothing.
"""


def note_copies(rows: Rows, database: str) -> tuple[int, str]:
    """Note that a role keeps copies beside the keys, in ``database``: no other ends an erasure.

    The first time, what others have ended is not done any more. How many of those there are, and
    which database was noted before, if it was another.
    """
    before = _noted(rows)
    if before == database:
        return 0, ""
    rows.all("DELETE FROM keyring_meta WHERE name = $1", NOTE)
    rows.all("INSERT INTO keyring_meta (name, value) VALUES ($1, $2)", NOTE, database)
    return reopen(rows), before


def others_copies(rows: Rows, tenant: str, database: str | None) -> bool:
    """Whether somebody else keeps copies of the tenant's data beside the keys, as far as is known.

    ``database`` is whose copies the one who asks can remove: empty if nobody noted that yet, None
    if it has none.
    """
    if noted := _noted(rows):
        return noted != database
    return database is None and bool(
        rows.all(
            "SELECT id FROM keyring_keys WHERE tenant = $1 AND kind = 'object' LIMIT 1", tenant
        )
    )


def reopen(rows: Rows) -> int:
    """Mark every erasure as not done; how many were."""
    count = rows.all("SELECT count(*) FROM keyring_erasures WHERE state = 'done'")
    rows.all("UPDATE keyring_erasures SET state = 'erasing', done_at = '' WHERE state = 'done'")
    return int(count[0][0])


def _noted(rows: Rows) -> str:
    """The database that is noted; empty if none is."""
    found = rows.all("SELECT value FROM keyring_meta WHERE name = $1", NOTE)
    return str(found[0][0]) if found else ""
