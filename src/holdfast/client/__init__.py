"""The system from Python: records and Arrow tables over HTTP, in scripts and notebooks.

    from holdfast.client import Client

    with Client("http://127.0.0.1:8090", token=TOKEN) as holdfast:
        for record in holdfast.records("rain", dimensions={"station": "KSEA"}):
            print(record.period.start, record.measures["rain"].value)
        frame = holdfast.table("rain", as_of="2026-06-01T00:00:00Z").to_pandas()

:class:`Client` is synchronous and may be used where an event loop runs already (a notebook).
Whoever is asynchronous holds an :class:`ApiClient` and the slices' own clients, which have the same
methods as the services they speak to. Needs the base install only; :meth:`Client.table` and
:meth:`Client.batches` also need ``pyarrow`` (``holdfast[reports]``).

Failures are the kernel's errors: ``NotFound``, ``Invalid``, ``Denied``, ``Unavailable``…, each with
``code``, ``detail`` and, often, ``hint``.
"""

from __future__ import annotations

from holdfast.client.producing import Answer, Producer
from holdfast.client.sync import Client
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.http.client import ApiClient
from holdfast.ledger.model import Appended, Entry, NewEvent, Placed
from holdfast.records.client import RecordsClient
from holdfast.records.model import Measure, Notice, PeriodValue, Record, RecordChange, Run
from holdfast.registry.client import RegistryClient
from holdfast.reports.query import QueryResult

__all__ = [
    "Answer",
    "ApiClient",
    "Appended",
    "Client",
    "Entry",
    "HoldfastError",
    "Measure",
    "NewEvent",
    "Notice",
    "PeriodValue",
    "Placed",
    "Producer",
    "QueryResult",
    "Record",
    "RecordChange",
    "RecordsClient",
    "RegistryClient",
    "Run",
]
