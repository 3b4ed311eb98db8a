"""The localization criterion of a classifier on photos with tags; no mask is read."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.nn import functional as F

from tag2mask.common.errors import DataError
from tag2mask.common.progress import track
from tag2mask.data import Dataset, ImageRecord, read_image
from tag2mask.data.transforms import resize_long, to_tensor
from tag2mask.networks import CAMClassifier
from tag2mask.networks.erasing import SHARES, criterion, keep_and_erase


@torch.no_grad()
def localization_criterion(
    classifier: CAMClassifier, dataset: Dataset, long_side: int, count: int, seed: int = 0
) -> dict[str, Any]:
    """Mean scores of tags when parts of the photo are kept and erased by their class map, and the criterion of both.

    On at most `count` photos with tags, class-balanced, each with its long side at `long_side` pixels, where the
    classifier is. Empty where no such photo can be read.
    """
    tagged = dataclasses.replace(dataset, records=tuple(r for r in dataset.records if r.labels))
    kept, erased = [], []
    chosen = tagged.limit(count, seed).records
    for record in track(chosen, total=len(chosen), description="where the classifier looks"):
        try:
            scores = _of_photo(classifier, record, long_side)
        except DataError:
            continue  # reported where the image is used
        kept.append(scores[0])
        erased.append(scores[1])
    if not kept:
        return {}
    keep, erase = torch.cat(kept), torch.cat(erased)  # (tags, S)
    return {
        "criterion": round(criterion(keep, erase), 4),
        "shares": list(SHARES),
        "kept": [round(float(value), 4) for value in keep.clamp(max=1).mean(dim=0)],
        "erased": [round(float(value), 4) for value in erase.clamp(max=1).mean(dim=0)],
        "photos": len(kept),
    }


def _of_photo(classifier: CAMClassifier, record: ImageRecord, long_side: int) -> tuple[torch.Tensor, torch.Tensor]:
    weight, classes = classifier.classifier.weight, sorted(record.labels)
    image = to_tensor(resize_long(read_image(record), long_side)).to(weight.device, weight.dtype)
    maps = classifier.class_maps(classifier.trunk_features(image[None]))[:, classes].clamp(min=0)  # (1, n, h, w)
    maps = F.interpolate(maps, image.shape[1:], mode="bilinear", align_corners=False)[0]
    return keep_and_erase(classifier, image, maps, classes)
