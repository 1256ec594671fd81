"""What collecting is compared with, each in a process of its own: dlt, and what only reads a file.

``dlt`` loads into DuckDB by Parquet: JSON and XML from a generator as its documentation has them,
CSV by its own ``filesystem`` source, pages by its own ``RESTClient``. The *limit* is DuckDB making
a table of the nine fields, or pandas making a frame of them: nothing is fetched, kept, compared or
told apart from what was there before.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DLT = """
import json, os, resource, sys, time
import dlt

form, how, where, *at = sys.argv[1:]
SIZE = 1000

def of_json():
    import ijson
    with open(at[0], "rb") as file:
        batch = []
        for feature in ijson.items(file, "features.item", use_float=True):
            batch.append(feature)
            if len(batch) == SIZE:
                yield batch
                batch = []
        yield batch

def of_xml():
    from lxml import etree
    batch = []
    for _, element in etree.iterparse(at[0], tag="feature"):
        batch.append({**element.attrib, **{child.tag: child.text for child in element}})
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]
        if len(batch) == SIZE:
            yield batch
            batch = []
    yield batch

def of_pages():
    from dlt.sources.helpers.rest_client import RESTClient
    from dlt.sources.helpers.rest_client.paginators import PageNumberPaginator
    client = RESTClient(
        base_url=at[0],
        paginator=PageNumberPaginator(base_page=1, total_path="pages"),
        data_selector="features",
    )
    yield from client.paginate("features.json")

def flat(nested):
    for batch in nested():
        yield [
            {"id": one["id"], "depth": one["geometry"]["coordinates"][2],
             **{name: one["properties"][name]
                for name in ("net", "status", "mag", "sig", "place", "code", "time")}}
            for one in batch
        ]

def read():
    if form == "csv":
        from dlt.sources.filesystem import filesystem, read_csv
        folder, _, name = at[0].rpartition("/")
        files = filesystem(bucket_url="file://" + folder, file_glob=name)
        return (files | read_csv(chunksize=SIZE)).with_name("features")
    source = {"json": of_json, "xml": of_xml, "pages": of_pages}[form]
    return dlt.resource(lambda: flat(source) if how == "flat" else source(), name="features")

def used():
    own, others = (resource.getrusage(who)
                   for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime

disposition = "merge" if how in ("default", "merge") else "append"
source = read()
source.apply_hints(primary_key="id", write_disposition=disposition)
pipeline = dlt.pipeline("bench", destination=dlt.destinations.duckdb(where + "/b.duckdb"),
                        dataset_name="bench", pipelines_dir=where)
options = {} if how == "default" else {"loader_file_format": "parquet"}
started, worked = time.perf_counter(), used()
pipeline.run(source, **options)
seconds, worked = time.perf_counter() - started, used() - worked
with pipeline.sql_client() as client:
    [[count]] = client.execute_sql("SELECT count(*) FROM features")
peak = max(resource.getrusage(who).ru_maxrss / 1024
           for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"records": count, "seconds": seconds, "processor": worked, "peak": peak}))
"""

LIMIT = """
import json, os, resource, sys, time

form, engine, where, *paths = sys.argv[1:]
NESTED = '''f.id, f.properties.net, f.properties.status, f.properties.mag,
    f.geometry.coordinates[3] AS depth, f.properties.sig, f.properties.place,
    f.properties.code, f.properties.time'''

def by_duckdb():
    import duckdb
    database = duckdb.connect(where + "/limit.duckdb")
    room = max(16 << 20, *(2 * os.path.getsize(path) for path in paths))  # a file is one object
    if form == "csv":
        query = "SELECT * FROM read_csv(?)"
    else:
        query = (f"SELECT {NESTED} FROM (SELECT unnest(features) AS f FROM "
                 f"read_json(?, maximum_object_size={room}))")
    started, worked = time.perf_counter(), time.process_time()
    database.execute("CREATE TABLE features AS " + query, [paths])
    database.execute("CHECKPOINT")
    ended = time.perf_counter() - started, time.process_time() - worked
    return database.execute("SELECT count(*) FROM features").fetchone()[0], *ended

def by_pandas():
    import pandas
    started, worked = time.perf_counter(), time.process_time()
    if form == "csv":
        frame = pandas.read_csv(paths[0])
    else:
        frame = pandas.read_xml(paths[0], xpath="/features/feature")
    ended = time.perf_counter() - started, time.process_time() - worked
    assert len(frame.columns) == 9
    return len(frame), *ended

count, seconds, worked = by_duckdb() if engine == "DuckDB" else by_pandas()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"records": count, "seconds": seconds, "processor": worked, "peak": peak}))
"""

WAYS = {
    "json": ("merge", "append", "flat"),
    "csv": ("merge", "append"),
    "xml": ("merge", "append"),
    "pages": ("merge", "append", "flat"),
}
"""How dlt is asked to load each input. Rows of CSV and XML are flat as they are."""

LIMITS = {
    "json": ("DuckDB",),
    "csv": ("DuckDB", "pandas"),
    "xml": ("pandas",),
    "pages": ("DuckDB",),
}
"""Who reads the same file as fast as it can be read, of those that read its form at all."""


@dataclass(frozen=True)
class Outcome:
    """One run of one contender: what came of it, and what it took."""

    records: int
    seconds: float
    processor: float
    """Seconds of processor time, of all its processes."""
    peak: float
    """Megabytes of its largest process."""

    @property
    def pace(self) -> float:
        return self.records / self.seconds

    @property
    def thrift(self) -> float:
        return self.records / self.processor


def run_dlt(python: str, form: str, how: str, at: str) -> Outcome:
    """dlt on the file ``at``, or on the pages that are served there."""
    return _run(python, DLT, form, how, [at])


def run_limit(python: str, form: str, engine: str, files: Sequence[Path]) -> Outcome:
    """The files read into a table by ``engine``."""
    return _run(python, LIMIT, form, engine, list(map(str, files)))


def _run(python: str, script: str, form: str, how: str, at: list[str]) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        found = subprocess.run(
            [python, "-c", script, form, how, folder, *at],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "NORMALIZE__WORKERS": "2", "RUNTIME__DLTHUB_TELEMETRY": "false"},
        )
    return Outcome(**json.loads(found.stdout.splitlines()[-1]))


def versions(python: str) -> dict[str, str]:
    """Of the libraries that are compared with."""
    asked = "import json, dlt, duckdb, pandas; print(json.dumps({m.__name__: m.__version__"
    found = subprocess.run(
        [python, "-c", f"{asked} for m in (dlt, duckdb, pandas)}}))"],
        check=True,
        capture_output=True,
        text=True,
    )
    answer: dict[str, str] = json.loads(found.stdout.splitlines()[-1])
    return answer
