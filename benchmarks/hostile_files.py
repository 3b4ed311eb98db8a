"""Thousands of damaged and malicious files through the real readers: each is used, or named in one line.

    python benchmarks/hostile_files.py [--inputs 12000] [--seed 0] [--run RUN] [--only WORD]

Seeds are small whole files of every kind that is read: pictures of each format, masks, label tables, JSON, XML, label
maps, recipes, a finished run's manifests, maps and scores, weights. Each is mutated (bits, bytes, pieces, numbers,
values of JSON) and read as the commands read it. What must hold: an error is one line that names the file; under 10 s
of CPU time; under 1 GB more memory; no file outside of the folder is opened, nothing is executed, no address is asked
for. Hand-made bombs come last. Ends with status 1 where anything broke.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CPU_SECONDS = 10
MOST_MEMORY = 1024  # MB above what was taken before
SHARES = {"picture": 30, "mask": 10, "table": 12, "json": 13, "xml": 9, "list": 8, "recipe": 6, "run": 6, "maps": 6}
EXTREMES = (b"0", b"-1", b"255", b"256", b"65536", b"4294967295", b"1e308", b"NaN", b"99999999999999999999")
STRANGE: tuple[Any, ...] = (None, True, -1, 0, 1e308, float("nan"), 10**30, "", "../../etc/passwd", "/etc/passwd")
STRANGE += (
    "\x00",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    {"": {}},
)


@dataclass(frozen=True)
class Seed:
    """A whole file: where it lies in a world of its own, and how it is read there."""

    kind: str  # one of SHARES
    name: str  # path below the world's folder
    data: bytes
    read: Callable[[Path], object]  # of the world's folder
    world: Path | None = None  # what else lies there


@dataclass
class Findings:
    """What was counted and what broke."""

    used: Counter = field(default_factory=Counter)
    named: Counter = field(default_factory=Counter)
    broken: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # what broke: examples
    slowest: float = 0.0  # CPU seconds
    largest: float = 0.0  # MB

    @property
    def inputs(self) -> int:
        """How many files were tried."""
        return sum(self.used.values()) + sum(self.named.values()) + sum(map(len, self.broken.values()))


# --- what is watched ---------------------------------------------------------------------------------------


class TooSlow(BaseException):
    """More CPU time than any file may take."""


class Watch:
    """Notes what is opened, executed and connected while a file is read."""

    def __init__(self) -> None:
        self.armed = False
        self.allowed: tuple[str, ...] = ()
        self.seen: list[str] = []
        places = {sys.prefix, sys.base_prefix, *sys.path, "/proc", "/dev", "/sys"}
        self.always = tuple(str(Path(place).resolve()) for place in places if place)
        self.always += tuple(str(place) for place in (Path(__file__).resolve().parents[1],))
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith((*self.allowed, *self.always)):
                self.seen.append(f"opened {path}")
        elif event in ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"):
            self.seen.append(f"{event} {arguments[:1]}")
        elif event in ("os.remove", "os.rename", "shutil.rmtree"):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(self.allowed):
                self.seen.append(f"{event} {path}")

    @contextlib.contextmanager
    def over(self, folder: Path) -> Iterator[list[str]]:
        """Watch what is done beside `folder`."""
        self.seen, self.allowed, self.armed = [], (str(folder.resolve()),), True
        try:
            yield self.seen
        finally:
            self.armed = False


def _memory(key: str) -> float:
    """A figure of this process in MB: VmRSS or VmHWM."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as stream:
        for line in stream:
            if line.startswith(key):
                return int(line.split()[1]) / 1024
    return 0.0


def _forget_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
        stream.write("5")


def _slow(*_: object) -> None:
    raise TooSlow


