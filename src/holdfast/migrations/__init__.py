"""The schema's history. ``runner.migrate`` applies it, ``generate`` writes the next part."""

from __future__ import annotations

import importlib
import importlib.util

STORES = (
    "holdfast.kernel.idempotency",
    "holdfast.kernel.outbox",
    "holdfast.kernel.objects.orphans",
    "holdfast.leases.store",
    "holdfast.ledger.store",
    "holdfast.ledger.folded",
    "holdfast.identity.access.store",
    "holdfast.identity.people.store",
    "holdfast.identity.signin.store",
    "holdfast.identity.signin.passkey_store",
    "holdfast.identity.signin.oauth_store",
    "holdfast.identity.store",
    "holdfast.registry.store",
    "holdfast.fleet.store",
    "holdfast.fleet.worker_store",
    "holdfast.fleet.schedule_store",
    "holdfast.fleet.host_store",
    "holdfast.records.store",
    "holdfast.reports.store",
    "holdfast.app.store",
)
"""Every module that declares tables."""


def load_tables() -> None:
    """Import what declares tables, so that the shared metadata is whole."""
    for module in STORES:
        parent = module.rpartition(".")[0]
        if importlib.util.find_spec(parent) and importlib.util.find_spec(module):
            importlib.import_module(module)
