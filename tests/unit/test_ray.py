"""Single images over a Ray cluster: the files of one process, whatever dies on the way."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_work import NoWork, Work
from tag2mask.common.errors import ConfigError, MissingExtraError
from tag2mask.common.files import read_json
from tag2mask.data import Dataset, ImageRecord
from tag2mask.engine import ray_cluster
from tag2mask.engine.execution import Cluster, Execution
from tag2mask.engine.images import run_images
from tag2mask.engine.ray_worker import Checks
from tag2mask.networks import build_classifier, save_module
from tag2mask.rib import RIBConfig
from tag2mask.runs.folder import StageFolder, versions
from tag2mask.stages.localize import LocalizeConfig, localize

IDS = [f"image{number}" for number in range(8)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of this machine, started as --ray local starts one, and kept for all tests."""
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    local = Cluster("local", actors=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)  # workers import ray_work
        ray = ray_cluster._import_ray(local)
        ray_cluster._connect(ray, local, len(IDS))
        yield local
        ray.shutdown()


def folder_in(path: Path) -> StageFolder:
    return StageFolder(path, "refine", config={}, seed=0, inputs={})


def test_a_local_cluster_listens_to_this_machine_only(cluster: Cluster) -> None:
    import ray

    assert [name for name in ray.cluster_resources() if name.startswith("node:1")] == ["node:127.0.0.1"]


def test_dead_workers_images_are_done_again(cluster: Cluster, tmp_path: Path) -> None:
    stage, out = folder_in(tmp_path / "stage"), tmp_path / "out"
    out.mkdir()
    run_images(IDS, Work, (out,), stage, processes=1, total=len(IDS), description="work", cluster=cluster)
    done = {path.name: path.read_text().split() for path in out.iterdir() if path.name != "died"}
    assert set(done) == set(IDS) - {"image1", "image4"}
    again = [pids for pids in done.values() if len(pids) > 1]
    assert len(again) <= 2  # done, but its worker died before it could say so
    assert len({pids[0] for pids in done.values()}) >= 2
    assert set(stage.failures) == {"image1", "image4"}
    assert stage.failures["image1"] == "image1.jpg: broken"
    assert "died twice" in stage.failures["image4"]
    assert [path.name for path in stage.path.iterdir()] == ["manifest.json"]  # nothing is left behind


def test_an_error_on_a_node_names_it(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^node \S+ \(pid \d+\): .*tag2mask\[crf\]"):
        list(ray_cluster.spread(IDS, NoWork, (), folder_in(tmp_path), replace(cluster, actors=1)))


def test_localization_is_that_of_one_process_byte_for_byte(cluster: Cluster, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    records = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 255, (40 + number, 48, 3), dtype=np.uint8)).save(path)
        records.append(ImageRecord(f"photo {number}", path, (number % 3,)))
    (tmp_path / "2.png").write_bytes(b"broken")
    dataset = Dataset("photos", ("a", "b", "c"), tuple(records))
    trained = StageFolder(
        tmp_path / "classifier", "train-classifier", config={"backbone": "efficientnet_lite0"}, seed=0, inputs={}
    )
    save_module(build_classifier("efficientnet_lite0", 3, "none"), trained.path / "weights.safetensors")
    trained.finish([], classes=list(dataset.classes))
    rib = RIBConfig(steps=2, batch_size=2, scales=(1.0, 0.5), loss_scales=(1.0,))
    config = LocalizeConfig(rib=rib, partner_long_side_min=40, partner_long_side_max=48, partner_crop_size=48)
    files, states = {}, {}
    for name, address in (("one", None), ("ray", "local")):
        execution = Execution(device="cpu", processes=2 if address else 1, trace=1, ray=address)
        localize(dataset, trained.path, tmp_path / name, config, execution=execution)
        found = sorted((tmp_path / name).rglob("*.npz"))
        files[name] = {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in found}
        states[name] = read_json(tmp_path / name / "manifest.json")["images"]
    assert len(files["one"]) == 2 * 4 + 1
    assert files["one"] == files["ray"]
    assert states["one"] == states["ray"]
    assert states["ray"]["photo 2"]["status"] == "failed"


def test_a_cluster_without_gpus_is_named(cluster: Cluster, tmp_path: Path) -> None:
    import ray

    if not ray.cluster_resources().get("GPU"):
        with pytest.raises(ConfigError, match="has no GPU"):
            list(ray_cluster.spread(IDS, Work, (tmp_path,), folder_in(tmp_path / "s"), replace(cluster, gpus=1)))


def test_a_node_must_share_files_and_versions(tmp_path: Path) -> None:
    token, photo = tmp_path / "token", tmp_path / "photo.jpg"
    checks = Checks(token, tmp_path, versions(), (photo,))
    with pytest.raises(ConfigError, match=r"node n7 doesn't see .*must share that folder"):
        checks.check("n7")
    token.touch()
    with pytest.raises(ConfigError, match=r"node n7 doesn't see .*photo.jpg"):
        checks.check("n7")
    photo.touch()
    checks.check("n7")
    with pytest.raises(ConfigError, match=r"node n7 has numpy .*the driver 0.1"):
        replace(checks, versions={"numpy": "0.1"}).check("n7")
    assert {path.name for path in tmp_path.iterdir()} == {"token", "photo.jpg"}


def test_witnesses_are_what_the_driver_sees(tmp_path: Path) -> None:
    records = [ImageRecord(f"{n}", tmp_path / f"{n}.jpg", (0,)) for n in range(9)]
    for record in records[1:]:
        record.path.touch()
    dataset = Dataset("d", ("a",), tuple(records))
    arguments = (tmp_path, tmp_path / "not yet", dataset, {r.id: r for r in records}, 3, {"a": 1})
    found = list(ray_cluster._witnesses(arguments))
    assert found == [tmp_path, *(r.path for r in records[1:5]), *(r.path for r in records[1:5])]


def test_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"tag2mask\[ray\]"):
        list(ray_cluster.spread(IDS, Work, (tmp_path,), folder_in(tmp_path), Cluster("local")))
    assert list(ray_cluster.spread([], Work, (tmp_path,), folder_in(tmp_path), Cluster("local"))) == []


@pytest.mark.parametrize("address", ["photos", "ray://head:10001"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ConfigError, match="expected local, auto or HOST:PORT"):
        ray_cluster.check_cluster(Cluster(address))


@pytest.mark.parametrize("address", ["auto", "head:6379"])
def test_addresses_where_nobody_is(address: str) -> None:
    def init(*_: Any, **__: Any) -> None:
        raise ConnectionError("nobody\nthere")

    with pytest.raises(ConfigError, match="ray start --head"):
        ray_cluster._connect(SimpleNamespace(init=init), Cluster(address), 1)


def test_a_busy_machine_gets_a_second_try() -> None:
    tries: list[str] = []

    def init(address: str, **_: Any) -> None:
        tries.append(address)
        if len(tries) < 3:
            raise Exception("The current node timed out during startup.")

    ray = SimpleNamespace(init=init, shutdown=lambda: None)
    with pytest.raises(ConfigError, match="didn't start on this machine: The current node timed out"):
        ray_cluster._connect(ray, Cluster("local"), 1)
    ray_cluster._connect(ray, Cluster("local"), 1)
    assert tries == ["local"] * 3
