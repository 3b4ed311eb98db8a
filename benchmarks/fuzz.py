"""A coverage-guided fuzzer (atheris) over the JSON reader, map files and label tables: each is used, or named.

    pip install atheris                       # Linux, not in the project's own requirements
    python benchmarks/fuzz.py json --seconds 300
    python benchmarks/fuzz.py maps --seconds 300
    python benchmarks/fuzz.py tables --seconds 300

Ends with a traceback and a file crash-... beside where anything else than an error of ours is raised.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["tag2mask.data", "tag2mask.common"]):
    from tag2mask.common.errors import Tag2MaskError
    from tag2mask.common.files import read_object
    from tag2mask.data.json_stream import stream_json
    from tag2mask.data.maps import LocalizationMaps, load_maps, save_maps
    from tag2mask.data.readers.found import Found
    from tag2mask.data.readers.tables import read_table

LONGEST = 20_000  # bytes of an input


def _json(path: Path) -> None:
    with contextlib.suppress(Tag2MaskError):
        read_object(path)
    for _ in stream_json(path, ("images", "annotations", "categories")):
        pass


def _tables(path: Path) -> None:
    read_table(path, Found("fuzz"))


TARGETS: dict[str, Callable[[Path], object]] = {"json": _json, "maps": load_maps, "tables": _tables}


def seeds(target: str) -> list[bytes]:
    """Whole files to begin with."""
    if target == "json":
        coco = {"images": [{"id": 1, "file_name": "a"}], "annotations": [], "categories": [{"id": 1, "name": "é"}]}
        return [json.dumps(coco).encode(), b'{"a": [1, 2.5e3, null, true, "\\ud800"]}']
    if target == "tables":
        return [b"image,labels\na.png,cat;dog\n", b"sep=;\nfilename;cat;dog\na;1;0\n", b"\xff\xfei\0m\0a\0g\0e\0"]
    maps = LocalizationMaps(np.zeros(1, np.int64), (32, 32), (1.0,), [np.ones((1, 2, 2), np.float32)])
    with tempfile.TemporaryDirectory() as name:
        save_maps(Path(name) / "a.npz", maps)
        return [(Path(name) / "a.npz").read_bytes()]


def main() -> None:
    """Parse, write the seeds, fuzz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(seeds(options.target)):
            (corpus / str(number)).write_bytes(data)
        path, read = Path(name) / "input.npz", TARGETS[options.target]

        def one(data: bytes) -> None:
            path.write_bytes(data)
            with contextlib.suppress(Tag2MaskError), contextlib.redirect_stderr(io.StringIO()):
                read(path)

        limits = [f"-max_total_time={options.seconds}", f"-max_len={LONGEST}", "-timeout=10", "-rss_limit_mb=2048"]
        atheris.Setup([sys.argv[0], str(corpus), *limits], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
