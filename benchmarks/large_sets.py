"""What a large data set costs beside its pictures: time and memory of each step that goes over all of it.

    python benchmarks/large_sets.py [--images 20695 82783] [--folder DIR]

Writes tiny photos, as many as a quarter of COCO 2014's training photos and as all of them, each with bytes of its
own, links their masks, writes labels.csv, and measures every step of reading, planning, resuming, scoring and
reporting in a process of its own. Two sizes give the slope. Memory is what comes on top of Python, PyTorch and the
package. Nothing is trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import pickle
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "horse", "person")
LINKS = 50_000  # of one file; file systems allow no more than 65,000


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [20_695, 82_783]
    parser.add_argument("--images", type=int, nargs=2, default=sizes, help="two sizes (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where it works (default: a temporary folder)")
    options = parser.parse_args()
    import tag2mask.chain
    import tag2mask.reports  # noqa: F401  as in a run: no step pays for it

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        found = {size: measure(Path(name) / str(size), size) for size in sorted(options.images)}
    print(table(found))
    return 0


def table(found: dict[int, dict[str, tuple[float, float]]]) -> str:
    """The figures as Markdown."""
    first, last = found
    lines = [f"| step | {first:,} photos | {last:,} photos | more for each million |", "|---|---|---|---|"]
    for step in found[last]:
        cells = [f"{seconds:.1f} s, {memory:.0f} MB" for seconds, memory in (found[first][step], found[last][step])]
        both = zip(found[first][step], found[last][step], strict=True)
        slope = [1e6 * (more - less) / (last - first) for less, more in both]
        lines.append(f"| {step} | {' | '.join(cells)} | {slope[0]:.0f} s, {slope[1]:.0f} MB |")
    return "\n".join(lines)


def measure(folder: Path, size: int) -> dict[str, tuple[float, float]]:
    """Seconds of CPU and MB of every step."""
    make(folder, size)
    found = {}
    for name, step in STEPS.items():
        found[name] = apart(step, folder)
        print(f"{size:,}: {name}: {found[name][0]:.1f} s, {found[name][1]:.0f} MB", file=sys.stderr, flush=True)
    shutil.rmtree(folder)
    return found


def make(folder: Path, size: int) -> None:
    """Photos, masks and labels.csv of a set; masks of a stage too."""
    rng = np.random.default_rng(0)
    places = [folder / "set" / "photos", folder / "set" / "masks", folder / "run" / "pseudo_masks" / "masks"]
    for place in places:
        place.mkdir(parents=True)
    photo = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(photo, format="JPEG")
    kinds = [CLASSES[:: 1 + kind] for kind in range(4)]  # a photo's tags, all of them in its mask
    for kind, tags in enumerate(kinds):
        values = rng.choice([0, *(CLASSES.index(tag) + 1 for tag in tags)], (16, 16)).astype(np.uint8)
        Image.fromarray(values).save(folder / f"mask{kind}", format="PNG")
    rows = ["image,labels,split,mask"]
    for number in range(size):
        kind, stem = number % 4, f"{number:012d}"
        (places[0] / f"{stem}.jpg").write_bytes(photo.getvalue() + number.to_bytes(8, "big"))  # not the same content
        for place in places[1:]:
            copy = folder / f"mask{kind} of {place.parent.name} {number // LINKS}"
            if not copy.exists():
                shutil.copy(folder / f"mask{kind}", copy)
            os.link(copy, place / f"{stem}.png")
        split = "val" if number // 4 % 10 == 0 else "train"
        rows.append(f"photos/{stem}.jpg,{';'.join(kinds[kind])},{split},masks/{stem}.png")
    (folder / "set" / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def apart(step: Callable[[Path], object], folder: Path) -> tuple[float, float]:
    """Run a step in a fork; returns its seconds of CPU and its peak in MB above what it began with."""
    end, begin = os.pipe()
    process = os.fork()
    if process == 0:
        with open(os.devnull, "w") as quiet:
            os.dup2(quiet.fileno(), 1)
            os.dup2(quiet.fileno(), 2)
        Path("/proc/self/clear_refs").write_text("5")
        before, started = memory("VmRSS"), time.process_time()
        try:
            step(folder)
            result: Any = (time.process_time() - started, memory("VmHWM") - before)
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        with os.fdopen(begin, "wb") as stream:
            stream.write(pickle.dumps(result))
        os._exit(0)
    os.close(begin)
    with os.fdopen(end, "rb") as stream:
        result = pickle.loads(stream.read())  # of our own fork
    os.waitpid(process, 0)
    if isinstance(result, str):
        raise RuntimeError(result)
    return result


def memory(key: str) -> float:
    """A figure of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


