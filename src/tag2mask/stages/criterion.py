"""The localization criterion of a classifier on photos with tags; no mask is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.common.errors import DataError
from tag2mask.common.progress import track
from tag2mask.data import Dataset, ImageRecord, read_image
from tag2mask.data.transforms import resize_long, to_tensor
from tag2mask.networks import CAMClassifier
from tag2mask.networks.erasing import SHARES, along_border, criterion, keep_and_erase

ENOUGH = 3  # photos, for a figure of a class


@torch.no_grad()
def localization_criterion(
    classifier: CAMClassifier, dataset: Dataset, long_side: int | None, count: int, seed: int = 0
) -> dict[str, Any]:
    """Mean scores of tags when parts of the photo are kept and erased by their class map, and the criterion of both.

    Also how strong the maps of each class are along the photos' border, over their mean. On at most `count` photos
    with tags, class-balanced, each with its long side at `long_side` pixels, where the classifier is. Empty where no
    such photo can be read.
    """
    tagged = dataclasses.replace(dataset, records=tuple(r for r in dataset.records if r.labels))
    looks: list[Look] = []
    chosen = tagged.limit(count, seed).records
    for record in track(chosen, total=len(chosen), description="where the classifier looks"):
        try:
            looks.append(look(classifier, record, long_side))
        except DataError:
            continue  # reported where the image is used
    if not looks:
        return {}
    keep, erase = torch.cat([one.kept for one in looks]), torch.cat([one.erased for one in looks])  # (tags, S)
    return {
        "criterion": round(criterion(keep, erase), 4),
        "shares": list(SHARES),
        "kept": [round(float(value), 4) for value in keep.clamp(max=1).mean(dim=0)],
        "erased": [round(float(value), 4) for value in erase.clamp(max=1).mean(dim=0)],
        "border": border_by_class(looks, dataset.classes),
        "photos": len(looks),
    }


@dataclasses.dataclass(frozen=True)
class Look:
    """Where the classifier looks in one photo, for its n tags."""

    classes: list[int]
    kept: Tensor  # (n, S)
    erased: Tensor  # (n, S)
    border: Tensor  # (n,) along the border, over the mean


def look(classifier: CAMClassifier, record: ImageRecord, long_side: int | None) -> Look:
    """Look at one photo; DataError where it can't be read."""
    weight, classes = classifier.classifier.weight, sorted(record.labels)
    image = to_tensor(resize_long(read_image(record), long_side)).to(weight.device, weight.dtype)
    maps = classifier.class_maps(classifier.trunk_features(image[None]))[:, classes].clamp(min=0)  # (1, n, h, w)
    border = along_border(maps[0].float())
    maps = F.interpolate(maps, image.shape[1:], mode="bilinear", align_corners=False)[0]
    return Look(classes, *keep_and_erase(classifier, image, maps, classes), border)


def border_by_class(looks: Sequence[Look], classes: Sequence[str]) -> dict[str, float]:
    """Mean strength along the border of each class that has `ENOUGH` photos with a map that isn't zero everywhere."""
    found: dict[str, list[float]] = {}
    for one in looks:
        for cls, value in zip(one.classes, one.border.tolist(), strict=True):
            if value == value:
                found.setdefault(classes[cls], []).append(value)
    return {name: round(sum(values) / len(values), 4) for name, values in found.items() if len(values) >= ENOUGH}
