"""Where and how wide work runs; light, so that saying "cpu" doesn't load a training framework."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tag2mask.common.errors import ConfigError


@dataclass(frozen=True)
class Cluster:
    """Workers on a Ray cluster for single images."""

    address: str  # "local" starts one on this machine, "auto" joins the one that runs here, or HOST:PORT
    actors: int = 0  # 0 = one a CPU, or one a GPU
    gpus: int = 0  # that each actor gets


@dataclass(frozen=True)
class Execution:
    """Where and how wide the work runs: no part of a stage's fingerprint.

    All but `device` and `precision` leave results as they are; those two go into the manifest of a training, and a
    training that was begun in one precision doesn't go on in another.
    """

    device: str = "auto"  # Fabric accelerator: "auto", "cpu", "cuda", "mps"
    devices: int = 1  # how many of them train together
    precision: str = "32-true"  # Fabric precision
    workers: int = 1  # processes that load images while training
    processes: int = 0  # processes that localise and refine images; 0 = one a CPU core
    trace: int = 24  # how many images get a trace of the RIB steps, for the report
    ray: str | None = None  # spread single images over a Ray cluster: "local", "auto" or HOST:PORT

    def cluster(self, device: object = "cpu") -> Cluster | None:
        """The Ray cluster for single images on such a device, or None: this machine's processes."""
        if self.ray is None:
            return None
        return Cluster(self.ray, self.processes, gpus=int(str(device).startswith("cuda")))


def resolve_device(asked: str) -> torch.device:
    """The device for work on single images: as asked, or the GPU where there is one; ConfigError without it."""
    found = torch.cuda.is_available()
    if asked == "auto":
        return torch.device("cuda" if found else "cpu")
    try:
        device = torch.device("cuda" if asked == "gpu" else asked)
    except RuntimeError as error:
        raise ConfigError(f"--device {asked}: not known; use auto, cpu, cuda or mps") from error
    if (device.type == "cuda" and not found) or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise ConfigError(f"--device {asked}: PyTorch {torch.__version__} finds none here; use auto or cpu")
    return device


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Run with `count` threads inside torch's operations, then restore: sums don't depend on the machine's width."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
