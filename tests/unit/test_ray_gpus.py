"""Workers of a Ray cluster and its GPUs: one each. Ray only counts GPUs, so CPU processes stand in for them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from ray_work import WhichGPU
from tag2mask.engine import ray_cluster
from tag2mask.engine.execution import Cluster, Execution
from tag2mask.engine.images import Grouping, run_images
from tag2mask.runs.folder import StageFolder

IDS = [f"image{number}" for number in range(16)]
GPUS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of this machine that believes in two GPUs, asked for as a stage on a GPU asks for it."""
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    asked = Execution(device="cuda", ray="local").cluster("cuda")
    assert asked == Cluster("local", gpus=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)  # workers import ray_work
        ray = ray_cluster._import_ray(asked)
        size = {"num_cpus": 4, "num_gpus": GPUS, "object_store_memory": ray_cluster.OBJECT_STORE}
        ray_cluster._start_here(
            ray, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False, **size
        )
        yield asked
        ray.shutdown()


@pytest.mark.parametrize("together", [1, 3])
def test_each_worker_has_a_gpu_of_its_own(cluster: Cluster, tmp_path: Path, together: int) -> None:
    folder = StageFolder(tmp_path / "stage", "localize", config={}, seed=0, inputs={})
    out = tmp_path / "out"
    out.mkdir()
    more = {"processes": 1, "total": len(IDS), "description": "work", "cluster": cluster}
    grouping = Grouping(together, dict.fromkeys(IDS, "one shape"))
    run_images(IDS, WhichGPU, (out,), folder, grouping=grouping, **more)  # type: ignore[arg-type]
    seen = [(out / image_id).read_text().split() for image_id in IDS]
    workers = {pid: gpu for gpu, pid, _ in seen}
    assert sorted(workers.values()) == ["0", "1"]  # two processes, a GPU each
    assert {(gpu, pid) for gpu, pid, _ in seen} == {(gpu, pid) for pid, gpu in workers.items()}
    assert [int(count) for _, _, count in seen] == ([1] * 16 if together == 1 else [3] * 15 + [1])
    assert not folder.failures
