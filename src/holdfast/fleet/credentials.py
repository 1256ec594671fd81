"""What workers hold: a credential ``hfw_…``, and before it a join token ``hfj_…``."""

from __future__ import annotations

WORKER_PREFIX = "hfw"
JOIN_PREFIX = "hfj"
PEPPER = "worker-pepper"
"""The pepper's files; see :class:`holdfast.kernel.credentials.Peppers`."""