# --- the steps ---------------------------------------------------------------------------------------------


def _set(folder: Path) -> Any:
    from tag2mask.data import read_dataset

    return read_dataset(folder / "set")


def _check(folder: Path) -> None:
    from tag2mask.data import check_dataset

    check_dataset(_set(folder), decode=False).summary()


def _plan(folder: Path) -> None:
    """What a run does before its first stage: data set, splits, checks, run.json, index.json."""
    from tag2mask.chain import open_chain
    from tag2mask.recipe import load_recipe

    recipe = load_recipe("photos", ["classifier.weights=none", "segmenter.weights=none", "variant=small"])
    open_chain(recipe, folder / "set", folder / "planned", say=lambda _: None)


def _stage(folder: Path) -> Any:
    from tag2mask.runs.folder import StageFolder

    path = folder / "run" / "pseudo_masks"
    config, inputs = {"method": "none"}, {"maps": "0"}
    if not (path / "manifest.json").exists():
        (path / "manifest.json").write_text(
            '{"stage": "refine", "config": {"method": "none"}, "seed": 0, "inputs": {"maps": "0"}}'
        )
    return StageFolder(path, "refine", config=config, seed=0, inputs=inputs)


def _resume(folder: Path) -> None:
    """Find that every image is done, and say so in the manifest."""
    records = {record.id: record for record in _set(folder).records}
    stage = _stage(folder)
    assert stage.left(records, "masks/{}.png") == []
    stage.finish(records)


def _ticks(folder: Path) -> None:
    """A thousand images of a folder of photos, whose manifest lists them all, at a minute each."""
    from tag2mask.runs import folder as folders
    from tag2mask.runs.photos import note_photos

    records = [dataclasses.replace(record, split="") for record in _set(folder).records]
    shutil.rmtree(folder / "photos", ignore_errors=True)
    stage = folders.StageFolder(folder / "photos", "predict", config={}, seed=0, inputs={})
    note_photos(stage, records)
    before = folders.SAVE_EVERY
    folders.SAVE_EVERY = 0.0
    for _ in range(1000):
        stage.tick()
    folders.SAVE_EVERY = before


def _score(folder: Path) -> None:
    from tag2mask.stages.evaluate import score_masks

    dataset = _set(folder).select("train")
    score_masks(dataset, folder / "run" / "pseudo_masks" / "masks", split="train")


def _report(folder: Path) -> None:
    """A report on a run whose index and manifest list all photos."""
    from tag2mask.reports import write_report

    for name in ("run.json", "index.json", "recipe.yaml"):
        shutil.copy(folder / "planned" / name, folder / "run" / name)
    write_report(folder / "run")


def _draw(folder: Path) -> None:
    """The order of five epochs."""
    from tag2mask.engine.loop import epoch_batches

    count = len(_set(folder).records)
    for epoch in range(5):
        epoch_batches(count, 16, epoch, 0, 0, 1)


STEPS: dict[str, Callable[[Path], object]] = {
    "read labels.csv": _set,
    "check, files unopened": _check,
    "plan a run": _plan,
    "resume a stage and finish it": _resume,
    "1,000 ticks of a folder of photos": _ticks,
    "orders of five epochs": _draw,
    "score nine tenths": _score,
    "report": _report,
}


if __name__ == "__main__":
    sys.exit(main())
