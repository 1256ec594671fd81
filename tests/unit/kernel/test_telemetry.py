"""Log lines and metrics: whole, tied to their request, and without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.kernel.telemetry import (
    REDACTED,
    Metrics,
    configure_logging,
    get_logger,
    request_context,
    set_level,
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    configure_logging("info", "json")
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_origin_and_request() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with request_context("r-1", trace):
        get_logger("things").info("thing made", name="a\nb", count=3)
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "event": "thing made", "level": "info", "origin": "things", "name": "a\nb", "count": 3,
        "request_id": "r-1", "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }  # fmt: skip


def test_the_standard_library_s_records_are_lines_of_the_same_form() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    with request_context("r-2"):
        logging.getLogger("some.library").warning("careful with %s", "that")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["origin"], line["request_id"]) == (
        "careful with that", "warning", "some.library", "r-2",
    )  # fmt: skip


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_secrets_do_not_reach_the_log(log_format: str) -> None:
    stream = io.StringIO()
    configure_logging("info", log_format, stream)
    get_logger("x").info(
        "called",
        token="hidden-1",
        api_key="hidden-2",
        headers={"Authorization": "Bearer hidden-3", "Cookie": "hidden-4", "accept": "shown-1"},
        inner=[{"db_password": "hidden-5"}],
        said="it sent Authorization: Bearer hidden-6-and-more to us",
        credential="hidden-7",
        tokens_used=12,
        note="the token hfo_0123456789abcdef0123456789abcdef_hidden and eyJhidden12345.hidden.x",
        secretary="shown-2",
    )
    text = stream.getvalue()
    assert "hidden" not in text
    assert "shown-1" in text
    assert "12" in text
    assert "shown-2" in text
    assert text.count(REDACTED) == 9


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_failure_is_logged_with_its_whole_chain_and_no_local_variables(log_format: str) -> None:
    stream = io.StringIO()
    configure_logging("info", log_format, stream)
    password = "local-" + "hidden"
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError:
        get_logger("x").exception("failed")
    text = stream.getvalue()
    assert "inner" in text
    assert "outer" in text
    assert password not in text


def test_the_level_can_be_changed_while_running() -> None:
    stream = io.StringIO()
    configure_logging("warning", "json", stream)
    log = get_logger("x")
    log.info("first")
    logging.getLogger("lib").info("first")
    set_level("debug")
    log.debug("second")
    logging.getLogger("lib").debug("second")
    assert [line["event"] for line in lines(stream)] == ["second", "second"]


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        set_level("loud")
    with pytest.raises(ValueError, match="xml"):
        configure_logging("info", "xml")


def test_a_line_is_never_lost_to_what_is_in_it() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    log = get_logger("x")
    log.info("odd", value={1, 2}, thing=object(), text="\ud800", number=2**70, data=b"\xff")
    log.info("odd", value={("a", 1): "tuple key"}, nan=float("nan"))
    assert len(lines(stream)) == 2


def test_metrics_are_made_once_and_rendered() -> None:
    metrics = Metrics()
    metrics.counter("things_total", "Things.", ("kind",)).labels("a").inc(3)
    metrics.counter("things_total", "Things.", ("kind",)).labels("a").inc()
    metrics.gauge("level", "Level.").set(7)
    metrics.histogram("seconds", "Seconds.", buckets=(1, 2)).observe(1.5)
    text = metrics.render().decode()
    assert 'things_total{kind="a"} 4.0' in text
    assert "level 7.0" in text
    assert 'seconds_bucket{le="2.0"} 1.0' in text
    with pytest.raises(TypeError):
        metrics.gauge("things_total", "Things.")
    assert "things_total" not in Metrics().render().decode()
