"""``python -m tests.support.fuzz FORMAT RUNS``: atheris on one format, led by what it covers.

Only what is imported below is instrumented, and only where the finder of atheris is asked before
all others. ``import holdfast`` puts a finder of its own first, so it comes before that.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import atheris

import holdfast

with atheris.instrument_imports(include=["holdfast.collect"]):
    import holdfast.collect.formats.csv
    import holdfast.collect.formats.json
    import holdfast.collect.formats.json_stat
    import holdfast.collect.formats.ods
    import holdfast.collect.formats.xlsx
    import holdfast.collect.formats.xml
    import holdfast.collect.mapping  # noqa: F401

from tests.support.fuzzing import TARGETS, reads
from tests.support.plugin import MODULE, installed


def main() -> None:
    target, runs = sys.argv[1], sys.argv[2]
    with tempfile.TemporaryDirectory() as folder, installed(Path(folder, "site")):
        with atheris.instrument_imports(include=[MODULE]):
            __import__(MODULE)
        seeds = Path(folder, "seeds")
        seeds.mkdir()
        (seeds / "seed").write_bytes(TARGETS[target][1])
        read = reads(target, Path(folder))

        def once(data: bytes) -> None:
            read(data)

        # What libFuzzer takes for its own peak begins with that of whoever started it.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        options = [
            sys.argv[0], f"-runs={runs}", "-max_len=4096", "-seed=7", "-timeout=300",
            f"-rss_limit_mb={peak + 700}", "-print_final_stats=1", f"-artifact_prefix={folder}/",
            str(seeds),
        ]  # fmt: skip
        atheris.Setup(options, once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