def try_one(seed: Seed, folder: Path, watch: Watch, found: Findings, label: str) -> None:
    """Read a file that lies in `folder`, and note how that ended."""
    from tag2mask.common.errors import Tag2MaskError

    _forget_peak()
    before, started = _memory("VmRSS"), time.process_time()
    signal.signal(signal.SIGVTALRM, _slow)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    fault = ""
    try:
        quiet = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
        with watch.over(folder) as outside, quiet[0], quiet[1], warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seed.read(folder)
        ended = found.used
    except Tag2MaskError as error:
        ended = found.named
        if "\n" in str(error) or len(str(error)) > 3000 or not str(error).strip():
            fault = f"{seed.kind}: error of {len(str(error))} characters or several lines"
    except TooSlow:
        fault = f"{seed.kind}: more than {CPU_SECONDS} s, at {_place()}"
    except BaseException as error:
        fault = f"{seed.kind}: {type(error).__name__}: {_line(error)} at {_place()}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    more, seconds = _memory("VmHWM") - before, time.process_time() - started
    if more > 200 or seconds > 3:
        print(f"{label}: {more:.0f} MB, {seconds:.1f} s", flush=True)
    found.largest, found.slowest = max(found.largest, more), max(found.slowest, seconds)
    if not fault and outside:
        fault = f"{seed.kind}: {outside[0]}"
    if not fault and more > MOST_MEMORY:
        fault = f"{seed.kind}: {more:.0f} MB"
    if not fault and seconds > CPU_SECONDS:
        fault = f"{seed.kind}: {seconds:.0f} s"
    if fault:
        print(f"BROKEN {label}: {fault}", flush=True)
        found.broken[fault].append(label)
    else:
        ended[seed.kind] += 1


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:100]


def _place() -> str:
    """The last line of ours in the traceback."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [frame for frame in frames if "tag2mask" in frame.filename]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


# --- how files are damaged ---------------------------------------------------------------------------------


def mutated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A damaged copy, by one to four steps."""
    text = data[:1] in (b"{", b"[")
    for _ in range(rng.choice((1, 1, 2, 4))):
        step = rng.choice(STEPS)
        if text and rng.random() < 0.7:
            data = _json_step(data, rng)
        else:
            data = step(data, rng, others) if data else b"\x00"
    return data


def _flip(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 10))):
        changed[_near(rng, len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _near(rng: random.Random, size: int) -> int:
    """A place in a file: often in its head, where most is decided."""
    return min(size - 1, int(rng.random() ** rng.choice((1, 3)) * size))


def _byte(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    at = _near(rng, len(data))
    return data[:at] + bytes([rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))]) + data[at + 1 :]


def _word(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    at = _near(rng, len(data))
    word = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000, rng.getrandbits(32)))
    return data[:at] + word.to_bytes(4, rng.choice(("little", "big"))) + data[at + 4 :]


def _cut(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data))]


def _out(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 2, 16, 200)) :]


