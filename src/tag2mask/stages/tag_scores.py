"""How well a classifier tells the tags of photos: average precision by class, and the photos it gets most wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from tag2mask.common.errors import DataError
from tag2mask.common.progress import track
from tag2mask.data import Dataset, read_image
from tag2mask.data.transforms import resize_long, to_tensor
from tag2mask.networks import CAMClassifier


@dataclass(frozen=True)
class TagScores:
    """What a classifier says of photos, one row a photo that can be read."""

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    logits: Tensor  # (N, C) float32
    labels: Tensor  # (N, C) bool

    def average_precision(self) -> dict[str, float]:
        """Average precision 0..1 of each class that occurs."""
        present = self.labels.any(dim=0).nonzero().flatten().tolist() if self.ids else []
        truth = self.labels.int()
        return {self.classes[c]: float(binary_average_precision(self.logits[:, c], truth[:, c])) for c in present}

    def most_wrong(self, count: int) -> list[dict[str, Any]]:
        """At most `count` tags that the classifier contradicts, the surest first: often the tag is wrong.

        Each with the photo's id, the class, whether the photo has that tag, and the classifier's score 0..1 for it.
        """
        scores = torch.sigmoid(self.logits)
        wrong = torch.where(self.labels, 1 - scores, scores)
        order = wrong.flatten().argsort(descending=True, stable=True)[:count].tolist()
        places = [divmod(place, len(self.classes)) for place in order]
        return [
            {
                "id": self.ids[row],
                "class": self.classes[c],
                "tagged": bool(self.labels[row, c]),
                "score": round(float(scores[row, c]), 4),
            }
            for row, c in places
            if wrong[row, c] > 0.5
        ]


@torch.no_grad()
def tag_scores(classifier: CAMClassifier, dataset: Dataset, long_side: int | None) -> TagScores:
    """Pass each photo of `dataset` whole, long side at `long_side` pixels (None: as read); broken ones are left out.

    Computed where the classifier is and in its precision; its mode comes back as it was.
    """
    training, weight = classifier.training, classifier.classifier.weight
    classifier.eval()
    ids, logits = [], []
    for record in track(dataset.records, total=len(dataset), description="tags of held-out images"):
        try:
            image = resize_long(read_image(record), long_side)
        except DataError:
            continue  # reported where the image is used; here it only lacks from an average
        ids.append(record.id)
        logits.append(classifier(to_tensor(image)[None].to(weight.device, weight.dtype))[0].float().cpu())
    classifier.train(training)
    rows = dict(zip((record.id for record in dataset.records), dataset.label_matrix(), strict=True))
    n_classes = len(dataset.classes)
    labels = np.array([rows[i] for i in ids], dtype=bool).reshape(len(ids), n_classes)
    values = torch.stack(logits) if logits else torch.zeros(0, n_classes)
    return TagScores(dataset.classes, tuple(ids), values, torch.from_numpy(labels))


def mean_of(values: Sequence[float] | dict[str, float]) -> float:
    """Mean of figures by class; NaN where there are none."""
    figures = list(values.values()) if isinstance(values, dict) else list(values)
    return sum(figures) / len(figures) if figures else math.nan


def figure(value: float) -> float | None:
    """A number for a manifest; null for NaN."""
    return None if value != value else round(value, 6)
