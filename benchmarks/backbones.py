"""What each backbone costs: operations, seconds and memory of one photo's CAM and of its RIB in one searched step.

    python benchmarks/backbones.py [--sizes 320x240 512x384] [--networks NAME ...] [--threads 2] [--count]

Names are those of `--set backbone=NAME`. Operations are counted on shapes alone, which takes no time: of a step whose
length is found in two looks. Seconds (of processors, all threads together, so that a busy machine doesn't lengthen
them) and peak memory are measured, every network and size in a process of its own; Python and torch alone are about
300 MiB of it. `--count` leaves them out. Weights are random, so nothing has to be fetched; the classifier's are made
so that its maps have peaks, as trained ones have.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import timm
import torch

from tag2mask.common.memory import keep_freed_memory
from tag2mask.engine.cost import counted_flops
from tag2mask.networks import CAMClassifier, build_classifier
from tag2mask.networks.folding import fold_trunk
from tag2mask.presets import PRESETS
from tag2mask.rib import RIBConfig, rib, stack_with_mirror, tuned
from tag2mask.rib.step import present_loss

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
LOOKS = 2  # of the search for a step's length, counted; up to 5 are taken
MEGABYTE = 1e6


def main() -> None:
    """Print a table for each size."""
    options = parse()
    if options.one is not None:
        print(json.dumps(measure(*options.one, options.threads)))
        return
    print(f"{options.threads} threads, torch {torch.__version__}, timm {timm.__version__}, random weights\n")
    measured = "" if options.count else " CAM s | RIB s | peak MiB |"
    for size in options.sizes:
        print(f"One photo of {size} pixels\n")
        print(f"| backbone | weights MB | tuned | licence | CAM GFLOP | RIB GFLOP | RIB / CAM |{measured}")
        print("|---|---|---|---|---|---|---|" + "---|" * measured.count("|"))
        for name in options.networks:
            row = counted(name, size)
            if not options.count:
                row |= in_own_process(name, size, options.threads)
            print(line_of(name, row), flush=True)
        print()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["320x240", "512x384"], help="width x height in pixels")
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--count", action="store_true", help="operations alone: nothing is run")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(name: str, size: str, threads: int) -> dict[str, Any]:
    """Measure one network at one size in a fresh process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--one", name, size]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {(done.stderr.strip().splitlines() or [done.returncode])[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def settings() -> RIBConfig:
    """One searched step on the photo alone."""
    return RIBConfig.fast(partners="none", channels_last=True)


def views_of(size: str, scales: Sequence[float], device: str = "cpu") -> list[torch.Tensor]:
    """A photo of noise at every scale beside its mirror."""
    width, height = (int(side) for side in size.split("x"))
    generator = torch.Generator().manual_seed(1)
    sides = [(round(height * scale), round(width * scale)) for scale in scales]
    return stack_with_mirror([torch.randn(3, *side, generator=generator).to(device) for side in sides])


def counted(name: str, size: str) -> dict[str, Any]:
    """Size and licence of the weights, and operations of CAM and of RIB, on shapes without values."""
    config, timms = settings(), PRESETS.get(name, name)
    with torch.device("meta"):
        classifier = build_classifier(timms, N_CLASSES, "none")
    views = views_of(size, config.scales, "meta")
    halves = (classifier.backbone.trunk, classifier.backbone.head)
    trunk, head = (sum(parameter.numel() for parameter in half.parameters()) for half in halves)
    features: list[torch.Tensor] = []
    frozen = counted_flops(lambda: features.extend(classifier.trunk_features(view) for view in views))
    maps = [counted_flops(lambda given=given: classifier.class_maps(given)) for given in features]
    with tuned(classifier):
        learning = counted_flops(lambda: backward(classifier, features, config))
    return {
        "weights": (trunk + head) * 4 / MEGABYTE,
        "tuned": head / (trunk + head),
        "licence": timm.get_pretrained_cfg(timms).license or "not stated",
        "cam_flops": frozen + sum(maps),
        "rib_flops": frozen + learning + maps[0] * LOOKS + sum(maps),
    }


def backward(classifier: CAMClassifier, features: list[torch.Tensor], config: RIBConfig) -> None:
    """The maps of the first step, and the gradient of its loss."""
    classes = torch.tensor(PRESENT, device=features[0].device)
    for given, scale in zip(features, config.scales, strict=True):
        with torch.set_grad_enabled(scale in config.loss_scales):
            maps = classifier.class_maps(given)[:, PRESENT]
            if scale in config.loss_scales:
                present_loss(maps, classes, config)[1].backward()


def measure(name: str, size: str, threads: int) -> dict[str, Any]:
    """Seconds and peak memory of one photo."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    classifier = build_classifier(PRESETS.get(name, name), N_CLASSES, "none")
    fold_trunk(classifier.backbone)
    config = settings()
    views = views_of(size, config.scales)
    with_peaks(classifier, views[0])
    once = config.replace(steps=1)
    started = time.process_time()
    rib(classifier, views, PRESENT, config=once)
    between = time.process_time()
    rib(classifier, views, PRESENT, config=config)
    seconds = {"cam_seconds": between - started, "rib_seconds": time.process_time() - between}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    return seconds | {"peak": peak}


@torch.no_grad()
def with_peaks(classifier: CAMClassifier, view: torch.Tensor) -> None:
    """Take from each class's weights what speaks for the photo's mean feature, so that its map isn't flat."""
    weight = classifier.classifier.weight
    mean = classifier.backbone(view).mean(dim=(0, 2, 3))[:, None, None]
    weight -= (weight * mean).sum(dim=1, keepdim=True) * mean / mean.square().sum()


def line_of(name: str, row: dict[str, Any]) -> str:
    """One line of the table."""
    line = (
        f"| {name} | {row['weights']:.0f} | {100 * row['tuned']:.0f} % | {row['licence']} "
        f"| {row['cam_flops'] / 1e9:.0f} | {row['rib_flops'] / 1e9:.0f} | {row['rib_flops'] / row['cam_flops']:.1f} |"
    )
    if "peak" not in row:
        return line
    return f"{line} {row['cam_seconds']:.1f} | {row['rib_seconds']:.1f} | {row['peak']:.0f} |"


if __name__ == "__main__":
    main()
