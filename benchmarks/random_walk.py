"""The random walk by matrix, as the reference computes it, against the sparse one: seconds, memory, difference.

    python benchmarks/random_walk.py [--images DIR] [--boundary WEIGHTS --backbone NAME] [--size 94x125]

At 94x125 (a 500x375 photo at stride 4) the dense row takes a minute or two and 2 to 3 GB for each edge map; try
`--size 40x50` first. Each row runs in a process of its own. Memory is the growth of its peak resident size over what
it had before the walk. Sparse rows are the median of three runs, dense rows one. "difference" is the largest between
the row's maps and the dense row's, which are in float32; "float64" compares with the dense walk in double precision,
where `--double` asks for it (it takes twice the time and memory again). Denormal numbers are flushed to zero in the
dense rows, which is what makes them as fast as they are. The edge maps are a synthetic one, the gradient of the
first photo in DIR, and that photo's edges by a trained boundary network, where one is given.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tag2mask.common.memory import keep_freed_memory
from tag2mask.data.images import decode_image
from tag2mask.data.transforms import normalise
from tag2mask.networks import build_boundary_network, load_module
from tag2mask.refine.random_walk import random_walk

HERE = Path(__file__).resolve()
SHARED = Path(os.environ.get("TAG2MASK_SHARED", HERE.parents[2] / "shared"))
RUNS = 3  # of each sparse row
Array = np.ndarray


@dataclass(frozen=True)
class Row:
    """What one process measured."""

    maps: Array
    seconds: float
    megabytes: float


def measure(method: str, maps: Array, edge: Array, threads: int) -> Row:
    """Run one walk in this process, which should be a fresh one."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    inputs = torch.from_numpy(maps), torch.from_numpy(edge)
    if method.startswith("dense"):
        torch.set_flush_denormal(True)
        sys.path.insert(0, str(HERE.parents[1] / "tests"))
        from dense_walk import dense_random_walk as walk

        if "float64" in method:
            inputs = inputs[0].double(), inputs[1].double()
        options: dict = {}
    else:
        walk, options = random_walk, {"method": method}
        random_walk(torch.rand(1, 8, 8), torch.zeros(8, 8))  # what is loaded once
    before = resident("VmRSS")
    seconds = []
    for _ in range(1 if method.startswith("dense") else RUNS):
        start = time.perf_counter()
        walked = walk(*inputs, **options)
        seconds.append(time.perf_counter() - start)
    return Row(walked.numpy(), statistics.median(seconds), resident("VmHWM") - before)


def resident(key: str) -> float:
    """Resident size in MB of this process, now (VmRSS) or at its peak (VmHWM); NaN where there is no /proc.

    `resource` counts what the parent had when it started this process.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key)]
    return found[0] if found else float("nan")


def alone(*arguments: object) -> Row:
    """`measure` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def synthetic_maps(n: int, size: tuple[int, int]) -> Array:
    """n smooth seeds (n, h, w) in 0..1, to the power of 1.3."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, n, 6, 8, generator=generator) ** 3
    maps = F.interpolate(coarse, size, mode="bicubic", align_corners=False)[0].clamp(0, 1)
    return (maps / maps.amax(dim=(1, 2), keepdim=True)).pow(1.3).numpy()


def synthetic_edge(size: tuple[int, int]) -> Array:
    """Outlines of smooth random areas, and weak noise, (h, w) in 0..1."""
    generator = torch.Generator().manual_seed(1)
    field = F.interpolate(torch.rand(1, 1, 9, 12, generator=generator), size, mode="bicubic", align_corners=False)
    areas = (field[0, 0] * 5).floor()
    outlines = (areas != areas.roll(1, 0)) | (areas != areas.roll(1, 1))
    return (outlines * 0.9 + 0.1 * torch.rand(size, generator=generator)).clamp(0, 1).numpy()


def photo_at(path: Path, size: tuple[int, int]) -> Array:
    """A photo, (4 h, 4 w, 3) uint8."""
    photo = torch.from_numpy(decode_image(path).copy()).permute(2, 0, 1)[None].float()
    wanted = (4 * size[0], 4 * size[1])
    scaled = F.interpolate(photo, wanted, mode="bilinear", align_corners=False, antialias=True)
    return scaled[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def gradient_edge(photo: Array) -> Array:
    """Size of the grey value's gradient at stride 4, (h, w), 1 from its 99th percentile on."""
    grey = F.avg_pool2d(torch.from_numpy(photo).float().mean(dim=2)[None, None], 4)[0, 0]
    rows, columns = torch.gradient(grey)
    strength = (rows.square() + columns.square()).sqrt()
    return (strength / torch.quantile(strength.flatten()[:1_000_000], 0.99)).clamp(0, 1).numpy()


