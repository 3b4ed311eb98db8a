"""Work over processes: failures are noted, dead workers' images are done again, results don't depend on the width."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ray_work import NoWork
from tag2mask.common.errors import ConfigError, DataError
from tag2mask.engine.apart import can_fork
from tag2mask.engine.images import process_count, run_images, worth_processes
from tag2mask.runs.folder import StageFolder

IDS = [f"image{number}" for number in range(6)]


class Work:
    """Writes the id to a file; some images are broken, kill their worker once, or always."""

    def __init__(self, out: Path, dies_once: str = "", dies: str = "") -> None:
        self.out, self.dies_once, self.dies = out, dies_once, dies

    def __call__(self, image_id: str) -> None:
        if image_id == "image1":
            raise DataError("image1.jpg: broken")
        marker = self.out / "died"
        if image_id == self.dies or (image_id == self.dies_once and not marker.exists()):
            marker.touch()
            os._exit(9)
        (self.out / image_id).write_text(image_id)


def run(path: Path, processes: int, **arguments: str) -> tuple[set[str], dict[str, str]]:
    folder = StageFolder(path / "stage", "refine", config={}, seed=0, inputs={})
    out = path / "out"
    out.mkdir(parents=True)
    run_images(IDS, Work, (out, *arguments.values()), folder, processes=processes, total=len(IDS), description="work")
    return {p.name for p in out.iterdir()} - {"died"}, folder.failures


@pytest.mark.parametrize("processes", [1, 2])
def test_broken_images_are_noted_and_the_rest_goes_on(tmp_path: Path, processes: int) -> None:
    done, failures = run(tmp_path, processes)
    assert done == set(IDS) - {"image1"}
    assert failures == {"image1": "image1.jpg: broken"}


def test_a_dead_workers_image_is_done_again(tmp_path: Path) -> None:
    done, failures = run(tmp_path, 2, dies_once="image3")
    assert done == set(IDS) - {"image1"}
    assert set(failures) == {"image1"}


def test_an_image_that_always_kills_its_worker_is_noted(tmp_path: Path) -> None:
    done, failures = run(tmp_path, 2, dies_once="", dies="image2")
    assert done == set(IDS) - {"image1", "image2"}
    assert "died twice" in failures["image2"]


@pytest.mark.skipif(not can_fork(), reason="needs fork")
def test_work_that_aborts_fails_alone_in_one_process_too(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path / "stage", "refine", config={}, seed=0, inputs={})
    (tmp_path / "out").mkdir()
    more = {"processes": 1, "total": len(IDS), "description": "work", "apart": True}
    run_images(IDS, Work, (tmp_path / "out", "", "image2"), folder, **more)  # type: ignore[arg-type]
    assert {p.name for p in (tmp_path / "out").iterdir()} - {"died"} == set(IDS) - {"image1", "image2"}
    assert folder.failures["image1"] == "image1.jpg: broken"
    assert folder.failures["image2"].startswith("image2: its process ended with status 9; take the photo out,")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_images(IDS, TooLarge, ("bug",), folder, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("start_up", "here"), [(1e9, 6), (0.0, 2)])
def test_processes_start_only_where_they_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_up: float, here: int
) -> None:
    monkeypatch.setattr("tag2mask.engine.images.START_UP", start_up)
    folder = StageFolder(tmp_path / "stage", "refine", config={}, seed=0, inputs={})
    (tmp_path / "out").mkdir()
    more = {"processes": 2, "total": len(IDS), "description": "work", "here_first": True}
    run_images(IDS, WhoDidIt, (tmp_path / "out",), folder, **more)  # type: ignore[arg-type]
    workers = [int((tmp_path / "out" / image_id).read_text()) for image_id in IDS]
    assert workers.count(os.getpid()) == here
    assert workers[0] == os.getpid()
    assert not folder.failures


class WhoDidIt:
    """Writes the number of the process that does the work."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __call__(self, image_id: str) -> None:
        (self.out / image_id).write_text(str(os.getpid()))


def test_what_processes_spare() -> None:
    assert not worth_processes(100.0, 0, 50, 2)  # nothing is known yet
    assert not worth_processes(100.0, 1, 50, 1)
    assert not worth_processes(100.0, 1, 50, 0)
    assert worth_processes(1.0, 1, 50, 2)  # half of 50 s
    assert not worth_processes(1.0, 10, 50, 2)  # half of 5 s


def test_work_that_cannot_be_built_is_an_error_not_a_death(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, "refine", config={}, seed=0, inputs={})
    with pytest.raises(ConfigError, match=r"tag2mask\[crf\]"):
        run_images(IDS, NoWork, (), folder, processes=2, total=len(IDS), description="work")


def test_process_count() -> None:
    assert process_count(3, 10) == 3
    assert process_count(8, 2) == 2
    assert process_count(0, 7) == 1
    assert process_count(0, 10_000) >= 1
    assert process_count(4, 0) == 1
    assert process_count(0, 1000, "cuda") == 2
    assert process_count(0, 9, "cuda") == 1
    assert process_count(4, 1000, "cuda") == 4
    assert process_count(0, 1000, "mps") == 1


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks the worker up in /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\nfrom tag2mask.common.workers import WorkerPool\n"
        "from tag2mask.engine import images as parallel\n"
        "def make():\n    print(os.getpid(), flush=True)\n    return time.sleep\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerPool(1, parallel._start, (make, ()))\n"
        "    pool.submit(time.sleep, 600).result()\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(200):
        if not _alive(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker outlived its parent by 20 s")


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class TooLarge:
    """Work for which one image is too large."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, image_id: str) -> None:
        if image_id == "image2":
            raise {
                "python": MemoryError(),
                "torch": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
                "gpu": torch.cuda.OutOfMemoryError("CUDA out of memory."),
                "bug": RuntimeError("shapes do not match"),
            }[self.how]


@pytest.mark.parametrize("how", ["python", "torch", "gpu"])
def test_an_image_that_is_too_large_fails_alone(tmp_path: Path, how: str) -> None:
    folder = StageFolder(tmp_path, "refine", config={}, seed=0, inputs={})
    run_images(IDS, TooLarge, (how,), folder, processes=1, total=len(IDS), description="work")
    assert list(folder.failures) == ["image2"]
    assert "out of memory" in folder.failures["image2"]


def test_a_bug_is_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, "refine", config={}, seed=0, inputs={})
    with pytest.raises(RuntimeError, match="shapes"):
        run_images(IDS, TooLarge, ("bug",), folder, processes=1, total=len(IDS), description="work")


class BadStart:
    def __init__(self) -> None:
        raise RuntimeError("CUDA error: all devices are busy")


def test_a_worker_that_cannot_start_blames_no_image(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, "refine", config={}, seed=0, inputs={})
    with pytest.raises(ConfigError, match="could not start: RuntimeError: CUDA error: all devices are busy"):
        run_images(IDS, BadStart, (), folder, processes=2, total=len(IDS), description="work")
    assert folder.failures == {}
