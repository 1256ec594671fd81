"""Child processes for the reporter, by the kernel's means.

A job and its answer are bytes; the kernel's children speak JSON, so both travel as base64.
"""

from __future__ import annotations

import importlib
from base64 import b64decode, b64encode
from typing import Any

from holdfast.kernel.children import ChildLimits, run_child

ANSWER_BYTES_MAX = 512 * 1024 * 1024


class ReportChildren:
    """See :class:`holdfast.reports.ports.Children`."""

    async def call(
        self, target: str, job: bytes, *, deadline_seconds: float, memory_mb: int
    ) -> bytes:
        """Run ``target`` on ``job`` in a child that dies with this process."""
        answered = await run_child(
            f"{__name__}:answer",
            {"target": target, "job": b64encode(job).decode()},
            timeout_seconds=deadline_seconds,
            limits=ChildLimits(data_bytes=memory_mb * 2**20),
            answer_bytes_max=ANSWER_BYTES_MAX,
        )
        return b64decode(answered)


def answer(payload: dict[str, Any]) -> str:
    """In the child: import the target and call it."""
    module, _, name = payload["target"].partition(":")
    function = getattr(importlib.import_module(module), name)
    return b64encode(function(b64decode(payload["job"]))).decode()