def network_edge(photo: Array, backbone: str, weights: Path) -> Array:
    """Edges of a trained boundary network, (h, w)."""
    network = build_boundary_network(backbone, "none")
    load_module(network, weights)
    image = torch.from_numpy(normalise(photo)).permute(2, 0, 1)[None]
    return network.infer(torch.cat([image, image.flip(-1)]))[0].numpy()


def edge_maps(options: argparse.Namespace, size: tuple[int, int]) -> dict[str, Array]:
    """Every edge map that can be made here, by name."""
    edges = {"synthetic": synthetic_edge(size)}
    photos = [p for p in sorted(options.images.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png")]
    if photos:
        photo = photo_at(photos[0], size)
        edges[f"gradient of {photos[0].name}"] = gradient_edge(photo)
        if options.boundary:
            edges[f"network on {photos[0].name}"] = network_edge(photo, options.backbone, options.boundary)
    return edges


def show(name: str, size: tuple[int, int], method: str, row: Row, dense: Row | None, exact: Row | None) -> None:
    """Print one line of the table."""
    ratio = f"{dense.seconds / row.seconds:.0f}x" if dense else ""
    difference = f"{np.abs(row.maps - dense.maps).max():.1e}" if dense and row is not dense else ""
    double = f"{np.abs(row.maps - exact.maps).max():.1e}" if exact and row is not exact else ""
    print(
        f"{name[:28]:<28} {size[0]:>4}x{size[1]:<5}{method:<14}{row.seconds:>9.3f} {ratio:>7} {row.megabytes:>8.0f} "
        f"{difference:>10} {double:>8}",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SHARED / "voc_animals", help="a folder with photos")
    parser.add_argument("--boundary", type=Path, help="a boundary network's weights.safetensors")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="the backbone that network is on")
    parser.add_argument("--size", default="94x125", help="height x width at stride 4, with the dense walk")
    parser.add_argument("--large", default="750x1000", help="height x width at stride 4, sparse only; 0x0 for none")
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--double", action="store_true", help="also the dense walk in float64")
    options = parser.parse_args()
    small, large = (tuple(int(side) for side in text.split("x")) for text in (options.size, options.large))
    print(
        f"radius 5, beta 10, 256 steps, {options.classes} maps, "
        f"{options.threads} thread(s), torch {torch.__version__}"
    )
    print(
        f"{'edge map':<28} {'size':<10}{'method':<14}{'seconds':>9} {'ratio':>7} {'MB':>8} "
        f"{'difference':>10} {'float64':>8}"
    )
    for size in (small, large):
        maps = synthetic_maps(options.classes, size) if min(size) else None
        for name, edge in edge_maps(options, size).items() if maps is not None else ():
            rows: dict[str, Row] = {}
            dense = ["dense"] + ["dense float64"] * options.double if size == small else []
            for method in [*dense, "power", "chebyshev"]:
                rows[method] = alone(method, maps, edge, options.threads)
            for method, row in rows.items():
                show(name, size, method, row, rows.get("dense"), rows.get("dense float64"))


if __name__ == "__main__":
    main()
