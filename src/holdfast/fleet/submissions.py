"""What a submission is before it is stored: checked, with its queue, its fingerprint, its event.

Pure: ids, the time and the event's frame are given.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from holdfast.fleet import rules, tasks
from holdfast.fleet.model import (
    COLLECT,
    OF_PROFILE,
    CollectPayload,
    CollectRequest,
    Task,
    TaskStatus,
    TaskSubmit,
)
from holdfast.kernel.canonical import canonical, digest
from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.errors import Invalid, TooLarge
from holdfast.kernel.outbox import Event
from holdfast.registry.versions import RunnableProfile

PAYLOAD_BYTES_MAX = 64 * 1024


def checked(
    submit: TaskSubmit,
    *,
    task: str,
    now: str,
    lease_seconds: int,
    event: Callable[[str, str, dict[str, Any]], Event],
) -> tasks.Submission:
    """The task under the id ``task``, on its way in; ``event`` takes stream, type and payload.

    :class:`Invalid` or :class:`TooLarge` if it is refused.
    """
    payload, run, exclusive = _checked_payload(submit)
    capabilities = sorted(set(submit.capabilities))
    made = Task(
        id=task,
        kind=submit.kind,
        payload=payload,
        status=TaskStatus.QUEUED,
        capabilities=capabilities,
        priority=submit.priority,
        residency=submit.residency,
        fence=0,
        attempts=0,
        attempts_max=submit.attempts_max,
        worker=None,
        created_at=now,
        available_at=max(now, _time("not_before", submit.not_before) or now),
        deadline=_time("deadline", submit.deadline),
        lease_seconds=submit.lease_seconds or lease_seconds,
        lease_expires_at=None,
        finished_at=None,
        result=None,
        exclusive=exclusive,
    )
    # The payload is canonical by now, so sorted members give one text for one submission.
    told = msgspec.structs.replace(submit, id=None, payload=payload)
    fingerprint = digest(msgspec.json.encode(told, order="sorted"))
    return tasks.Submission(
        task=made,
        queue=rules.queue_name(submit.kind, capabilities, submit.residency),
        run=run,
        fingerprint=fingerprint,
        given=submit.id is not None,
        event=event(f"task/{task}", "task.submitted", _said_of(made, run, fingerprint)),
    )


def _checked_payload(submit: TaskSubmit) -> tuple[dict[str, Any], str, str]:
    """The payload as it is kept, the run it is for, and the exclusive name."""
    kept = canonical(submit.payload)
    if len(kept) > PAYLOAD_BYTES_MAX:
        raise TooLarge(
            f"cannot submit: the payload has {len(kept)} bytes, "
            f"at most {PAYLOAD_BYTES_MAX} are taken"
        )
    if submit.kind != COLLECT:
        return msgspec.json.decode(kept), "", submit.exclusive
    try:
        collect = msgspec.convert(submit.payload, CollectPayload)
    except msgspec.ValidationError as error:
        raise Invalid(f"cannot submit a collect task: {error}") from error
    exclusive = f"{OF_PROFILE}{collect.profile}"
    if submit.exclusive not in ("", exclusive):
        raise Invalid(f"cannot submit a collect task: its exclusive name is {exclusive}")
    # Whoever submits it, one worker at a time collects a profile.
    return msgspec.json.decode(kept), collect.run, exclusive


def _said_of(task: Task, run: str, fingerprint: str) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "task": task.id,
        "kind": task.kind,
        "submission": fingerprint,
        "priority": task.priority,
        "capabilities": task.capabilities,
        "residency": task.residency,
        "exclusive": task.exclusive,
    }
    if run:
        payload["run"] = run
    return payload


def of_collect(
    profile: RunnableProfile, *, run: str, task: str, trigger: str, priority: int, **more: Any
) -> TaskSubmit:
    """The submission of one run of ``profile`` under these ids."""
    limits = msgspec.to_builtins(profile.limits_override) if profile.limits_override else {}
    payload = {
        "run": run,
        "profile": profile.name,
        "digest": profile.digest,
        "trigger": trigger,
        "limits": limits,
        **more,
    }
    return TaskSubmit(
        id=task, kind=COLLECT, payload=payload, capabilities=[COLLECT], priority=priority
    )


def check_range(request: CollectRequest) -> None:
    """``Invalid`` for a range without one of its ends, an empty one, or one for a re-mapping."""
    start, end = request.range_start, request.range_end
    if not start and not end:
        return
    if not start or not end or _moment(end) <= _moment(start):
        raise Invalid(
            "cannot backfill: a range begins and ends, and ends after it begins",
            hint="--from 2020-01-01 --to 2021-01-01",
        )
    if request.remap:
        raise Invalid("cannot re-map a range: a re-mapping is of all that is stored")


def _moment(text: str) -> datetime:
    """A day or a UTC time that the calendar has."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid(f"cannot backfill: {text[:40]} is no day and no time") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _time(name: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return timestamp(parse_timestamp(text))
    except ValueError as error:
        raise Invalid(f"cannot submit: {name} is not a time with a zone: {text[:40]!r}") from error
