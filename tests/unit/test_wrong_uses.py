"""Wrong uses of every command: exit code 2, one line that says what to do, nothing written, no traceback."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_run
from tag2mask.cli import _parser, main

HERE = "--device cpu --processes 1 --workers 0"
EXECUTION = ("--devices 0", "--devices 3 --device nowhere", "--precision 12-odd", "--workers -1", "--processes -2")
EXECUTION += ("--ray nowhere", "--workers many", *(() if torch.cuda.is_available() else ("--device cuda",)))
RECIPES = ("nothing --data photos", "broken.yaml --data photos", "odd.yaml --data photos", "big.yaml --data photos")
DATA = ("", "--data nothing", "--data empty", "--data text.txt", "--data pictures", "--data photos --limit 0")
DATA += ("--data photos --limit -1", "--data photos --set x", "--data photos --set classifier.epochs=-1")
DATA += ("--data photos --set classifier.epoch=1", "--data photos --out text.txt", "--data photos --out photos")
DATA += ("--data photos --set classifier.epochs=[", "--data photos --out text.txt/run", "--data photos --out damaged")
RUNS = ("", "nothing", "empty", "text.txt", "photos", "damaged")
STEPS = ("train-classifier", "localize", "refine", "train-segmenter", "predict", "evaluate", "train-boundary")
STEPS += ("affinity", "confident", "walk")
EARLY = dict.fromkeys(
    ("localize", "refine", "train-segmenter", "predict", "evaluate"), "photos --data photos --out new"
)
EXPORTS = (*tuple(f"{run} --out new" for run in RUNS), "finished --of nothing", "finished --out empty")
NETWORK = ("", "--images photos", "--images photos --masks new", "--images photos --masks new --out empty")
NETWORK += ("--images nothing --masks new --out finished", "--images empty --masks new --out finished")
NETWORK += ("--images photos --masks new --out damaged",)
NETWORK += ("--images photos --onnx text.txt --masks new", "--images photos --onnx nothing --masks new")
NETWORK += ("--images photos --tags nothing --masks new --out finished", "--tags labels.csv --out finished")
NETWORK += ("--images photos --onnx x --masks new --device cuda", "--images photos --onnx x --masks new --workers 4")
NETWORK += ("--images photos --masks text.txt --out finished", "--images photos --onnx text.txt")

USES: dict[str, tuple[str, ...]] = {
    "run": tuple(f"photos {use}" for use in (*DATA, *(f"--data photos {e}" for e in EXECUTION))) + RECIPES,
    "new": ("", "nothing", "empty", "text.txt", "pictures", "photos --out empty", "photos --out text.txt/x"),
    "choose": ("", "nothing", "empty", "text.txt", "photos", "finished nothing", "damaged"),
    "review": ("", "nothing", "empty", "text.txt", "finished --port x"),
    "rerun": (
        *RUNS,
        "finished --data nothing",
        "finished --out finished",
        "finished --out text.txt",
        "finished --out empty/x --data empty",
    ),
    "report": (
        *RUNS[:-1],
        "finished --examples -1",
        "finished --examples x",
    ),  # one on a damaged run says what it lacks
    "data check": (
        "",
        "nothing",
        "empty",
        "text.txt",
        "photos --reader odd",
        "photos --reader coco",
        "photos --set x",
        "photos --set classifier.epochs=1",
        "photos --set data.mask_classes=[",
        "photos --reader names",
    ),
    "data prepare": (
        "",
        "voc2012",
        "voc2013 photos",
        "voc2012 nothing",
        "voc2012 empty",
        "coco2014 empty",
        "voc2012 photos --mirror x",
        "voc2012 text.txt",
        "coco2014 photos",
        "voc2012 new --download --mirror x",
    ),
    "recipes ls": ("odd",),
    "recipes show": ("", "nothing", "photo"),
    "recipes validate": ("", "nothing", "broken.yaml", "odd.yaml", "big.yaml", "text.txt", "empty", "laughs.yaml"),
    "results": ("nothing", "text.txt", "--sort odd", "finished --html empty", "finished --csv text.txt/x"),
    "ablate": (
        "",
        "finished",
        "nothing --data photos",
        "finished --data nothing",
        "finished --data photos --grid odd",
        "finished --data photos --grid broken.yaml",
        "damaged --data photos",
        "finished --data photos --images 0",
    ),
    "demo": ("--out text.txt/x", *EXECUTION, "--out photos"),
    "toy": (
        "--seeds 0",
        "--seeds -1",
        "--epochs -1",
        "--digits nothing",
        "--last odd",
        "--digits empty --quick",
        "--quick --processes -3",
        "--quick --out text.txt/x --seeds 0",
    ),
    "hgr": (
        "",
        "nothing --data photos",
        "finished",
        "empty --data photos",
        "finished --data nothing",
        "finished --data photos --images 0",
        "finished --data photos --smoothing 4",
        "damaged --data photos",
        "finished --data photos --threshold 7",
        "finished --data photos --steps -1",
    ),
    "export onnx": ("", "nothing", "empty", "damaged", "finished --images nothing", "text.txt"),
    "export voc-server": ("", "--data nothing", "--data photos", "--data photos --check-only nothing"),
    "export coco": EXPORTS,
    "export cvat": EXPORTS,
    "export labelstudio": EXPORTS,
    "export yolo": EXPORTS,
    "export ultralytics": EXPORTS,
    "export masks": (*EXPORTS, "finished --as odd"),
    "predict": tuple(f"photos {use}" for use in DATA) + NETWORK + ("photos --data photos --onnx x",),
    **{step: tuple(f"photos {use}" for use in DATA) for step in STEPS if step != "predict"},
}


def leaves(parser: argparse.ArgumentParser, place: str = "") -> Iterator[str]:
    """Every command of a parser, with the commands above it."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield place
    for name, below in (entry for action in inner for entry in action.choices.items()):
        yield from leaves(below, f"{place} {name}".strip())


