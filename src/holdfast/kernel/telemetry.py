"""What the program says about itself: log lines, the ids that tie them together, and metrics.

Logs are structlog events, one JSON object (or one readable line) each, on standard error. The
request id and the W3C trace context of the request being served travel in context variables, so
that every log line and every outgoing call carries them without being handed them.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST

_request_id: ContextVar[str] = ContextVar("holdfast_request_id", default="")
_traceparent: ContextVar[str] = ContextVar("holdfast_traceparent", default="")

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def request_id() -> str:
    """The id of the request being served here, or an empty string outside of one."""
    return _request_id.get()


def traceparent() -> str:
    """The caller's W3C trace context, to be passed on unchanged; empty if it sent none."""
    return _traceparent.get()


class request_context:  # noqa: N801 — used like the functions of contextlib
    """Serve a request: what is logged and called inside carries its ids."""

    __slots__ = ("_identifier", "_tokens", "_trace")

    def __init__(self, identifier: str, trace: str = "") -> None:
        self._identifier = identifier
        self._trace = trace

    def __enter__(self) -> None:
        self._tokens = _request_id.set(self._identifier), _traceparent.set(self._trace)

    def __exit__(self, *exc: object) -> None:
        _request_id.reset(self._tokens[0])
        _traceparent.reset(self._tokens[1])


def sane_request_id(text: str) -> bool:
    """Whether a caller's ``X-Request-ID`` may enter logs and events: 1-128 harmless characters.

    What an event cannot hold would fail every write of whoever sends it; and an ``@`` would let an
    address of somebody into the log for ever.
    """
    return _REQUEST_ID.fullmatch(text) is not None


def sane_traceparent(text: str) -> bool:
    """Whether ``text`` is a W3C ``traceparent`` of any version but the invalid ones."""
    return _TRACEPARENT.fullmatch(text) is not None


# --- logs ---------------------------------------------------------------------------------------

LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
REDACTED = "[redacted]"
_SECRET = re.compile(
    r"(?i)(^|[_\-.])(tokens?|secrets?|passwords?|passphrase|authorization|credentials?|cookies?"
    r"|api[_-]?keys?|private[_-]?keys?|peppers?|grants?|jw[st]|csrf)($|[_\-.])"
)
_CREDENTIAL = re.compile(
    r"(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}"
    r"|\bhf[a-z]*_[A-Za-z0-9_-]{24,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
)
"""Bearer credentials, our own tokens and JOSE tokens inside text."""


