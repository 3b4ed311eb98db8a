"""Work over processes: failures are noted, dead workers' images are done again, results don't depend on the width."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tag2mask.common.errors import DataError
from tag2mask.stages.folder import StageFolder
from tag2mask.stages.parallel import process_count, run_images

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


def test_process_count() -> None:
    assert process_count(3, 10) == 3
    assert process_count(8, 2) == 2
    assert process_count(0, 7) == 1
    assert process_count(0, 10_000) >= 1
    assert process_count(4, 0) == 1
