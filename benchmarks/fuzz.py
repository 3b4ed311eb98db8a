"""A coverage-guided fuzzer (atheris) over the JSON reader, map files and label tables: each is used, or named.

    pip install atheris                       # Linux; the extra 'dev' has it where there is a wheel
    python benchmarks/fuzz.py json --seconds 300
    python benchmarks/fuzz.py maps --seconds 300      # the file's bytes
    python benchmarks/fuzz.py arrays --seconds 300    # whole archives, whose arrays are anything
    python benchmarks/fuzz.py tables --seconds 300

Ends with a traceback and a file crash-... beside where anything else than an error of ours is raised.
With `--runs` it ends after so many inputs, which `--seed` draws.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import sys
import tempfile
import zipfile
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


TARGETS: dict[str, Callable[[Path], object]] = {
    "json": _json,
    "maps": load_maps,
    "arrays": load_maps,
    "tables": _tables,
}
TYPES = ("<f2", "<f4", "<f8", "<i2", "<i4", "<i8", "|u1", "|b1", "<c8", "|S3", "<U2", "|O", ">f4", "<M8[s]")


def archive_of(data: bytes) -> bytes:
    """A map file with a true checksum: each of its arrays as it was, another one, any bytes, or not there."""
    provider = atheris.FuzzedDataProvider(data)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seeds("maps")[0])) as whole, zipfile.ZipFile(out, "w") as archive:
        for name in [*whole.namelist(), "absolute.npy", "whole.npy"]:
            kind = provider.ConsumeIntInRange(0, 5)  # 0 where the input has ended
            if kind == 1:
                archive.writestr(name, provider.ConsumeBytes(provider.ConsumeIntInRange(0, 200)))
            elif kind in (2, 3):
                archive.writestr(name, _array(provider))
            elif kind != 4 and name in whole.namelist():
                archive.writestr(name, whole.read(name))
    return out.getvalue()


def _array(provider: atheris.FuzzedDataProvider) -> bytes:
    """A stored array of any type whose header may promise more, or less, than there is."""
    shape = tuple(provider.ConsumeIntInRange(-1, 5) for _ in range(provider.ConsumeIntInRange(0, 4)))
    if provider.ConsumeIntInRange(0, 9) == 0:
        shape = (*shape, provider.ConsumeInt(8))
    header = {"descr": provider.PickValueInList(list(TYPES)), "fortran_order": provider.ConsumeBool(), "shape": shape}
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + provider.ConsumeBytes(provider.ConsumeIntInRange(0, 400))


def seeds(target: str) -> list[bytes]:
    """Whole files to begin with; for arrays, what they are made of."""
    if target == "arrays":
        return [b"", bytes(range(256)), *(bytes([kind]) * 40 for kind in range(6))]
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
    parser.add_argument("--runs", type=int, default=-1, help="inputs (default: as many as the time allows)")
    parser.add_argument("--seed", type=int, default=0, help="0 = another one each time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(seeds(options.target)):
            (corpus / str(number)).write_bytes(data)
        path, read = Path(name) / "input.npz", TARGETS[options.target]

        def one(data: bytes) -> None:
            path.write_bytes(archive_of(data) if options.target == "arrays" else data)
            with contextlib.suppress(Tag2MaskError), contextlib.redirect_stderr(io.StringIO()):
                read(path)

        limits = [f"-max_total_time={options.seconds}", f"-runs={options.runs}", f"-seed={options.seed}"]
        began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # what started it counts for it, too
        limits += [f"-max_len={LONGEST}", "-timeout=10", f"-rss_limit_mb={began + 2048}"]
        limits += ["-len_control=0"] if options.target == "arrays" else []
        atheris.Setup([sys.argv[0], str(corpus), *limits], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
