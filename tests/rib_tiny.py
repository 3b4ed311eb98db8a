"""A classifier with three small convolutions, an image and partners, for tests of RIB in milliseconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tag2mask.networks import Backbone, CAMClassifier
from tag2mask.rib import RIBConfig, stack_with_mirror

N_CLASSES = 5
LABELS = [1, 3]
# few steps of a rate that moves the tiny network well, with limits out of reach
CONFIG = RIBConfig(steps=4, learning_rate=2e-3, m=1e9, guard_share=1.0, partner_chunk=3)


def tiny_classifier(seed: int = 2) -> CAMClassifier:
    """Float64, so that equal mathematics gives equal numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = nn.Sequential(nn.Conv2d(3, 6, 9, stride=8, padding=4), nn.ReLU())
        head = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        classifier = CAMClassifier(Backbone(trunk, head, 8, "tiny"), N_CLASSES)
        nn.init.normal_(classifier.classifier.weight, mean=0.3, std=0.5)
    return classifier.double()


def tiny_views(config: RIBConfig = CONFIG, seed: int = 1) -> list[Tensor]:
    """An image at every scale, beside its mirror where that is passed: (V, 3, h, w) each."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(round(96 * scale), round(128 * scale)) for scale in config.scales]
    images = [torch.randn(3, *size, generator=generator, dtype=torch.float64) for size in sizes]
    return stack_with_mirror(images, config.mirror)


def tiny_batches(count: int, rows: int = 4, seed: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Batches of images (rows, 3, 64, 64) with labels (rows, C) outside `LABELS`."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        labels = torch.zeros(rows, N_CLASSES)
        labels[range(rows), torch.tensor([0, 2, 4]).repeat(rows)[:rows]] = 1
        labels[0, 2] = 1
        batches.append((torch.randn(rows, 3, 64, 64, generator=generator, dtype=torch.float64), labels))
    return batches
