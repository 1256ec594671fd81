"""What collecting is measured on: the same records as nested JSON, as CSV, as XML and in pages.

Each record has nine fields that are mapped; in nested JSON it is a GeoJSON-like feature of about
300 bytes. The same count gives the same bytes, today and elsewhere.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

ADDRESS = "https://bench.example.org"
ROWS_OF_A_PAGE = 1_000

Row = dict[str, Any]
COLUMNS = ("id", "net", "status", "mag", "depth", "sig", "place", "code", "time")


def rows(count: int) -> Iterator[Row]:
    """The nine fields of each record."""
    for i in range(count):
        yield {
            "id": f"ci{i}",
            "net": "ci",
            "status": "automatic",
            "mag": i % 70 / 10,
            "depth": 8.25,
            "sig": 62 + i % 9,
            "place": f"{i % 977} km W of Castaic, CA",
            "code": str(i),
            "time": 1_517_966_773_840 + i,
        }


def feature(number: int, row: Row) -> dict[str, Any]:
    """A record as nested JSON, with members that nobody maps."""
    return {
        "type": "Feature",
        "id": row["id"],
        "properties": {
            "mag": row["mag"],
            "place": row["place"],
            "time": row["time"],
            "tz": -480,
            "felt": None,
            "status": row["status"],
            "sig": row["sig"],
            "net": row["net"],
            "code": row["code"],
        },
        "geometry": {"type": "Point", "coordinates": [-118.6 + number / 1e6, 34.5, row["depth"]]},
    }


# --- writing --------------------------------------------------------------------------------------


def _write_json(folder: Path, count: int) -> None:
    with (folder / "features.json").open("w", encoding="utf-8") as file:
        head = json.dumps({"type": "FeatureCollection", "metadata": {"count": count}})
        file.write(f'{head[:-1]}, "features": [')
        for i, row in enumerate(rows(count)):
            file.write(("," if i else "") + json.dumps(feature(i, row)))
        file.write("]}")


def _write_csv(folder: Path, count: int) -> None:
    with (folder / "features.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row.values() for row in rows(count))


def _write_xml(folder: Path, count: int) -> None:
    with (folder / "features.xml").open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n<features>\n')
        for row in rows(count):
            inside = "".join(f"<{n}>{escape(str(row[n]))}</{n}>" for n in COLUMNS[3:])
            names = " ".join(f"{n}={quoteattr(row[n])}" for n in COLUMNS[:3])
            file.write(f"<feature {names}>{inside}</feature>\n")
        file.write("</features>\n")


def _write_pages(folder: Path, count: int) -> None:
    found = rows(count)
    pages = -(-count // ROWS_OF_A_PAGE)
    for page in range(1, pages + 1):
        first = (page - 1) * ROWS_OF_A_PAGE
        here = zip(range(first, min(first + ROWS_OF_A_PAGE, count)), found, strict=False)
        document = {
            "page": page,
            "pages": pages,
            "total": count,
            "features": [feature(number, row) for number, row in here],
        }
        (folder / f"features_page{page}.json").write_text(json.dumps(document), encoding="utf-8")


# --- the inputs -----------------------------------------------------------------------------------

_NESTED: dict[str, Any] = {
    "dimensions": {
        "id": "$.id",
        "net": "$.properties.net",
        "status": "$.properties.status",
    },
    "measures": {
        "mag": "$.properties.mag",
        "depth": {"path": "$.geometry.coordinates[2]", "unit": "km"},
        "sig": {"path": "$.properties.sig", "type": "integer"},
    },
    "attributes": {"place": "$.properties.place", "code": "$.properties.code"},
    "period": {"path": "$.properties.time", "frequency": "I", "format": "epoch-ms"},
}


def _flat(mark: str = "") -> dict[str, Any]:
    """The same fields by name; ``mark`` stands before those that are attributes of an element."""
    return {
        "dimensions": {name: f"{mark}{name}" for name in COLUMNS[:3]},
        "measures": {
            "mag": "mag",
            "depth": {"path": "depth", "unit": "km"},
            "sig": {"path": "sig", "type": "integer"},
        },
        "attributes": {"place": "place", "code": "code"},
        "period": {"path": "time", "frequency": "I", "format": "epoch-ms"},
    }


@dataclass(frozen=True)
class Input:
    """One form of the records: how it is written, where it is served, how it is read."""

    name: str
    address: str
    """The path at which it is served."""
    form: dict[str, Any]
    mapping: dict[str, Any]
    _write: Callable[[Path, int], None]
    pagination: dict[str, Any] | None = None

    @property
    def profile(self) -> dict[str, Any]:
        """The profile that collects it."""
        source = {"url": f"{ADDRESS}/{self.address}", "format": self.form}
        if self.pagination:
            source["pagination"] = self.pagination
        return {
            "version": 1,
            "name": "bench",
            "publisher": "generated",
            "licence": "none",
            "source": source,
            "key": ["dimensions.id"],
            **self.mapping,
        }

    def write(self, folder: Path, count: int) -> list[Path]:
        """``count`` records into files of ``folder``; the files in the order of the records."""
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder, count)
        return self.files(folder)

    def files(self, folder: Path) -> list[Path]:
        """Its files in ``folder``, in the order of the records."""
        found = folder.glob(f"{Path(self.address).stem}*{Path(self.address).suffix}")
        return sorted(found, key=lambda path: (len(path.name), path.name))


INPUTS = {
    each.name: each
    for each in (
        Input(
            "json",
            "features.json",
            {"type": "json", "records": "$.features[*]"},
            _NESTED,
            _write_json,
        ),
        Input("csv", "features.csv", {"type": "csv"}, _flat(), _write_csv),
        Input(
            "xml",
            "features.xml",
            {"type": "xml", "records": "/features/feature"},
            _flat("@"),
            _write_xml,
        ),
        Input(
            "pages",
            "features.json",
            {"type": "json", "records": "$.features[*]"},
            _NESTED,
            _write_pages,
            {"type": "page", "total_records": "$.total", "number": "$.page"},
        ),
    )
}


def digest_of(files: Iterable[Path]) -> str:
    """The SHA-256 of the bytes of all files, one after the other."""
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                found.update(piece)
    return f"sha256:{found.hexdigest()}"
