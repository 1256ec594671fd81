"""What is documented is what is served."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis

from holdfast.fleet.model import CollectRequest, WorkerRegister
from holdfast.kernel.http import openapi_document
from holdfast.kernel.http.routes import rules_of
from tests.unit.kernel.http_app import make_app

ROOT = Path(__file__).parents[3]


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(openapi_document(make_app()))
    return found


def test_the_document_is_the_same_every_time_and_in_another_process() -> None:
    first = openapi_document(make_app())
    assert openapi_document(make_app()) == first
    program = (
        "import sys; from tests.unit.kernel.http_app import make_app;"
        "from holdfast.kernel.http import openapi_document;"
        "sys.stdout.buffer.write(openapi_document(make_app()))"
    )
    again = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=True
    )
    assert again.stdout == first
    assert first.endswith(b"}\n")


def test_every_operation_has_a_stable_name_its_permission_and_its_failures() -> None:
    operations = [each for path in document()["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    assert len(operations) == sum(rules.in_schema for rules in rules_of(make_app()))
    for each in operations:
        assert each["x-permission"]
        assert each["responses"]["default"] == {"$ref": "#/components/responses/Problem"}
        assert "400" in each["responses"]
        assert bool(each["security"]) == (each["x-permission"] != "public")


def test_types_parameters_and_bodies_are_documented() -> None:
    found = document()
    listing = found["paths"]["/v1/things"]["get"]
    assert [each["name"] for each in listing["parameters"]] == [
        "limit", "colour", "tag", "since", "deep",
    ]  # fmt: skip
    limit = listing["parameters"][0]
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 10}
    assert not limit["required"]
    content = listing["responses"]["200"]["content"]["application/json"]["schema"]
    assert content == {"$ref": "#/components/schemas/Page_Thing_"}
    thing = found["components"]["schemas"]["Thing"]
    assert thing["additionalProperties"] is False
    shown = found["paths"]["/v1/things/{name}/{number}"]["get"]
    assert [(p["name"], p["in"], p["required"]) for p in shown["parameters"]] == [
        ("name", "path", True), ("number", "path", True),
    ]  # fmt: skip
    assert shown["description"].startswith("Show a thing.")
    header = found["paths"]["/v1/header"]["get"]["parameters"][0]
    assert (header["name"], header["in"]) == ("holdfast-grant", "header")
    assert "412" in found["paths"]["/v1/things/{name}"]["put"]["responses"]
    assert "content" not in found["paths"]["/v1/things/{name}"]["delete"]["responses"]["204"]
    yaml = found["paths"]["/v1/yaml"]["post"]["requestBody"]["content"]
    assert list(yaml) == ["application/yaml"]
    assert found["openapi"] == "3.1.0"


def test_another_reader_of_such_documents_understands_it() -> None:
    schema = schemathesis.openapi.from_dict(document())
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 15


def test_no_pattern_lets_a_line_end_after_what_it_names() -> None:
    """``$`` alone is before a newline at the end, too: a name with one would be another name."""
    document = json.loads((ROOT / "api" / "openapi.json").read_text())
    seen: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(pattern := value.get("pattern"), str):
                seen.append(pattern)
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(document)
    assert seen
    assert [each for each in seen if each.endswith("$")] == []
    for model, wrong in ((WorkerRegister, {"name": "eve\n"}), (CollectRequest, {"profile": "a\n"})):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, model)
