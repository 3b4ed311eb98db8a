"""What the reference's COCO slip costs: GNDRP that covers only the first 20 classes, on real photos.

    python benchmarks/coco_slip.py DIR [--k 4] [--images 480] [--localized 96] [--out runs/coco_slip]

DIR is in VOC layout with labels.csv. A set of more than 20 classes is made from its six: the photos of a class are
split into k visual sub-classes (k-means on ImageNet features of EfficientNet-Lite0; labels only), so 24 classes with
k = 4 and 78 with k = 13. A classifier is trained on them as the recipe voc_animals trains its own. A class-balanced
subset is localized by RIB in three scheduled steps with batches of partners, with GNDRP over all classes, over 20,
and over a quarter of them, the share that COCO gets (20 of 80). All rows use the learning rate that was calibrated
with GNDRP over all classes, as the reference has one rate. Sub-classes are numbered so that each quarter has as many
of every animal as the next.

Prints one table of seeds, each at the background threshold that is best on these images' true masks. What is
there already in --out is kept, so a stopped run goes on. About 22 minutes on two idle cores, added up.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tag2mask.common.errors import DataError
from tag2mask.common.files import read_json, write_json
from tag2mask.common.progress import track
from tag2mask.common.seeding import seed_for
from tag2mask.data import Dataset, decode_image, load_maps, read_dataset, read_mask, write_mask
from tag2mask.data.transforms import resize, to_tensor
from tag2mask.engine.execution import Execution
from tag2mask.experiments.ablation import Seeds, map_correlation, score_seeds
from tag2mask.metrics import SegmentationScore, bootstrap_difference, class_iou, mean_iou
from tag2mask.networks import build_backbone
from tag2mask.recipe import Recipe, load_recipe, read_splits
from tag2mask.refine.threshold import labels_from_maps
from tag2mask.rib import RIBConfig
from tag2mask.stages.localize import LocalizeConfig, localize
from tag2mask.stages.train_classifier import train_classifier

SIDE = 224  # pixels, of the photos whose features are clustered
ROUNDS = 50  # of k-means at most
SLIP = 20  # classes that the reference's GNDRP loops over
STEPS, BATCH, GROWTH = 3, 4, 0.5  # for the reference's ten steps with twenty partners; docs/method.md, "Step size"
COCO_RATE = 5 / 8  # COCO's learning rate over VOC's in the paper
COCO_BATCH = 15 / 20  # COCO's batch over VOC's


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    config: LocalizeConfig
    against: str  # the row with GNDRP over all classes; itself = that row


def features(dataset: Dataset) -> np.ndarray:
    """Unit-length mean features (N, 1280) of all photos by EfficientNet-Lite0 with ImageNet's weights."""
    network = build_backbone("efficientnet_lite0", "auto").eval()
    found = []
    with torch.inference_mode():
        for record in track(dataset.records, total=len(dataset), description="features"):
            small = resize(decode_image(record.path), (SIDE, SIDE))
            found.append(network(to_tensor(small)[None]).mean(dim=(2, 3))[0].numpy())
    values = np.stack(found).astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def k_means(points: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """Cluster (N,) in 0..k-1 of each of `points` (N, D); k-means++ start, no cluster stays empty."""
    centres = points[[random.integers(len(points))]]
    while len(centres) < k:
        distance = ((points[:, None] - centres) ** 2).sum(axis=2).min(axis=1)  # (N,)
        centres = np.vstack([centres, points[random.choice(len(points), p=distance / distance.sum())]])
    cluster = np.full(len(points), -1)
    for _ in range(ROUNDS):
        distance = ((points[:, None] - centres) ** 2).sum(axis=2)  # (N, k)
        nearest = distance.argmin(axis=1)
        for empty in set(range(k)) - set(nearest.tolist()):
            spare = np.bincount(nearest, minlength=k)[nearest] > 1  # moving these empties no other cluster
            nearest[np.where(spare, distance.min(axis=1), -1).argmax()] = empty
        if np.array_equal(nearest, cluster):
            break
        cluster = nearest
        centres = np.stack([points[cluster == number].mean(axis=0) for number in range(k)])
    return cluster


def split_classes(dataset: Dataset, k: int, out: Path, seed: int) -> None:
    """Write `dataset` with each class split into k: labels.csv, JPEGImages, masks and classes.json in `out`."""
    points = features(dataset)
    parents = dataset.classes
    sub_class: list[dict[int, int]] = [{} for _ in dataset.records]  # parent -> new class index, by record
    for parent, name in enumerate(parents):
        rows = [i for i, record in enumerate(dataset.records) if parent in record.labels]
        if len(rows) < k:
            raise DataError(f"{dataset.name}: class '{name}' has {len(rows)} photos, fewer than --k {k}")
        random = np.random.default_rng(seed_for(seed, "k-means", name))
        for row, number in zip(rows, k_means(points[rows], k, random), strict=True):
            sub_class[row][parent] = int(number) * len(parents) + parent
    names = [f"{parent}_{number}" for number in range(k) for parent in parents]
    out.mkdir(parents=True, exist_ok=True)
    (out / "JPEGImages").mkdir(exist_ok=True)
    with (out / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "labels", "split", "mask"])
        for record, classes in zip(dataset.records, sub_class, strict=True):
            shutil.copyfile(record.path, out / "JPEGImages" / record.path.name)
            mask = _mask(dataset, record.mask_path, classes, out / "masks" / f"{record.id}.png")
            labels = ";".join(names[index] for index in sorted(classes.values()))
            table.writerow([f"JPEGImages/{record.path.name}", labels, "train", mask])
    write_json(out / "classes.json", names)