def _twice(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    at = rng.randrange(len(data))
    piece = data[at : at + rng.choice((1, 8, 100))]
    return data[:at] + piece * rng.choice((2, 20, 300)) + data[at:]


def _spliced(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    other = rng.choice(others) or b"\x00"
    start, at = rng.randrange(len(other)), rng.randrange(len(data))
    return data[:at] + other[start : start + rng.choice((4, 50, 1000))] + data[at + rng.choice((0, 4, 50)) :]


def _number(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    places = [at for at, value in enumerate(data[:20_000]) if 48 <= value <= 57]
    if not places:
        return _byte(data, rng, [])
    at = rng.choice(places)
    return data[:at] + rng.choice(EXTREMES) + data[at + 1 :]


STEPS = (_flip, _flip, _byte, _word, _cut, _out, _twice, _spliced, _number)


def _json_step(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove or repeat one value of a JSON text."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _flip(data, rng, [])
    places: list[tuple[Any, Any]] = []
    _collect(value, places)
    if not places:
        return json.dumps(rng.choice(STRANGE)).encode()
    holder, key = rng.choice(places)
    if rng.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    elif rng.random() < 0.1:
        holder[key] = [holder[key]] * 50
    else:
        holder[key] = rng.choice(STRANGE)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    if isinstance(value, (dict, list)) and len(places) < 20_000:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            _collect(value[key], places)


# --- whole files to begin with -----------------------------------------------------------------------------


def picture_seeds() -> Iterator[Seed]:
    """Pictures of every format that is decoded."""
    rng = np.random.default_rng(1)
    rgb = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
    grey16 = Image.fromarray(rng.integers(0, 60_000, (24, 32)).astype(np.uint16))
    alpha = rgb.convert("RGBA")
    turned = Image.Exif()
    turned[0x0112] = 6
    forms: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("a.jpg", rgb, {}),
        ("b.jpg", rgb, {"progressive": True, "exif": turned}),
        ("c.jpg", rgb.convert("CMYK"), {}),
        ("a.png", rgb, {}),
        ("b.png", alpha, {}),
        ("c.png", rgb.quantize(16), {}),
        ("d.png", grey16, {}),
        ("a.gif", rgb.quantize(16), {"save_all": True, "append_images": [rgb.quantize(16)]}),
        ("a.bmp", rgb, {}),
        ("a.webp", rgb, {}),
        ("b.webp", alpha, {"lossless": True}),
        ("a.ppm", rgb, {}),
        ("a.tif", rgb, {"compression": "tiff_lzw"}),
        ("b.tif", grey16, {}),
        ("c.tif", alpha, {"compression": "tiff_adobe_deflate"}),
        ("d.tif", Image.fromarray(rng.random((24, 32), dtype=np.float32)), {}),
        ("a.jp2", rgb, {}),
    ]
    for name, picture, options in forms:
        stream = io.BytesIO()
        try:
            picture.save(
                stream,
                format="JPEG2000" if name.endswith("jp2") else Image.registered_extensions()[Path(name).suffix],
                **options,
            )
        except (OSError, KeyError):
            continue  # this Pillow can't write it
        yield Seed("picture", name, stream.getvalue(), lambda folder, name=name: _picture(folder / name))
    for name, data in (("e.tif", _tiff(rng, 5, 8)), ("f.tif", _tiff(rng, 3, 16)), ("g.tif", _tiff(rng, 4, 16, True))):
        yield Seed("picture", name, data, lambda folder, name=name: _picture(folder / name))


def _tiff(rng: np.random.Generator, bands: int, bits: int, deflated: bool = False) -> bytes:
    """A TIFF that Pillow doesn't show as it is."""
    import struct

    pixels = rng.integers(0, 255, 24 * 32 * bands * bits // 8).astype(np.uint8).tobytes()
    pixels = zlib.compress(pixels) if deflated else pixels
    tags = [
        (256, 32),
        (257, 24),
        (258, bits),
        (259, 8 if deflated else 1),
        (262, 1),
        (273, 8),
        (277, bands),
        (278, 24),
    ]
    tags += [(279, len(pixels)), (284, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def _picture(path: Path) -> None:
    from tag2mask.common.errors import Tag2MaskError
    from tag2mask.data.images import decode_image, extra_bands, image_size, raw_values, stored_turned
    from tag2mask.data.records import Reading

    readings: tuple[Callable[[], object], ...] = (
        lambda: image_size(path),
        lambda: decode_image(path, long_side=16),
        lambda: decode_image(path, reading=Reading(bands=(0, 1, 2), value_range=(0.0, 1000.0))),
        lambda: (extra_bands(path), raw_values(path), stored_turned(path)),
    )
    for read in readings:
        with contextlib.suppress(Tag2MaskError):
            read()
    decode_image(path)


def mask_seeds(made: Path) -> Iterator[Seed]:
    """Masks as they are written and as others write them."""
    from tag2mask.data.masks import read_mask, write_mask

    values = np.random.default_rng(2).integers(0, 4, (24, 32)).astype(np.uint8)
    write_mask(made / "own.png", values)
    Image.fromarray(values).save(made / "grey.tif")
    Image.fromarray(values * 60).convert("RGB").save(made / "colour.bmp")
    Image.fromarray(values.astype(np.uint16)).save(made / "wide.png")
    for path in sorted(made.iterdir()):
        yield Seed("mask", path.name, path.read_bytes(), lambda folder, name=path.name: read_mask(folder / name))


def _photos(world: Path, names: tuple[str, ...] = ("a.png", "b.png", "c d.png")) -> Path:
    world.mkdir(parents=True)
    for name in names:
        (world / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (90, 120, 30)).save(world / name)
    return world


def _dataset(folder: Path) -> None:
    from tag2mask.data import check_dataset, read_dataset

    check_dataset(read_dataset(folder))


TABLES = {
    "labels.csv": "image,labels,split,mask\na.png,cat;dog,train,\nb.png,dog,val,b.png\nc d.png,,train,\n",
    "one.csv": "filename,cat,dog\na.png,1,0\nb.png,0,1\nc d.png,1,1\n",
    "rows.csv": "path\tclass\na.png\tcat\na.png\tdog\nb.png\t\"['cat', 'dog']\"\n",
    "via.csv": 'image;label\n"a.png";"{""choices"": [""cat""]}"\nb.png;dog\n',
}
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}, {"id": 2, "file_name": "b.png"}],
    "categories": [{"id": 1, "name": "cat", "supercategory": "pet"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "segmentation": [[0, 0, 4, 0, 4, 4]],
            "iscrowd": 0,
            "bbox": [0, 0, 4, 4],
        },
        {
            "id": 2,
            "image_id": 2,
            "category_id": 2,
            "segmentation": {"counts": [10, 20, 18], "size": [6, 8]},
            "iscrowd": 1,
        },
    ],
}
STUDIO = [
    {
        "id": 1,
        "data": {"image": "/data/upload/a.png"},
        "annotations": [{"result": [{"type": "choices", "value": {"choices": ["cat"]}}]}],
    },
    {"id": 2, "image": "b.png", "choice": {"choices": ["cat", "dog"]}},
    {"id": 3, "data": {"image": "s3://x/c d.png"}, "annotations": [{"was_cancelled": True, "result": []}]},
]
VOC_XML = (
    "<annotation><filename>a.png</filename><size><width>8</width><height>6</height></size>"
    "<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object><object><name>dog</name></object></annotation>"
)
CVAT_XML = (
    "<annotations><meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels></task>"
    '</meta><image id="0" name="a.png" width="8" height="6"><tag label="cat"/></image>'
    '<image id="1" name="b.png"><polygon label="dog" points="0,0;4,0;4,4"/></image></annotations>'
)
YAML = "path: .\ntrain: images\nnames:\n  0: cat\n  1: dog\n"
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"


def label_seeds(made: Path) -> Iterator[Seed]:
    """Label files of every reader, each in a folder of photos."""
    plain = _photos(made / "plain")
    for name, text in TABLES.items():
        yield Seed("table", name, text.encode(), lambda folder, name=name: _dataset(folder / name), plain)
    coco = _photos(made / "coco")
    yield Seed("json", "annotations/instances_train.json", json.dumps(COCO).encode(), _dataset, coco)
    yield Seed("json", "tasks.json", json.dumps(STUDIO).encode(), _dataset, plain)
    beside = _photos(made / "xml", ("a.png", "b.png"))
    (beside / "b.xml").write_text(VOC_XML.replace("a.png", "b.png"), encoding="utf-8")
    yield Seed("xml", "a.xml", VOC_XML.encode(), _dataset, beside)
    yield Seed("xml", "annotations.xml", CVAT_XML.encode(), _dataset, plain)
    yolo = _photos(made / "yolo", ("images/a.png", "images/b.png"))
    (yolo / "labels").mkdir()
    (yolo / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n", encoding="utf-8")
    (yolo / "labels" / "b.txt").write_text("1 0.1 0.1 0.4 0.1 0.4 0.4\n", encoding="utf-8")
    (yolo / "data.yaml").write_text(YAML, encoding="utf-8")
    yield Seed("list", "data.yaml", YAML.encode(), _dataset, yolo)
    yield Seed("list", "labels/a.txt", (yolo / "labels" / "a.txt").read_bytes(), _dataset, yolo)
    tables = _photos(made / "tables")
    (tables / "labels.csv").write_text(TABLES["labels.csv"], encoding="utf-8")
    yield Seed("list", "classes.txt", b"cat\ndog\n", _dataset, tables)
    yield Seed("list", "labelmap.txt", LABELMAP.encode(), _dataset, tables)


def recipe_seeds() -> Iterator[Seed]:
    """The recipes that come along."""
    from tag2mask.recipe import load_recipe, recipe_folder

    for path in sorted(recipe_folder().glob("*.yaml")):
        yield Seed("recipe", "mine.yaml", path.read_bytes(), lambda folder: load_recipe(folder / "mine.yaml"))


def run_seeds(run: Path) -> Iterator[Seed]:
    """What a finished run holds: JSON, logs, maps, weights."""
    from tag2mask.data.maps import load_maps
    from tag2mask.networks.weights import read_state

    for path in sorted(run.rglob("*.json")):
        if path.name != "report.json" and path.parent.name not in ("exports",):
            name = path.relative_to(run).as_posix()
            yield Seed("run", f"run/{name}", path.read_bytes(), lambda folder, n=name: _of_run(folder, n), run)
    for path in sorted(run.rglob("*.jsonl")):
        yield Seed(
            "run",
            f"run/{path.relative_to(run).as_posix()}",
            path.read_bytes(),
            lambda folder: _of_run(folder, ""),
            run,
        )
    maps = sorted(run.glob("localization/*/*.npz"))[:6]
    for path in maps:
        yield Seed("maps", "maps.npz", path.read_bytes(), lambda folder: load_maps(folder / "maps.npz").full())
    import torch
    from safetensors.torch import save

    state = {"conv1.weight": torch.zeros(4, 3, 3, 3), "bn1.bias": torch.ones(4), "steps": torch.tensor(3)}
    stream = io.BytesIO()
    torch.save(state, stream)
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    for name, data in (("w.safetensors", save(state)), ("w.pth", stream.getvalue()), ("old.pth", old.getvalue())):
        yield Seed("maps", name, data, lambda folder, name=name: read_state(folder / name))


def _of_run(folder: Path, name: str) -> None:
    """Read a run's folder as the commands do that look at runs."""
    import argparse as parsing

    from tag2mask.cli.scores import print_scores
    from tag2mask.common.errors import Tag2MaskError
    from tag2mask.exports import masks
    from tag2mask.inference import _own_photos
    from tag2mask.recipe import load_recipe
    from tag2mask.reports.results import find_runs, own
    from tag2mask.runs.folder import parse_manifest, read_manifest
    from tag2mask.runs.info import manifests_of, parse_info, read_info
    from tag2mask.runs.scores import stored_scores

    run = folder / "run"
    parser = parsing.ArgumentParser()
    masks.add_options(parser)
    steps: list[Callable[[], object]] = [
        lambda: parse_info(read_info(run)),
        lambda: print_scores(stored_scores(run)),
        lambda: own(find_runs([run])),
        lambda: [parse_manifest(value) for value in manifests_of(run).values()],
        lambda: load_recipe(run / "recipe.yaml"),
        lambda: _own_photos(run),
        lambda: masks.export(parser.parse_args([str(run), "--out", str(folder / "out")])),
    ]
    if name.endswith("manifest.json"):
        steps += [
            lambda: read_manifest((run / name).parent, "train-segmenter", "train-classifier", "predict", "refine")
        ]
        steps += [lambda: _networks(run)] if name.split("/")[0] in ("segmenter", "classifier") else []
    errors = []
    for step in steps:
        try:
            step()
        except Tag2MaskError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _networks(run: Path) -> None:
    from tag2mask.stages.train_classifier import load_classifier
    from tag2mask.stages.train_segmenter import load_segmenter

    load_classifier(run / "classifier")
    load_segmenter(run / "segmenter")


# --- by hand -----------------------------------------------------------------------------------------------


class _Payload:
    """What a pickle would execute."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def bombs(made: Path) -> Iterator[Seed]:
    """Files that are small and ask for much, and files that would have something executed or read from elsewhere."""
    yield from _picture_bombs()
    yield from _archive_bombs(made)
    deep = "[" * 100_000 + "]" * 100_000
    plain, coco = _photos(made / "bomb plain"), _photos(made / "bomb coco")
    yield Seed("json", "tasks.json", deep.encode(), lambda f: _dataset_by(f, "label-studio"), plain)
    nested = '{"images": [' + deep + '], "annotations": [], "categories": []}'
    yield Seed("json", "annotations/instances_train.json", nested.encode(), _dataset, coco)
    yield Seed("table", "labels.csv", f'image,labels\na.png,"{deep}"\n'.encode(), _dataset, plain)
    entity = (
        '<!DOCTYPE a [<!ENTITY x "'
        + "y" * 1000
        + '">'
        + "".join(f'<!ENTITY x{i} "{f"&x{i - 1 or str()};" * 10}">' for i in range(1, 9))
        + "]><annotation>&x8;</annotation>"
    )
    outside = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object></annotation>'
    for text in (
        entity,
        outside,
        "<a>" * 100_000,
        "<annotation>" + "<object><name>n</name></object>" * 100_000 + "</annotation>",
    ):
        yield Seed("xml", "a.xml", text.encode(), _dataset, _photos(made / f"bomb xml {len(text)}", ("a.png",)))
        yield Seed("xml", "annotations.xml", text.encode(), lambda f: _dataset_by(f, "cvat"), plain)
    for text in _yaml_bombs():
        yield Seed("list", "data.yaml", text.encode(), lambda f: _dataset_by(f, "yolo"), plain)
        yield Seed("recipe", "mine.yaml", text.encode(), _recipe)
    yield Seed(
        "table", "labels.csv", b"image,labels\n../../etc/passwd,cat\n/etc/passwd,dog\na.png,cat\n", _dataset, plain
    )
    yield Seed(
        "table",
        "labels.csv",
        b"image,labels,mask\na.png,cat,/etc/passwd\nb.png,cat,../../etc/hostname\n",
        _dataset,
        plain,
    )


def _dataset_by(folder: Path, reader: str) -> None:
    from tag2mask.data import check_dataset, read_dataset

    check_dataset(read_dataset(folder, reader=reader))


def _recipe(folder: Path) -> None:
    from tag2mask.recipe import load_recipe

    load_recipe(folder / "mine.yaml")


def _yaml_bombs() -> Iterator[str]:
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    yield laughs + "names: *a11\n"
    yield "name: &x\n  y: *x\nnames: *x\n"
    maps = "m0: &m0 {x: 1}\n" + "".join(f"m{i}: &m{i} {{p: *m{i - 1}, q: *m{i - 1}}}\n" for i in range(1, 40))
    yield maps + "name: *m39\nnames: *m39\n"
    yield "names: " + "[" * 5_000 + "]" * 5_000
    yield "names: !!python/object/apply:os.system ['touch /tmp/executed']\nname: x\n"
    yield "name: !!python/name:os.system\nnames: [a]\n"
    yield "names: [" + "a, " * 3_000_000 + "]"
    yield "name: !!binary aGVsbG8=\nseed: !!timestamp 2001-99-99\nnames: !!set {a, b}\n"


def _picture_bombs() -> Iterator[Seed]:
    """Pictures of few bytes and very many pixels."""
    import struct

    def png(width: int, height: int, kind: int, depth: int, rows: int) -> bytes:
        def chunk(name: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

        line = min({0: 1, 2: 3, 3: 1, 6: 4}[kind] * width * depth // 8 + 1, 10**6)
        packer, packed = zlib.compressobj(1), b""
        for _ in range(rows):
            packed += packer.compress(bytes(line))
        palette = chunk(b"PLTE", bytes(6)) if kind == 3 else b""
        head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
        data = chunk(b"IDAT", packed + packer.flush())
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + data + chunk(b"IEND", b"")

    sizes = [(65_000, 65_000, 2, 8, 10), (2**31 - 1, 2**31 - 1, 6, 8, 1), (9_900, 9_900, 6, 8, 10)]
    sizes += [(8_900, 8_900, 6, 8, 8_900), (8_900, 8_900, 2, 16, 8_900), (12_600, 12_600, 3, 8, 12_600)]
    for number, size in enumerate(sizes):
        data = png(*size)
        yield Seed("picture", f"bomb{number}.png", data, lambda folder, n=number: _decoded(folder / f"bomb{n}.png"))
        if size[2] == 3:
            yield Seed("mask", f"bomb{number}.png", data, lambda folder, n=number: _mask(folder / f"bomb{n}.png"))
    text = zlib.compress(bytes(100_000_000), 9)
    small = png(8, 8, 2, 8, 8)
    note = b"zTXt" + b"x\0\0" + text
    noted = small[:33] + struct.pack(">I", len(note) - 4) + note + struct.pack(">I", zlib.crc32(note)) + small[33:]
    yield Seed("picture", "text.png", noted, lambda folder: _picture(folder / "text.png"))
    gif = (
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    )
    yield Seed("picture", "bomb.gif", gif + b"\x02\x02\x4c\x01\x00;", lambda folder: _picture(folder / "bomb.gif"))
    for name, form, side in (("bomb.webp", "WEBP", 4_000), ("bomb.jpg", "JPEG", 8_900)):
        stream = io.BytesIO()
        Image.new("RGB", (side, side)).save(stream, format=form, **({"progressive": True} if form == "JPEG" else {}))
        yield Seed("picture", name, stream.getvalue(), lambda folder, n=name: _decoded(folder / n))
    for name, tags in (
        ("tile.tif", {322: 2**31, 323: 2**31}),
        ("bands.tif", {277: 65_535}),
        ("rows.tif", {256: 9_000, 257: 9_000, 278: 1}),
    ):
        data = bytearray(_tiff(np.random.default_rng(3), 5, 8))
        directory = struct.unpack_from("<I", data, 4)[0]
        extra = b""
        for tag, value in tags.items():
            for at in range(directory + 2, len(data) - 4, 12):
                if struct.unpack_from("<H", data, at)[0] == tag:
                    struct.pack_into("<I", data, at + 8, value)
                    break
            else:
                extra += struct.pack("<HHII", tag, 4, 1, value)
        count = struct.unpack_from("<H", data, directory)[0] + len(extra) // 12
        struct.pack_into("<H", data, directory, count)
        yield Seed("picture", name, bytes(data[:-4]) + extra + bytes(4), lambda folder, n=name: _picture(folder / n))


def _decoded(path: Path) -> None:
    """As in training, and at a limited size."""
    from tag2mask.common.errors import Tag2MaskError
    from tag2mask.data.images import decode_image

    with contextlib.suppress(Tag2MaskError):
        decode_image(path, long_side=640)
    decode_image(path)


def _mask(path: Path) -> None:
    from tag2mask.data.masks import read_mask

    read_mask(path, np.arange(256, dtype=np.uint8))


def _archive_bombs(made: Path) -> Iterator[Seed]:
    """Map files and weights that unpack to much, or hold Python objects."""
    import pickle

    import torch

    from tag2mask.data.maps import load_maps
    from tag2mask.networks.weights import read_state

    def packed(parts: dict[str, bytes], zeros: int) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, head in parts.items():
                with archive.open(name, "w", force_zip64=True) as part:
                    part.write(head)
                    for _ in range(zeros // 2**20):
                        part.write(bytes(2**20))
        return stream.getvalue()

    def npy(shape: tuple[int, ...], kind: str = "<f2") -> bytes:
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
        return stream.getvalue()

    big = {"sum_0.npy": npy((1, 2**15, 2**15)), "classes.npy": npy((1,), "<i2"), "size.npy": npy((2,), "<i4")}
    wide = {
        "sum_0.npy": npy((1, 2**30, 2**30)),
        "peak.npy": npy((1,), "<f4") + bytes(4),
        "scales.npy": npy((1,), "<f4") + bytes(4),
    }
    objects = io.BytesIO()
    np.savez(objects, peak=np.array([_Payload(made / "executed npz")], dtype=object), scales=np.ones(1))
    for data in (packed(big, 400 * 2**20), packed(wide, 0), objects.getvalue()):
        yield Seed("maps", "maps.npz", data, lambda folder: load_maps(folder / "maps.npz").full())
    stream = io.BytesIO()
    torch.save({"conv1.weight": _Payload(made / "executed pth")}, stream)
    plain = pickle.dumps(_Payload(made / "executed pickle"))
    swollen = packed({"archive/data.pkl": pickle.dumps({}), "archive/data/0": b""}, 300 * 2**20)
    for data in (stream.getvalue(), plain, swollen):
        yield Seed("maps", "w.pth", data, lambda folder: read_state(folder / "w.pth"))
    head = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    yield Seed(
        "maps", "w.safetensors", len(head).to_bytes(8, "little") + head, lambda f: read_state(f / "w.safetensors")
    )
    yield Seed(
        "maps", "w.safetensors", (2**62).to_bytes(8, "little") + head, lambda f: read_state(f / "w.safetensors")
    )


# --- the campaign ------------------------------------------------------------------------------------------


def all_seeds(made: Path, run: Path | None) -> dict[str, list[Seed]]:
    """Whole files by kind; those of a run only where there is one."""
    (made / "masks").mkdir(parents=True)
    seeds = [*picture_seeds(), *mask_seeds(made / "masks"), *label_seeds(made / "labels"), *recipe_seeds()]
    seeds += [] if run is None else list(run_seeds(run))
    by_kind: dict[str, list[Seed]] = defaultdict(list)
    for seed in seeds:
        by_kind[seed.kind].append(seed)
    return by_kind


def campaign(
    folder: Path, inputs: int, seed: int = 0, run: Path | None = None, only: str = "", hand: bool = True
) -> Findings:
    """Try `inputs` mutated files, then the bombs; worlds are made in `folder`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch, found = Watch(), Findings()
    if run is not None:  # its report shows photos of its data set
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))["record"]
        watch.always += (str(Path(record["data"]).resolve()),)
    seeds = all_seeds(folder / "made", run)
    shares = {kind: share for kind, share in SHARES.items() if only in kind and seeds.get(kind)}
    for kind, share in shares.items():
        data = [one.data for one in seeds[kind]]
        print(f"{kind}: {found.inputs} inputs so far, {len(found.broken)} faults", flush=True)
        for number in range(round(inputs * share / sum(shares.values()))):
            rng = random.Random(f"{seed} {kind} {number}")
            chosen = seeds[kind][number % len(seeds[kind])]
            _try_in_world(chosen, mutated(chosen.data, rng, data), folder / "world", watch, found, f"{kind} {number}")
    if hand:
        for number, bomb in enumerate(bombs(folder / "bombs")):
            if only in bomb.kind:
                _try_in_world(bomb, bomb.data, folder / "world", watch, found, f"bomb {number} {bomb.name}")
        for path in (folder / "bombs").rglob("executed*"):
            found.broken[f"executed: {path.name}"].append(path.name)
    return found


def _try_in_world(seed: Seed, data: bytes, world: Path, watch: Watch, found: Findings, label: str) -> None:
    if world.exists():
        shutil.rmtree(world)
    if seed.world is None:
        world.mkdir()
    elif seed.kind == "run":
        shutil.copytree(seed.world, world / "run", copy_function=os.link)
        (world / seed.name).unlink()  # else the run itself would be written to
    else:
        shutil.copytree(seed.world, world, copy_function=os.link)
    (world / seed.name).parent.mkdir(parents=True, exist_ok=True)
    (world / seed.name).unlink(missing_ok=True)
    (world / seed.name).write_bytes(data)
    try_one(seed, world, watch, found, label)


def report(found: Findings, seconds: float) -> str:
    """The figures as text."""
    lines = [
        f"{found.inputs} inputs in {seconds:.0f} s; "
        f"slowest {found.slowest:.1f} s of CPU, most memory {found.largest:.0f} MB"
    ]
    lines += [f"  {kind:8} used {found.used[kind]:6}, named {found.named[kind]:6}" for kind in SHARES]
    lines += [f"BROKEN {len(labels):5} x {fault}   ({labels[0]})" for fault, labels in found.broken.items()]
    return "\n".join(lines)


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=12_000, help="mutated files (default 12,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--run", type=Path, help="a finished run, whose files are mutated too (default: a tiny one is made)"
    )
    parser.add_argument("--no-bombs", action="store_true", help="leave out what is made by hand")
    parser.add_argument("--only", default="", help="kinds with this word")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        run = options.run
        if run is None and options.only in ("", "run", "maps"):
            sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
            import tiny_run

            run = tiny_run.make_run(Path(name) / "tiny")
        found = campaign(Path(name), options.inputs, options.seed, run, options.only, not options.no_bombs)
    print(report(found, time.monotonic() - started))
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