def test_every_command_has_wrong_uses() -> None:
    assert set(USES) == set(leaves(_parser()))


@pytest.fixture(scope="module")
def world(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, a finished run, a damaged one, and files that are something else."""
    folder = tmp_path_factory.mktemp("wrong")
    tiny_run.copy_run(finished_run, folder, networks=True).rename(folder / "finished")
    shutil.copytree(folder / "finished", folder / "damaged", ignore=shutil.ignore_patterns("*.safetensors"))
    for path in (folder / "damaged").rglob("*.json"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shutil.rmtree(folder / "damaged" / "report", ignore_errors=True)
    for name in ("photos/cat/a.png", "photos/dog/b.png", "pictures/a.png", "pictures/b.png", "masks/x.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 48, 3), 90, np.uint8)).save(folder / name)
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("nothing of interest\n")
    (folder / "broken.yaml").write_text("name: [\n")
    (folder / "odd.yaml").write_text("name: x\nclasifier: {epochs: 1}\n")
    (folder / "big.yaml").write_text("name: x\nseed: 1" + "0" * 200_000 + "\n")
    (folder / "laughs.yaml").write_text(
        "name: &a [x, x]\n"
        + "".join(f"k{i}: &k{i} [{', '.join(['*a' if i == 0 else f'*k{i - 1}'] * 9)}]\n" for i in range(9))
    )
    return folder


def state(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Everything that lies in a folder, files with size and time; locks, which stay, by their being there."""
    found = {}
    for path in folder.rglob("*"):
        about, whole = path.stat(), path.is_file() and path.name != ".lock"
        found[str(path.relative_to(folder))] = (about.st_size, about.st_mtime_ns) if whole else None
    return found


@pytest.mark.parametrize("command", USES)
def test_wrong_uses(
    command: str, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(world)
    uses = (*USES[command], "--no-such-option", *([EARLY[command]] if command in EARLY else []))
    before, wrong = state(world), []
    for use in uses:
        arguments = [*command.split(), *use.split()]
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code  # type: ignore[assignment]
        except BaseException as error:
            wrong.append(f"{use}: {type(error).__name__}: {error}")
            capsys.readouterr()
            continue
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        errors = [line for line in lines if "error: " in line]
        if code != 2 or len(errors) != 1 or errors != lines[-1:] or "Traceback" in "".join(lines):
            wrong.append(f"{use}: exit code {code}: {lines[-3:]}")
        after = state(world)
        if after != before:
            wrong.append(f"{use}: wrote {sorted(set(after) ^ set(before))[:5]}")
            before = after
    assert wrong == []
