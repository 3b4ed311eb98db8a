"""Photos of one shape localized together: the maps of each alone, each photo's failure its own, runs resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import read_json
from tag2mask.data import Dataset, ImageRecord, load_maps
from tag2mask.engine.execution import Execution
from tag2mask.engine.images import Group, Grouping, attempt_group, run_images
from tag2mask.networks import build_classifier, save_module
from tag2mask.rib import RIBConfig
from tag2mask.runs.folder import StageFolder
from tag2mask.stages import localize as stage
from tag2mask.stages.localize import GPU_BATCH, LocalizeConfig, localize

HERE = Execution(device="cpu", processes=1, trace=2)
SHAPES = [(40, 48)] * 4 + [(48, 40)] * 2 + [(40, 48), (33, 37)]
TAGS = [(0,), (0, 1, 2), (2,), (1,), (0, 2), (1,), (1, 2), (0,)]
BROKEN = "photo 2"
CONFIG = LocalizeConfig(
    rib=RIBConfig.fast(scales=(1.0, 0.5), loss_scales=(1.0,), batch_size=2),
    gradient_images=1,
    partner_long_side_min=40,
    partner_long_side_max=48,
    partner_crop_size=48,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """Photos of three shapes, one of them broken behind its header, and a classifier with random weights."""
    folder = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    records = []
    for number, (shape, tags) in enumerate(zip(SHAPES, TAGS, strict=True)):
        path = folder / f"{number}.png"
        Image.fromarray(random.integers(0, 255, (*shape, 3), dtype=np.uint8)).save(path)
        records.append(ImageRecord(f"photo {number}", path, tags))
    broken = folder / "2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    trained = StageFolder(
        folder / "classifier", "train-classifier", config={"backbone": "test_efficientnet"}, seed=0, inputs={}
    )
    save_module(build_classifier("test_efficientnet", 3, "none"), trained.path / "weights.safetensors")
    trained.finish([], classes=["a", "b", "c"])
    return Dataset("photos", ("a", "b", "c"), tuple(records)), folder


@pytest.fixture(scope="module")
def alone(world: tuple[Dataset, Path]) -> Path:
    dataset, folder = world
    localize(dataset, folder / "classifier", folder / "alone", CONFIG, execution=HERE)
    return folder / "alone"


def sizes_of(monkeypatch: pytest.MonkeyPatch, most: int = 100) -> list[int]:
    """How many photos each batch has; more than `most` are too large for the memory."""
    sizes: list[int] = []
    batch = stage.rib_batch

    def recorded(classifier, photos, config):
        sizes.append(len(photos))
        if len(photos) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return batch(classifier, photos, config)

    monkeypatch.setattr(stage, "rib_batch", recorded)
    return sizes


def assert_same_maps(one: Path, other: Path) -> None:
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*.npz"))
    assert names == sorted(str(path.relative_to(other)) for path in other.rglob("*.npz"))
    assert sum(name.startswith("rib") for name in names) == len(SHAPES) - 1
    for name in names:
        if not name.startswith("traces"):
            before, after = load_maps(one / name), load_maps(other / name)
            assert list(before.classes) == list(after.classes)
            assert before.size == after.size
            for own, found in zip(before.sums, after.sums, strict=True):
                np.testing.assert_allclose(found, own, atol=2e-3 * max(1e-6, np.abs(own).max()), rtol=0)
    failed = [read_json(folder / "manifest.json")["images"][BROKEN] for folder in (one, other)]
    assert failed[0] == failed[1]
    assert failed[0]["status"] == "failed"


def test_maps_are_those_of_each_photo_alone(world, alone, tmp_path, monkeypatch) -> None:
    sizes = sizes_of(monkeypatch)
    dataset, folder = world
    config = dataclasses.replace(CONFIG, batch=4)
    localize(dataset, folder / "classifier", tmp_path / "maps", config, execution=HERE)
    assert sorted(sizes) == [2, 2]  # of the first shape's four the half with the broken one goes alone
    assert_same_maps(alone, tmp_path / "maps")


def test_a_run_resumes_with_another_batch(world, alone, tmp_path, monkeypatch) -> None:
    dataset, folder = world
    for batch, wanted in ((None, []), (3, [2])):
        sizes = sizes_of(monkeypatch)
        config = dataclasses.replace(CONFIG, batch=batch)
        localize(dataset, folder / "classifier", tmp_path / "maps", config, execution=HERE)
        assert sizes == wanted
        for number in (0, 3, 7):
            (tmp_path / "maps" / "rib" / f"photo {number}.npz").unlink(missing_ok=batch is not None)
    config = dataclasses.replace(CONFIG, batch=2, batch_memory=1000)
    localize(dataset, folder / "classifier", tmp_path / "maps", config, execution=HERE)
    assert_same_maps(alone, tmp_path / "maps")


def test_memory_bounds_the_batch_and_its_lack_halves_it(world, alone, tmp_path, monkeypatch) -> None:
    dataset, folder = world
    sizes = sizes_of(monkeypatch)
    config = dataclasses.replace(CONFIG, batch=8, batch_memory=1)
    localize(dataset, folder / "classifier", tmp_path / "bounded", config, execution=HERE)
    assert sizes == []  # even two photos need more
    good = dataclasses.replace(dataset, records=tuple(r for r in dataset.records if r.id != BROKEN))
    sizes = sizes_of(monkeypatch, most=2)
    config = dataclasses.replace(CONFIG, batch=8)
    localize(good, folder / "classifier", tmp_path / "halved", config, execution=HERE)
    assert sizes == [4, 2, 2, 2]
    assert not read_json(tmp_path / "halved" / "manifest.json")["images"].get(BROKEN)


def test_the_default_batches_on_a_gpu_only() -> None:
    assert [CONFIG.photos_together(device) for device in ("cpu", "cuda", "mps")] == [1, GPU_BATCH, 1]
    assert dataclasses.replace(CONFIG, batch=3).photos_together("cpu") == 3
    assert LocalizeConfig().photos_together("cuda") == 1  # its partners are photos
    assert LocalizeConfig(method="cam").photos_together("cuda") == GPU_BATCH
    assert LocalizeConfig(method="cam", batch=2).photos_together("cpu") == 2
    with pytest.raises(ConfigError, match=r"localize.batch is 2; expected 1 or null, unless rib.partners"):
        LocalizeConfig(batch=2)


# --- groups ------------------------------------------------------------------------------------------------


def test_groups_are_of_one_key_and_in_order() -> None:
    keys = {"a": 1, "b": 2, "c": 1, "d": 1, "e": 2, "g": 1}
    assert Grouping(2, keys).groups("abcdefg") == [("a", "c"), ("b", "e"), ("d", "g"), ("f",)]
    assert Grouping().groups("abc") == [("a",), ("b",), ("c",)]
    assert Grouping(2, keys).groups([]) == []


class Together:
    """Work on several images at once, of which "c" is broken and more than three are too many."""

    def __init__(self, out: Path | None = None) -> None:
        self.groups: list[Group] = []
        self.out = out

    def __call__(self, image_id: str) -> None:
        self.together((image_id,))

    def together(self, image_ids: Group) -> None:
        self.groups.append(image_ids)
        if len(image_ids) > 3:
            raise MemoryError
        if "c" in image_ids:
            raise DataError("c is broken")
        for image_id in image_ids:
            if self.out is not None:
                (self.out / image_id).write_text(str(len(image_ids)))


def test_what_fails_together_is_done_in_halves() -> None:
    work = Together()
    outcomes = attempt_group(work, tuple("abcdef"))
    assert outcomes == [(i, "c is broken" if i == "c" else "") for i in "abcdef"]
    assert work.groups == [tuple("abcdef"), tuple("abc"), ("a",), ("b", "c"), ("b",), ("c",), tuple("def")]


def test_a_bug_in_a_group_is_no_lack_of_memory() -> None:
    class Bug(Together):
        def together(self, image_ids: Group) -> None:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        attempt_group(Bug(), ("a", "b"))


@pytest.mark.parametrize("processes", [1, 2])
def test_groups_over_processes(tmp_path: Path, processes: int) -> None:
    folder = StageFolder(tmp_path / "stage", "localize", config={}, seed=0, inputs={})
    out = tmp_path / "out"
    out.mkdir()
    grouping = Grouping(3, dict.fromkeys("abdefg", 0) | {"c": 1})
    make: Callable[..., Together] = Together
    run_images("abcdefg", make, (out,), folder, processes=processes, total=7, description="work", grouping=grouping)
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys("abdefg", "3")
    assert folder.failures == {"c": "c is broken"}
