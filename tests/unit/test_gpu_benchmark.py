"""The script that is run where there is a GPU: its logic on a CPU, at sizes that take seconds."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", BENCHMARKS / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def tiny(gpu: ModuleType) -> Any:
    return gpu.Sizes(
        backbone="test_resnet",
        shapes=((16, 24), (24, 32), (32, 32)),
        batches=(2,),
        compared=2,
        compared_shape=(24, 32),
        matrix=32,
        layers=((4, 6, 1), (4, 6, 3)),
        segmenter=("deeplabv2", "test_resnet"),
        crop=40,
        training_batch=2,
        scenes=3,
        epochs=1,
    )


def section(gpu: ModuleType, name: str, seconds: float = 600.0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    bench = gpu.Bench(torch.device("cpu"), tiny(gpu), time.monotonic() + seconds, rows.append)
    return rows, gpu.measured(gpu.SECTIONS[name][0], bench)


def test_correctness_rows(gpu: ModuleType) -> None:
    rows, status = section(gpu, "correctness")
    assert status["status"] == "done"
    assert [(row["precision"], row["together"]) for row in rows] == [
        (precision, together) for precision in ("32", "tf32", "bf16") for together in (1, 2)
    ]
    assert rows[0]["largest difference RIB"] == 0
    assert 0 < rows[1]["largest difference RIB"] < 1e-3
    assert all(0.9 < row["equal labels"] <= 1 for row in rows)


def test_rib_rows(gpu: ModuleType) -> None:
    rows, status = section(gpu, "rib")
    assert status["status"] == "done"
    assert [row["rung"] for row in rows[:3]] == ["a matrix product"] * 3
    assert {row["shape"] for row in rows[3:]} == {"24x16", "32x24", "32x32"}
    for row in rows[3:]:
        assert "note" not in row
        assert row["photos a second"] > 0
        assert row["TFLOP/s"] == pytest.approx(row["photos a second"] * row["TFLOP a photo"])
        assert row["share of the peak"] > 0
        assert row["batch_memory counts MiB"] > 0
    flops = {row["rung"]: row["TFLOP a photo"] for row in rows[3:]}
    assert flops["one searched step"] > flops["plain CAM"]


def test_layer_rows(gpu: ModuleType) -> None:
    rows, status = section(gpu, "layers")
    assert status["status"] == "done"
    ways = {(row["layer"], row["numbers"]): [] for row in rows}
    for row in rows:
        ways[row["layer"], row["numbers"]].append(row["way"])
        assert "note" not in row
        assert row["with its gradient ms"] > 0
    assert ways == {
        (layer, numbers): ["one by one", "grouped", *more]
        for layer, more in (("1x1, 4 to 6", ["product"]), ("3x3, 4 to 6", []))
        for numbers in ("float32", "bfloat16")
    }


def test_training_and_refinement_rows(gpu: ModuleType) -> None:
    rows, status = section(gpu, "training")
    assert status["status"] == "done"
    networks = [(row["network"], row["precision"]) for row in rows]
    assert networks == [(n, p) for n in ("classifier", "boundary", "segmenter") for p in ("32-true", "bf16-mixed")]
    assert all(row["samples a second"] > 0 for row in rows)
    rows, status = section(gpu, "refinements")
    assert status["status"] == "done"
    assert [row["refinement"] for row in rows] == ["random walk", "affinity", "PAMR"]
    assert all(row["ms"] > 0 and row["largest difference"] == 0 for row in rows)


def test_the_chain_on_digits(gpu: ModuleType) -> None:
    rows, status = section(gpu, "chain")
    assert status["status"] == "done"
    assert "note" not in rows[0]
    assert {"seed_cam", "seed_rib", "pseudo_mask"} <= rows[0].keys()


def test_what_is_missing_or_fails_is_said_and_ends_nothing(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(bench: Any) -> None:
        with bench.row(first="done") as row:
            row["figure"] = 1.5
        with bench.row(second="too large"):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        raise ValueError("a bug")

    def here(name: str, options: Any, seconds: float, rows: Path) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        bench = gpu.Bench(torch.device("cpu"), tiny(gpu), time.monotonic() + seconds, found.append)
        status = gpu.measured(gpu.SECTIONS[name][0], bench)
        rows.write_text("".join(json.dumps(row) + "\n" for row in found))
        return status

    monkeypatch.setattr(gpu, "SECTIONS", gpu.SECTIONS | {"correctness": (fails, 60)})
    monkeypatch.setattr(gpu, "in_own_process", here)
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    names = ["correctness", "training", "chain", "refinements"]
    gpu.run_all(gpu.parse(["--device", "cpu", "--out", str(tmp_path), "--only", *names]))
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert [found[name]["status"] for name in names] == ["failed", "skipped", "skipped", "done"]
    assert found["correctness"]["rows"] == [
        {"first": "done", "figure": 1.5},
        {"second": "too large", "note": "out of memory"},
    ]
    text = (tmp_path / "gpu.md").read_text()
    assert "## correctness: failed (ValueError: a bug)" in text
    assert "| first | figure | second | note |" in text
    assert "## training: skipped (needs lightning-fabric: pip install lightning-fabric" in text
    assert "## refinements: done" in text


def test_no_time_is_said(gpu: ModuleType, tmp_path: Path) -> None:
    rows, status = section(gpu, "refinements", seconds=-1)
    assert status["status"] == "done"
    assert [row["note"] for row in rows] == ["no time left"] * 3
    found = gpu.run_all(gpu.parse(["--device", "cpu", "--out", str(tmp_path), "--minutes", "0.1"]))
    assert {section["status"] for section in found.values()} == {"skipped"}


def test_a_section_runs_in_a_process_of_its_own(gpu: ModuleType, tmp_path: Path) -> None:
    options = gpu.parse(["--device", "cpu", "--quick", "--out", str(tmp_path)])
    status = gpu.in_own_process("refinements", options, 300.0, tmp_path / "rows")
    assert status["status"] == "done"
    assert len((tmp_path / "rows").read_text().splitlines()) == 3
    assert gpu.in_own_process("refinements", options, -gpu.SPARE + 0.1, tmp_path / "rows")["status"] == "cut short"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_how_to_rehearse(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="finds no GPU here; rehearse with --device cpu --quick"):
        gpu.main()


def test_the_shell_script_says_what_is_missing(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # without site-packages
    python.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    script = ["bash", str(BENCHMARKS / "gpu.sh")]
    done = subprocess.run(script, env=environment | {"PYTHON": str(python)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "lacks: torch timm" in done.stderr
    assert "pip download -d wheels" in done.stderr
