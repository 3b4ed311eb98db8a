"""What each backbone costs: operations, seconds and memory of one photo's CAM and of its RIB in one searched step.

    python benchmarks/backbones.py [--sizes 320x240 512x384] [--threads 2] [--networks NAME ...]

Names are those of `--set backbone=NAME`. Weights are random, so nothing has to be fetched; the classifier's are made so
that its maps have peaks, as trained ones have. Every network and size is measured in a process of its own, RIB first,
so that its peak memory is its own; that of Python and torch alone, about 300 MiB, is in it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import timm
import torch

from tag2mask.common.memory import keep_freed_memory
from tag2mask.engine.cost import counted_flops
from tag2mask.networks import CAMClassifier, build_classifier
from tag2mask.networks.folding import fold_trunk
from tag2mask.presets import PRESETS
from tag2mask.rib import RIBConfig, rib, stack_with_mirror

NETWORKS = [
    "efficientnet_lite0",
    "efficientnet_b0",
    "mobilenetv3_large",
    "mobilenetv4_medium",
    "regnety_016",
    "resnet50",
    "resnext50",
    "hrnet_w18",
    "convnext_tiny",
    "swin_tiny",
    "deit_small",
    "dinov2_small",
    "dinov3_small",
    "clip_base",
]
N_CLASSES = 20
PRESENT = [3]
MEGABYTE = 1e6


def main() -> None:
    """Print a table for each size."""
    options = parse()
    if options.one is not None:
        print(json.dumps(measure(*options.one, options.threads)))
        return
    print(f"{options.threads} threads, torch {torch.__version__}, timm {timm.__version__}, random weights\n")
    for size in options.sizes:
        print(f"One photo of {size} pixels\n")
        print("| backbone | weights MB | licence | CAM GFLOP | RIB GFLOP | RIB / CAM | CAM s | RIB s | RIB peak MiB |")
        print("|---|---|---|---|---|---|---|---|---|")
        for name in options.networks:
            print(line_of(name, in_own_process(name, size, options.threads)), flush=True)
        print()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["320x240", "512x384"], help="width x height in pixels")
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(name: str, size: str, threads: int) -> dict[str, Any]:
    """Measure one network at one size in a fresh process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--one", name, size]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {(done.stderr.strip().splitlines() or [done.returncode])[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, size: str, threads: int) -> dict[str, Any]:
    """Operations, seconds and peak memory of one photo."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    timms = PRESETS.get(name, name)
    classifier = build_classifier(timms, N_CLASSES, "none")
    weights = sum(parameter.numel() for parameter in classifier.backbone.parameters()) * 4 / MEGABYTE
    fold_trunk(classifier.backbone)
    width, height = (int(side) for side in size.split("x"))
    generator = torch.Generator().manual_seed(1)
    config = RIBConfig.fast(partners="none", channels_last=True)
    sizes = [(round(height * scale), round(width * scale)) for scale in config.scales]
    views = stack_with_mirror([torch.randn(3, *side, generator=generator) for side in sizes])
    with_peaks(classifier, views[0])
    found: dict[str, Any] = {"weights": weights, "licence": timm.get_pretrained_cfg(timms).license or "not stated"}
    once = config.replace(steps=1)
    for kind, settings in (("rib", config), ("cam", once)):
        found |= timed(kind, lambda settings=settings: rib(classifier, views, PRESENT, config=settings))
    return found


@torch.no_grad()
def with_peaks(classifier: CAMClassifier, view: torch.Tensor) -> None:
    """Take from each class's weights what speaks for the photo's mean feature, so that its map isn't flat."""
    weight = classifier.classifier.weight
    mean = classifier.backbone(view).mean(dim=(0, 2, 3))[:, None, None]
    weight -= (weight * mean).sum(dim=1, keepdim=True) * mean / mean.square().sum()


def timed(kind: str, work: Callable[[], object]) -> dict[str, float]:
    """Operations and seconds of one run, and the peak memory so far."""
    started = time.perf_counter()
    flops = counted_flops(work)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    return {f"{kind}_seconds": seconds, f"{kind}_peak": peak, f"{kind}_flops": flops}


def line_of(name: str, row: dict[str, Any]) -> str:
    """One line of the table."""
    ratio = row["rib_flops"] / row["cam_flops"]
    return (
        f"| {name} | {row['weights']:.0f} | {row['licence']} | {row['cam_flops'] / 1e9:.0f} "
        f"| {row['rib_flops'] / 1e9:.0f} | {ratio:.1f} | {row['cam_seconds']:.1f} | {row['rib_seconds']:.1f} "
        f"| {row['rib_peak']:.0f} |"
    )


if __name__ == "__main__":
    main()
