"""Computations in child processes, by the kernel's means.

The kernel hands plain JSON to a child and back; a report's jobs and answers are bytes, so they
travel as base64. A child holds its job and nothing else of this process.
"""

from __future__ import annotations

import base64
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.reports.query import QueryJob

TARGETS = (
    "holdfast.reports.chart:render",
    "holdfast.reports.compute:compute",
    "holdfast.reports.export:export",
)
"""All that a child of the reporter can be asked to do."""


ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "TZ": "UTC"}
"""One thread of linear algebra is enough for sums; each more would claim memory up front."""


class ReportChildren:
    """See :class:`holdfast.reports.ports.Children`."""

    async def call(
        self, target: str, job: bytes, *, deadline_seconds: float, memory_mb: int
    ) -> bytes:
        """Run ``target`` on ``job`` in a child that dies with this process."""
        from holdfast.kernel.children import ChildLimits, harmless_environment, run_child

        answered: str = await run_child(
            "holdfast.reports.children:in_child",
            {"target": target, "job": base64.b64encode(job).decode()},
            timeout_seconds=deadline_seconds,
            env=harmless_environment() | ENVIRONMENT,
            limits=ChildLimits(
                # Not the address space: the renderer's engine reserves gigabytes it never uses.
                data_bytes=memory_mb * 2**20,
                # Two threads at most, so twice the time; the deadline itself is the parent's.
                cpu_seconds=int(2 * deadline_seconds) + 1,
            ),
            answer_bytes_max=512 * 2**20,
        )
        return base64.b64decode(answered)


class QuerySandboxes:
    """See :class:`holdfast.reports.ports.QueryChildren`."""

    async def query(self, job: QueryJob, *, deadline_seconds: float, answer_bytes_max: int) -> Any:
        """Answer one query in a child of its own."""
        from holdfast.kernel.children import ChildLimits, harmless_environment, run_child

        return await run_child(
            "holdfast.reports.sandbox:answer",
            job,
            timeout_seconds=deadline_seconds,
            env=harmless_environment() | ENVIRONMENT,
            limits=ChildLimits(
                # The engine's own limit does not hold for all that it allocates; this one does.
                data_bytes=job.memory_mb * 2**20,
                cpu_seconds=int(2 * deadline_seconds) + 1,
                file_bytes=2 * answer_bytes_max,
            ),
            answer_bytes_max=answer_bytes_max,
            descriptors=[each.descriptor for each in job.tables if each.descriptor >= 0],
        )


def in_child(payload: dict[str, Any]) -> str:
    """What runs in the child: the named function on the decoded job."""
    target = payload["target"]
    assert target in TARGETS, "the reporter names its own functions only"
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    return base64.b64encode(function(base64.b64decode(payload["job"]))).decode()
