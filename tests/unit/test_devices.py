"""What works on the device it is given, seen with torch's device without memory and with doubles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.accelerators.cuda import CUDAAccelerator
from refine_world import make_world

from tag2mask.data import LocalizationMaps
from tag2mask.engine import loop
from tag2mask.engine.execution import Execution
from tag2mask.networks import build_boundary_network
from tag2mask.refine import methods
from tag2mask.refine import pamr as pamr_module
from tag2mask.refine.feature_affinity import spread
from tag2mask.refine.pamr import refine_probabilities
from tag2mask.refine.pseudo import refined_labels
from tag2mask.stages import confident as confident_stage
from tag2mask.stages import refine as refine_stage
from tag2mask.stages import walk as walk_stage
from tag2mask.stages.affinity import AffinityStageConfig, Follower
from tag2mask.stages.confident import ConfidentConfig, confident
from tag2mask.stages.refine import RefineConfig, refine
from tag2mask.stages.walk import WalkConfig, walked

IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
META = torch.device("meta")


def test_pamr_stays_on_its_device() -> None:
    assert refine_probabilities(torch.rand(3, 8, 9, device=META), torch.rand(2, 8, 9, device=META)).is_meta


def test_affinity_stays_on_its_device(tmp_path: Path) -> None:
    config = AffinityStageConfig(backbone="test_resnet", weights="none")
    follower = Follower({}, tmp_path, tmp_path, ["cam"], config, device="meta")
    looks, grid = follower.looks(IMAGE)
    assert looks.is_meta
    assert spread(torch.rand(2, *grid, device=META), looks, config).is_meta


def test_the_walk_starts_on_its_networks_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_stage, "random_walk", lambda maps, edge, **_: maps + edge)
    network = build_boundary_network("resnet18", "none").to(META)
    maps = LocalizationMaps(np.array([1]), (48, 64), (1.0,), [np.ones((1, 3, 4), np.float32)])
    edge, found = walked(network, IMAGE, maps, WalkConfig(), pad_to=64)
    assert edge.is_meta
    assert found.is_meta


def test_a_method_gets_the_device_only_where_it_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    pamr = pamr_module.pamr
    monkeypatch.setattr(pamr_module, "pamr", lambda *given, device: seen.append(device) or pamr(*given))
    maps = np.zeros((1, 48, 64), np.float32)
    for method in ("pamr", "none"):
        refined_labels(IMAGE, maps, np.array([0]), 0.3, method, "cuda:0")
        methods.sharpened(IMAGE, np.full((2, 48, 64), 0.5, np.float32), method, "cuda:1")
    assert seen == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("method", "device", "processes"), [("pamr", "cuda", 2), ("none", "cpu", 1), ("crf", "cpu", 1)]
)
def test_stages_hand_the_device_to_what_takes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, device: str, processes: int
) -> None:
    if not methods.METHODS[method].available():
        pytest.skip(f"{method} is not installed")
    dataset, localization = make_world(tmp_path, images=17)
    seen: list[tuple[Any, ...]] = []

    def run_images(todo, make_work, arguments, folder, *, processes, cluster, here_first, **_):
        seen.append((device in arguments, processes == wanted, here_first))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for place in (refine_stage, confident_stage):
        monkeypatch.setattr(place, "run_images", run_images)
    wanted = processes if device == "cuda" else refine_stage.process_count(0, 17)
    execution = Execution(device="cuda", trace=0)
    refine(dataset, localization, tmp_path / "masks", RefineConfig(maps="cam", method=method), execution=execution)
    config = ConfidentConfig(refinement=method, scale="own")
    confident(dataset, localization, tmp_path / "labels", config, maps="cam", execution=execution)
    assert seen == [(True, True, device == "cpu")] * 2


def test_training_on_several_gpus_gives_each_process_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the strategy that Fabric chooses: process r of this machine trains on GPU r."""
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: 4))
    monkeypatch.setattr("lightning_fabric.accelerators.cuda.num_cuda_devices", lambda: 4)
    monkeypatch.setattr("lightning_fabric.accelerators.cuda._get_all_visible_cuda_devices", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(
        "lightning_fabric.utilities.device_parser._get_all_available_cuda_gpus", lambda: [0, 1, 2, 3], raising=False
    )
    strategy: Any = loop._fabric(Execution(device="cuda", devices=4)).strategy
    seen = []
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        strategy._local_rank = rank
        seen.append(strategy.root_device)
    assert [str(device) for device in strategy.parallel_devices] == [f"cuda:{rank}" for rank in range(4)]
    assert seen == strategy.parallel_devices