class _CurrentStandardError:
    """Whatever standard error is when a line is written."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def get_logger(name: str) -> Any:
    """A structlog logger that names its origin; cheap, and safe to make at import."""
    return structlog.get_logger(origin=name)


def configure_logging(level: str, log_format: str = "json", stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's records to ``stream`` (standard error).

    ``log_format`` is ``json`` or ``console``. Repeatable. Raises ``ValueError`` for a level or a
    format that does not exist.
    """
    if log_format not in ("json", "console"):
        raise ValueError(f"cannot log as {log_format!r}: the formats are json and console")
    output: Any = stream if stream is not None else _CurrentStandardError()
    renderer: Any = _render_json if log_format == "json" else _console(output)
    _configure_structlog(output, renderer)
    _sink.render, _sink.output = renderer, output
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_shared(), _name_origin],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.getLogger().handlers[:] = [handler]
    for noisy in ("uvicorn.access", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    set_level(level)


def _shared() -> list[Any]:
    """What happens to every line. Tracebacks are text before they are redacted."""
    return [
        _add_ids,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.dev.set_exc_info,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]


def _configure_structlog(output: Any, renderer: Any) -> None:
    structlog.configure(
        processors=[_drop_quiet, *_shared(), renderer],
        wrapper_class=structlog.BoundLogger,
        logger_factory=structlog.WriteLoggerFactory(file=output),
        cache_logger_on_first_use=False,
    )


@dataclass(slots=True)
class _Sink:
    """Where lines go now."""

    render: Any
    output: Any
    level: int = logging.INFO


_sink = _Sink(render=None, output=None)


def set_level(level: str) -> None:
    """Change the level while running; ``ValueError`` for one that does not exist."""
    if level.lower() not in LEVELS:
        raise ValueError(f"cannot log at {level!r}: the levels are {', '.join(LEVELS)}")
    _sink.level = LEVELS[level.lower()]
    logging.getLogger().setLevel(_sink.level)


def redact(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what is named like a secret, and bearer credentials inside text, at any depth."""
    for key, value in event.items():
        event[key] = _redacted(key, value)
    return event


def _redacted(key: str, value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value  # a count of tokens is no token
    if key and _SECRET.search(key):
        return REDACTED
    if isinstance(value, str):
        return _CREDENTIAL.sub(REDACTED, value) if len(value) > 12 else value
    if isinstance(value, Mapping):
        return {str(k): _redacted(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted("", item) for item in value]
    return value


_SEVERITY = {**LEVELS, "warn": logging.WARNING, "exception": logging.ERROR, "critical": 50}


def _drop_quiet(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if _SEVERITY.get(method, logging.INFO) < _sink.level:
        raise structlog.DropEvent
    return event


def _add_ids(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    identifier = _request_id.get()
    if identifier:
        event.setdefault("request_id", identifier)
        trace = _traceparent.get()
        if trace:
            event.setdefault("trace_id", trace[3:35])
    return event


def _name_origin(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    record = event.get("_record")
    if record is not None:
        event.setdefault("origin", record.name)
    return event


_json = msgspec.json.Encoder(enc_hook=repr, order=None)


def _render_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    try:
        return _json.encode(dict(event)).decode()
    except (TypeError, ValueError, UnicodeEncodeError):
        # A log line is never lost to what was put into it (lone surrogates, odd keys).
        plain = {str(k): repr(v) for k, v in event.items()}
        return _json.encode(plain).decode()


def _console(output: Any) -> Any:
    colours = bool(getattr(output, "isatty", lambda: False)())
    return structlog.dev.ConsoleRenderer(
        colors=colours, timestamp_key="time", sort_keys=False, pad_event_to=0
    )


def write_line(level: str, event: str, origin: str, fields: dict[str, Any]) -> None:
    """One log line for a hot path: a tenth of the cost of a logger, and the same to read.

    Values are not searched for secrets by their names; text of the caller's is by its form.
    """
    if LEVELS[level] < _sink.level:
        return
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    line = {"event": event, "level": level, "origin": origin, "time": f"{now[:-6]}Z", **fields}
    _add_ids(None, level, line)
    _sink.output.write(_sink.render(None, level, line) + "\n")
    _sink.output.flush()


def scrubbed(text: str) -> str:
    """``text`` without what looks like a credential."""
    return _CREDENTIAL.sub(REDACTED, text)


# Until the program says otherwise: readable, on standard error, never on standard output.
_sink.output = _CurrentStandardError()
_sink.render = _console(_sink.output)
_configure_structlog(_sink.output, _sink.render)


# --- metrics ------------------------------------------------------------------------------------

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one program: get-or-create by name, rendered for Prometheus.

    Label values must come from a bounded set (routes, states, kinds), never from a request.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._known: dict[str, Any] = {}

    def counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        found: Counter = self._get(Counter, name, meaning, labels)
        return found

    def gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        found: Gauge = self._get(Gauge, name, meaning, labels)
        return found

    def histogram(
        self,
        name: str,
        meaning: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = LATENCY_BUCKETS,
    ) -> Histogram:
        found: Histogram = self._get(Histogram, name, meaning, labels, buckets=buckets)
        return found

    def render(self) -> bytes:
        """The text exposition of everything counted so far."""
        return generate_latest(self.registry)

    def _get(self, kind: Any, name: str, meaning: str, labels: Sequence[str], **extra: Any) -> Any:
        if name not in self._known:
            self._known[name] = kind(name, meaning, tuple(labels), registry=self.registry, **extra)
        found = self._known[name]
        if not isinstance(found, kind):
            raise TypeError(f"cannot register the metric {name}: it is a {type(found).__name__}")
        return found