def _mask(dataset: Dataset, source: Path | None, classes: dict[int, int], path: Path) -> str:
    """Write a photo's true mask in terms of its sub-classes; returns its place in the table."""
    if source is None:
        return ""
    lut = np.full(256, 255, np.uint8)
    lut[0] = 0
    for parent, index in classes.items():
        lut[parent + 1] = index + 1
    write_mask(path, lut[read_mask(source, dataset.mask_lut)])
    return f"masks/{path.name}"


def start_of(recipe: LocalizeConfig) -> LocalizeConfig:
    """RIB as in the reference (scheduled steps, batches of partners), with fewer and longer steps for two cores."""
    rib = RIBConfig.voc(steps=STEPS, batch_size=BATCH, channels_last=True)
    return dataclasses.replace(recipe, method="rib", growth=GROWTH, rib=rib)


def rows_of(start: LocalizeConfig, rate: float, n_classes: int) -> list[Row]:
    """VOC's values and COCO's, each with GNDRP over all classes and over fewer."""
    voc = dataclasses.replace(start, growth=None, rib=start.rib.replace(learning_rate=rate))
    batch = max(1, round(start.rib.batch_size * COCO_BATCH))
    changes: dict[str, Any] = {"tau": 0.5, "guard_share": 0.8, "m": 1000.0, "batch_size": batch}
    coco = dataclasses.replace(voc, rib=voc.rib.replace(learning_rate=rate * COCO_RATE, **changes))
    quarter = n_classes // 4

    def row(name: str, config: LocalizeConfig, covered: int | None, against: str) -> Row:
        return Row(name, dataclasses.replace(config, rib=config.rib.replace(gndrp_classes=covered)), against)

    return [
        row("all classes", voc, None, "all classes"),
        row(f"first {SLIP}", voc, SLIP, "all classes"),
        row(f"first {quarter}", voc, quarter, "all classes"),
        row("COCO's values, all classes", coco, None, "COCO's values, all classes"),
        row(f"COCO's values, first {quarter}", coco, quarter, "COCO's values, all classes"),
    ]


