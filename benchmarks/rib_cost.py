"""What RIB costs, rung by rung: FLOPs, seconds and memory of one image, side by side in one run.

    python benchmarks/rib_cost.py [--size 500x375] [--steps 10] [--batch 20] [--backbone resnet50] [--threads 2]
    python benchmarks/rib_cost.py --run RUN --data DIR [--images 64] [--images-seed 1]    # adds fidelity
    python benchmarks/rib_cost.py --device cuda --precision bf16 --peak 989 --in-flight 1 2 4    # images a second

Each rung runs in a process of its own, so that its peak memory is its own. Weights are random: cost doesn't depend
on them, and nothing stops the run before its last step. The first rung is the plain transcription of the reference's
mathematics (tests/reference_model.py) under the allocator as the system has it; the others are the package.
Fidelity comes from real photos, the classifier of a finished run and the grid recipes/ablations/cost.yaml.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from reference_model import plain_rib  # noqa: E402
from tag2mask.common.memory import keep_freed_memory  # noqa: E402
from tag2mask.data.partners import PartnerIndex  # noqa: E402
from tag2mask.engine.cost import counted_flops  # noqa: E402
from tag2mask.networks import CAMClassifier, build_classifier  # noqa: E402
from tag2mask.networks.folding import fold_trunk  # noqa: E402
from tag2mask.networks.precision import computing_in  # noqa: E402
from tag2mask.rib import RIBConfig, TrunkFeatures, rib, stack_with_mirror  # noqa: E402

N_CLASSES = 20
TARGET = [3]
CROP = 512  # pixels, of a partner image
OPEN_END = {"limit": "none", "guard_share": 1.0}  # random weights say nothing about when to stop
RUNGS = {
    "plain transcription": "every image through the whole network at every step",
    "1 exact and lean": "target's frozen features once, batch norm folded, no unused graph or update, memory kept",
    "2 bank of partners": "and the partners' frozen features once for the set",
    "3a amortised": "their expected gradient once for the set; still all steps",
    "3b one searched step": "and one long step, whose length is searched, instead of nine",
    "plain CAM": "the four scales and mirrors alone, for comparison",
}


def main() -> None:
    """Print the table of rungs, then how cost grows, then fidelity where a run is given."""
    options = parse()
    if options.rung is not None:
        print(json.dumps(measure(options) if options.repeat is None else repeated(options)))
        return
    rows = {name: in_own_process(name, options) for name in RUNGS if name not in options.without}
    print_rungs(rows, options)
    print_index_growth()
    if not options.quick:
        print_size_growth(options)
    if options.in_flight:
        print_in_flight(options)
    if options.run is not None:
        print_fidelity(options)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="500x375", help="width x height of the image in pixels")
    parser.add_argument("--steps", type=int, default=10, help="K of the paper's schedule")
    parser.add_argument("--batch", type=int, default=20, help="partner images a step")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; the plain rung runs there too")
    parser.add_argument("--precision", default="32", choices=("32", "tf32", "bf16"))
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device's data sheet, for the share that is used")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--without", nargs="*", default=[], help="rungs to leave out")
    parser.add_argument("--quick", action="store_true", help="no table of image sizes")
    parser.add_argument("--run", type=Path, help="a finished run, for fidelity")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sizes", nargs="*", default=["250x188", "500x375", "1000x750"], help="of the last table")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--images-seed", type=int, default=1)
    parser.add_argument("--in-flight", type=int, nargs="*", default=[], help="processes that share the device")
    parser.add_argument("--images-each", type=int, default=20, help="images a process in that table")
    parser.add_argument("--rung", help=argparse.SUPPRESS)
    parser.add_argument("--repeat", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(rung: str, options: argparse.Namespace, size: str | None = None) -> dict:
    """Measure one rung in a fresh process."""
    done = subprocess.run(command_of(rung, options, size), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{rung}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def command_of(rung: str, options: argparse.Namespace, size: str | None = None) -> list[str]:
    """This program for one rung alone, with the same options."""
    command = [sys.executable, __file__, "--rung", rung, "--size", size or options.size]
    for name in ("steps", "batch", "backbone", "device", "precision", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    return command


# --- one rung ---------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> dict:
    """Seconds, FLOPs, peak memory and FLOPs a second of one rung on one image."""
    work = loaded(options)
    with computing_in(options.precision, options.device):
        work_once = work if options.device == "cpu" else warmed(work)
        started = time.perf_counter()
        flops = counted_flops(work_once)
        if options.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    if options.device != "cpu":
        return {"seconds": seconds, "flops": flops, "peak_mib": torch.cuda.max_memory_allocated() / 2**20}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    return {"seconds": seconds, "flops": flops, "peak_mib": peak}


def loaded(options: argparse.Namespace):
    """Set the process up and return the work of one image."""
    torch.set_num_threads(options.threads)
    if options.rung != "plain transcription":
        keep_freed_memory()
    classifier = build_classifier(options.backbone, N_CLASSES, "none").to(options.device)
    with computing_in(options.precision, options.device):
        return prepare(options.rung, classifier, options)


def repeated(options: argparse.Namespace) -> dict:
    """Warm up, say so, wait for a line, then do images one after the other."""
    work = loaded(options)
    with computing_in(options.precision, options.device):
        work()
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(options.repeat):
            work()
        if options.device != "cpu":
            torch.cuda.synchronize()
    return {"images": options.repeat}


def warmed(work):
    """Run once on a GPU before the clock starts: kernels are chosen and memory is taken."""
    work()
    torch.cuda.synchronize()
    return work


def prepare(rung: str, classifier: CAMClassifier, options: argparse.Namespace):
    """Return the work of one image; what is done once for the set is done here."""
    config = RIBConfig(steps=options.steps, batch_size=options.batch, precision=options.precision, **OPEN_END)
    views = views_of(options, config.scales)
    if rung == "plain transcription":
        reference = RIBConfig.reference(steps=options.steps, batch_size=options.batch, **OPEN_END)
        return lambda: plain_rib(classifier, views, TARGET, image_batches(reference.steps, options), reference)
    fold_trunk(classifier.backbone)
    if rung == "plain CAM":
        config = config.replace(steps=1, partners="none")
        return lambda: rib(classifier, views, TARGET, config=config)
    if rung == "1 exact and lean":
        return lambda: rib(classifier, views, TARGET, image_batches(config.updates, options), config)
    if rung == "2 bank of partners":
        bank = [
            (TrunkFeatures(torch.cat([classifier.trunk_features(image[None]) for image in images])), labels)
            for images, labels in image_batches(1, options)
        ]
        return lambda: rib(classifier, views, TARGET, bank * config.updates, config)
    size = sum(parameter.numel() for group in classifier.tuned_parameters() for parameter in group)
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 1e-6
    config = config.replace(partners="amortised")
    if rung == "3b one searched step":
        config = RIBConfig.fast(batch_size=options.batch, precision=options.precision)
    return lambda: rib(classifier, views, TARGET, config=config, partner_gradient=gradient)


def views_of(options: argparse.Namespace, scales: tuple[float, ...]) -> list[Tensor]:
    """An image of noise at every scale beside its mirror."""
    width, height = (int(side) for side in options.size.split("x"))
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(3, round(height * s), round(width * s), generator=generator) for s in scales]
    return [view.to(options.device) for view in stack_with_mirror(images)]


def image_batches(count: int, options: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of noise with one class each, another than the target's; made as they are asked for."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(count):
        labels = torch.zeros(options.batch, N_CLASSES)
        labels[:, 7] = 1
        images = torch.randn(options.batch, 3, CROP, CROP, generator=generator)
        yield images.to(options.device), labels.to(options.device)


# --- tables -----------------------------------------------------------------------------------------------


def print_rungs(rows: dict[str, dict], options: argparse.Namespace) -> None:
    """Print what each rung costs, and how many times less than the plain transcription."""
    print(
        f"One image of {options.size} pixels, {options.backbone} with random weights, K = {options.steps}, "
        f"B = {options.batch}, {options.device}, {options.threads} threads, {options.precision}\n"
    )
    plain = rows.get("plain transcription")
    share = " share of the peak |" if options.peak else ""
    print(f"| rung | TFLOP | times fewer | seconds | times faster | TFLOP/s | peak MiB |{share}")
    print("|---|---|---|---|---|---|---|" + "---|" * bool(share))
    for name, row in rows.items():
        fewer, faster = ("", "")
        if plain:
            fewer, faster = f"{plain['flops'] / row['flops']:.1f}", f"{plain['seconds'] / row['seconds']:.1f}"
        rate = row["flops"] / 1e12 / row["seconds"]
        used = f" {100 * rate / options.peak:.1f} % |" if options.peak else ""
        print(
            f"| {name} | {row['flops'] / 1e12:.2f} | {fewer} | {row['seconds']:.1f} | {faster} | {rate:.3f} "
            f"| {row['peak_mib']:.0f} |{used}"
        )
    print("\n" + "\n".join(f"{name}: {text}" for name, text in RUNGS.items() if name in rows))


def print_index_growth() -> None:
    """Print what it costs an image to get its partners, by the number of images in the index."""
    print("\nPartners of one image (200 drawn), by the number of images in the index (20 classes)\n")
    print("| images | rows looked at an image | ms an image | index built in s |\n|---|---|---|---|")
    for count in (100, 1_000, 10_582, 82_783):
        random = np.random.default_rng(0)
        labels = np.zeros((count, N_CLASSES), dtype=bool)
        for _ in range(2):
            labels[np.arange(count), random.integers(0, N_CLASSES, count)] = True
        started = time.perf_counter()
        index = PartnerIndex(labels, [f"{i:06d}" for i in range(count)])
        built = time.perf_counter() - started
        started = time.perf_counter()
        for i in range(50):
            index.sample(f"{i:06d}", 200, seed=0)
        spent = time.perf_counter() - started
        print(f"| {count} | {index.rows_touched / 50:.0f} | {spent / 50 * 1000:.2f} | {built:.2f} |")


def print_size_growth(options: argparse.Namespace) -> None:
    """Print what the last rung costs at other image sizes."""
    print("\nOne searched step, by the size of the image\n")
    print("| pixels | TFLOP | seconds | peak MiB |\n|---|---|---|---|")
    for size in options.sizes:
        row = in_own_process("3b one searched step", options, size)
        print(f"| {size} | {row['flops'] / 1e12:.2f} | {row['seconds']:.1f} | {row['peak_mib']:.0f} |")


def print_in_flight(options: argparse.Namespace) -> None:
    """Print how many images a second one device does with several processes at once."""
    print(f"\nOne searched step, processes that share the device, {options.images_each} images each\n")
    print("| processes | images a second | TFLOP/s |\n|---|---|---|")
    flops = in_own_process("3b one searched step", options)["flops"]
    for count in options.in_flight:
        command = [*command_of("3b one searched step", options), "--repeat", str(options.images_each)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        running = [subprocess.Popen(command, **pipes) for _ in range(count)]
        if any(process.stdout.readline().strip() != "ready" for process in running):
            sys.exit(f"one of {count} processes could not start")
        started = time.perf_counter()
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        if sum(process.wait() for process in running):
            sys.exit(f"one of {count} processes failed")
        rate = count * options.images_each / (time.perf_counter() - started)
        print(f"| {count} | {rate:.2f} | {rate * flops / 1e12:.3f} |")


def print_fidelity(options: argparse.Namespace) -> None:
    """Print what each rung is worth on real photos."""
    from tag2mask.experiments.ablation import ablate, markdown

    if options.data is None:
        sys.exit("--run needs --data DIR, the run's data set")
    with tempfile.TemporaryDirectory() as folder:
        table = ablate(
            options.run, options.data, "cost", Path(folder), images=options.images, images_seed=options.images_seed
        )
    print("\nFidelity\n\n" + markdown(table))


if __name__ == "__main__":
    main()