def group_iou(confusions: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean IoU (..., groups) over the classes of each group, from confusion matrices (..., C, C)."""
    iou = class_iou(confusions)
    return np.stack([mean_iou(iou[..., list(group)]) for group in groups], axis=-1)


def compare(first: Seeds, second: Seeds, groups: Sequence[Sequence[int]], seed: int) -> list[dict[str, Any]]:
    """For each group of classes: mean IoU of `first`, difference to `second`, 95% interval over images."""
    low, high = bootstrap_difference(
        first.confusions, second.confusions, seed, figure=lambda confusions: group_iou(confusions, groups)
    )
    own, other = (group_iou(seeds.confusions.sum(axis=0), groups) for seeds in (first, second))
    return [
        {"classes": len(group), "iou": float(a), "difference": float(a - b), "interval": [float(x), float(y)]}
        for group, a, b, x, y in zip(groups, own, other, low, high, strict=True)
    ]


def with_255(dataset: Dataset, maps: Path, threshold: float) -> float:
    """MIoU of the same seeds where unlabelled pixels (255) are a class of their own, as in the reference on COCO."""
    score = SegmentationScore(len(dataset.classes) + 1, include_ignore_slip=True)
    for record in dataset.records:
        assert record.mask_path is not None
        found = load_maps(maps / f"{record.id}.npz")
        truth = read_mask(record.mask_path, dataset.mask_lut)
        score.update(labels_from_maps(found.full(), found.classes, threshold), truth)
    return score.compute().miou


def measure(dataset: Dataset, chosen: Dataset, out: Path, recipe: Recipe, execution: Execution) -> dict[str, Any]:
    """Localize and score every row; returns the table."""
    only = [record.id for record in chosen.records]
    first, start = out / "all classes", start_of(recipe.localize)
    localize(dataset, out / "classifier", first, start, seed=recipe.seed, execution=execution, only=only)
    rate = read_json(first / "manifest.json")["learning_rate"]
    rows = rows_of(start, rate, len(dataset.classes))
    everything = range(len(dataset.classes))
    table: dict[str, Any] = {
        "images": len(chosen),
        "classes": len(dataset.classes),
        "learning_rate": rate,
        "rows": {},
    }
    seeds: dict[str, Seeds] = {}
    cam = score_seeds(chosen, first / "cam")
    table["rows"]["CAM"] = {"miou": cam.miou, "threshold": cam.threshold}
    for row in rows:
        if row.name != first.name:
            localize(
                dataset,
                out / "classifier",
                out / row.name,
                row.config,
                seed=recipe.seed,
                execution=execution,
                only=only,
            )
        maps, base = out / row.name / "rib", out / row.against / "rib"
        seeds[row.name] = score_seeds(chosen, maps)
        entry: dict[str, Any] = {"miou": seeds[row.name].miou, "threshold": seeds[row.name].threshold}
        covered = row.config.rib.gndrp_classes
        if covered is not None:
            groups = [range(covered, len(everything)), range(covered)]  # those that the slip hits, and the others
            shifted = [[0, *(i + 1 for i in everything)], *([i + 1 for i in group] for group in groups)]
            entry["groups"] = compare(seeds[row.name], seeds[row.against], shifted, recipe.seed)
            entry["correlations"] = [map_correlation(chosen, maps, base, group) for group in (everything, *groups)]
        table["rows"][row.name] = entry
        write_json(out / "table.json", table)
    table["with_255"] = with_255(chosen, first / "rib", seeds[first.name].threshold)
    write_json(out / "table.json", table)
    return table


def markdown(table: dict[str, Any]) -> str:
    """The table with what its figures are."""
    lines = [
        f"Seeds of {table['images']} class-balanced training photos with {table['classes']} classes; IoU in percent, "
        "each row at the background threshold that is best on these photos' true masks; differences to GNDRP over "
        "all classes, in brackets their 95% interval over photos.",
        "",
        "| GNDRP over | mIoU, background too | threshold | difference | classes hit | their IoU | difference | map "
        "correlation | other classes | their IoU | difference | map correlation |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in table["rows"].items():
        cells = [name, f"{100 * entry['miou']:.1f}", f"{entry['threshold']:.2f}"]
        if "groups" in entry:
            cells.append(_difference(entry["groups"][0]))
            for group, value in zip(entry["groups"][1:], entry["correlations"][1:], strict=True):
                cells += [str(group["classes"]), f"{100 * group['iou']:.1f}", _difference(group), f"{value:.3f}"]
        else:
            cells += [""] * 9
        lines.append("| " + " | ".join(cells) + " |")
    best = table["rows"]["all classes"]["miou"]
    slip = f"score {100 * table['with_255']:.1f} instead of {100 * best:.1f}"
    lines += ["", f"The seeds of 'all classes' {slip} when unlabelled pixels (255) are left in as one more class."]
    return "\n".join(lines) + "\n"


def _difference(group: dict[str, Any]) -> str:
    low, high = group["interval"]
    return f"{100 * group['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def main() -> None:
    """Make the set, train, localize, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in VOC layout with labels.csv and SegmentationClass")
    parser.add_argument("--k", type=int, default=4, help="sub-classes a class (default 4: 24 classes; 13: 78)")
    parser.add_argument("--images", type=int, default=480, help="class-balanced training photos (default 480)")
    parser.add_argument("--localized", type=int, default=96, help="of them localized and scored (default 96)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe voc_animals"
    )
    parser.add_argument("--processes", type=int, default=0, help="processes (default: CPU cores)")
    parser.add_argument("--out", type=Path, default=Path("runs/coco_slip"), help="work folder")
    options = parser.parse_args()

    recipe = load_recipe("voc_animals", options.set)
    out = options.out / f"{6 * options.k} classes"
    data, execution = out / "data", Execution(device="cpu", processes=options.processes, trace=0)
    if not (data / "classes.json").is_file():
        split_classes(read_splits(recipe, options.data, options.images).train, options.k, data, recipe.seed)
    names = read_json(data / "classes.json")
    dataset = read_dataset(data, classes=names, mask_classes=names)
    train_classifier(dataset, out / "classifier", recipe.classifier, seed=recipe.seed, execution=execution)
    text = markdown(measure(dataset, dataset.limit(options.localized, recipe.seed), out, recipe, execution))
    command = "python benchmarks/coco_slip.py DIR " + " ".join(sys.argv[2:])
    print(f"`{command.strip()}`\n\n{text}", end="")


if __name__ == "__main__":
    main()
