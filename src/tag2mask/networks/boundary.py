"""IRN's boundary network: an edge map and a displacement field on frozen features of five stages.

Ahn, Cho, Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (IRN), CVPR 2019,
section 4. The network learns where classes end from pairs of pixels that are known to be alike or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError
from tag2mask.common.ranks import shared_counts
from tag2mask.data.records import IGNORED
from tag2mask.networks.backbones import StagedBackbone
from tag2mask.networks.paths import each_path, source_indices

STRIDE = 4  # of both branches' outputs
EDGE_WIDTH = 32  # channels of each of the five edge taps
NEAR_ZERO = 1e-5  # keeps logarithms and empty averages finite


class BoundaryNetwork(nn.Module):
    """Two branches of 1x1 convolutions and group norm at stride 4, on a frozen backbone in five stages.

    Works on any `StagedBackbone` of strides up to (4, 4, 8, 16, 16): a first tap that is finer than stride 4
    (EfficientNet's, 2) is brought there by the max-pooling that ResNet's stem has anyway. Group norm sees the whole
    input, padding included, so sizes matter a little: see `infer`.

    Without `displacement`, which only instance masks need, there is the edge branch alone: the same edges in half the
    time.
    """

    def __init__(self, backbone: StagedBackbone, *, displacement: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        one, two, three, four, five = backbone.channels
        up = [stride // STRIDE for stride in backbone.strides]
        self.fc_edge1 = _reduce(one, EDGE_WIDTH, groups=4)
        self.fc_edge2 = _reduce(two, EDGE_WIDTH, groups=4)
        self.fc_edge3 = _reduce(three, EDGE_WIDTH, groups=4, up=up[2])
        self.fc_edge4 = _reduce(four, EDGE_WIDTH, groups=4, up=up[3])
        self.fc_edge5 = _reduce(five, EDGE_WIDTH, groups=4, up=up[4])
        self.fc_edge6 = nn.Conv2d(5 * EDGE_WIDTH, 1, 1)
        self.train(False)
        self.displaces = displacement
        if not displacement:
            return
        self.fc_dp1 = _reduce(one, 64, groups=8)
        self.fc_dp2 = _reduce(two, 128, groups=16)
        self.fc_dp3 = _reduce(three, 256, groups=16)
        self.fc_dp4 = _reduce(four, 256, groups=16, up=up[3] // up[2])
        self.fc_dp5 = _reduce(five, 256, groups=16, up=up[4] // up[2])
        self.fc_dp6 = _reduce(3 * 256, 256, groups=16, up=up[2])
        self.fc_dp7 = nn.Sequential(*_reduce(64 + 128 + 256, 256, groups=16), nn.Conv2d(256, 2, 1, bias=False))
        self.register_buffer("mean_shift", torch.zeros(2))
        self.mean_shift: Tensor
        self.train(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Edge logits (B, 1, h, w) and displacement (B, 2, h, w) in stride-4 pixels (dy, dx), h = ceil(H / 4).

        `images` are ImageNet-normalised (B, 3, H, W). In evaluation mode `mean_shift`, the displacement's mean over
        the training set, is subtracted: only differences between pixels are trained.
        """
        taps = self._taps(images)
        if not self.displaces:
            return self._edge(taps), None
        displacement = self._displacement(taps)
        if not self.training:
            displacement = displacement - self.mean_shift.view(1, 2, 1, 1)
        return self._edge(taps), displacement

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters that are trained: the edge branch's, and the displacement branch's (10x the learning rate)."""
        named = list(self.named_parameters())
        edge = [p for name, p in named if name.startswith("fc_edge")]
        return edge, [p for name, p in named if name.startswith("fc_dp")]

    @torch.no_grad()
    def infer(self, images: Tensor, *, pad_to: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Edge (h, w) in 0..1, logits averaged over image and mirror, and the image's displacement (2, h, w), if any.

        `images` (2, 3, H, W): an ImageNet-normalised image and its mirror, of any size; h = ceil(H / 4). With
        `pad_to`, smaller sides are first padded to it with zeros, right and below, and the outputs cropped back.
        Group norm sees the padding, so that changes the numbers: the reference pads to its training crop (512) on
        VOC, where it silently crops larger images, and not at all on COCO. Here images are always taken whole.
        Raises ConfigError for another number of images.
        """
        if images.ndim != 4 or len(images) != 2:
            raise ConfigError(f"infer takes an image and its mirror, (2, 3, H, W), not {tuple(images.shape)}")
        height, width = images.shape[-2:]
        bottom, right = (max((pad_to or 0) - side, 0) for side in (height, width))
        logits, displacement = self(F.pad(images, (0, right, 0, bottom)))
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        logits = logits[:, 0, :rows, :columns]
        edge = torch.sigmoid(logits[0] / 2 + logits[1].flip(-1) / 2)
        return edge, None if displacement is None else displacement[0, :, :rows, :columns]

    def _taps(self, images: Tensor) -> list[Tensor]:
        taps = self.backbone(images)
        for index, stride in enumerate(self.backbone.strides):
            while stride < STRIDE:
                taps[index] = F.max_pool2d(taps[index], kernel_size=3, stride=2, padding=1)
                stride *= 2
        return taps

    def _edge(self, taps: list[Tensor]) -> Tensor:
        layers = (self.fc_edge1, self.fc_edge2, self.fc_edge3, self.fc_edge4, self.fc_edge5)
        reduced = [_cropped(layer(tap), taps[1]) for layer, tap in zip(layers, taps, strict=True)]
        return self.fc_edge6(torch.cat(reduced, dim=1))  # (B, 5 * 32, h, w) -> (B, 1, h, w)

    def _displacement(self, taps: list[Tensor]) -> Tensor:
        layers = (self.fc_dp3, self.fc_dp4, self.fc_dp5)
        coarse = [_cropped(layer(tap), taps[2]) for layer, tap in zip(layers, taps[2:], strict=True)]
        raised = _cropped(self.fc_dp6(torch.cat(coarse, dim=1)), taps[1])  # stride 8 -> 4
        return self.fc_dp7(torch.cat([self.fc_dp1(taps[0]), self.fc_dp2(taps[1]), raised], dim=1))


def _reduce(channels: int, width: int, *, groups: int, up: int = 1) -> nn.Sequential:
    """1x1 convolution, group norm, bilinear upsampling where asked for, ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(groups, width)]
    if up > 1:
        layers.append(nn.Upsample(scale_factor=up, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def _cropped(values: Tensor, like: Tensor) -> Tensor:
    return values[..., : like.shape[2], : like.shape[3]]


class BoundaryLosses(NamedTuple):
    """The losses of a batch, scalars; `total` is what is minimised."""

    positive: Tensor
    negative: Tensor
    displacement_foreground: Tensor
    displacement_background: Tensor
    total: Tensor


def boundary_loss(
    edge_logits: Tensor, displacement: Tensor | None, labels: Tensor, radius: int = 10
) -> BoundaryLosses:
    """IRN's losses over all pixel pairs nearer than `radius` (stride-4 pixels); IRN, section 4.

    `edge_logits` (B, 1, h, w), `displacement` (B, 2, h, w), `labels` (B, h, w) integers: 0 background, 1..C classes,
    255 in no pair. Affinity of a pair = 1 - the largest edge on its path. `positive` is the mean of the negative
    log-likelihood over background pairs and over pairs of one class, halved each; `negative` that of pairs of two
    labels; `displacement_foreground` the L1 distance between displacement difference and offset within a class,
    `displacement_background` that to 0. `total` = half the sum. Every one can be differentiated. Without a
    displacement (None) its losses are 0.

    Pairs whose source has a neighbour outside the map are left out, as in the reference. Works through one offset
    at a time, value and gradient together: about 200 bytes a pixel of the batch at once, 100 MB for 32 maps of
    128x128, where the edges on all paths are 3.3 GiB. Raises ConfigError on shapes that don't fit.
    """
    if labels.ndim != 3 or edge_logits.shape[::2] != labels.shape[:2] or edge_logits.shape[3] != labels.shape[2]:
        raise ConfigError(
            f"edges {tuple(edge_logits.shape)} don't fit labels {tuple(labels.shape)}: (B, 1, h, w) and (B, h, w)"
        )
    if displacement is not None and displacement.shape != (len(labels), 2, *labels.shape[1:]):
        raise ConfigError(
            f"displacement {tuple(displacement.shape)} doesn't fit labels {tuple(labels.shape)}: (B, 2, h, w)"
        )
    source_indices(radius, (labels.shape[1], labels.shape[2]))  # raises where no pair fits
    edge = torch.sigmoid(edge_logits[:, 0].float())
    pairs = _Pairs(labels, radius)
    positive, negative = _AffinityLosses.apply(edge, pairs)
    foreground = background = edge.new_zeros(())
    if displacement is not None:
        foreground, background = _DisplacementLosses.apply(displacement.float(), pairs)
    total = (positive + negative) / 2 + (foreground + background) / 2
    return BoundaryLosses(positive, negative, foreground, background, total)


class _Pairs:
    """The pairs of a batch by kind, one offset at a time, and how many there are of each kind."""

    def __init__(self, labels: Tensor, radius: int) -> None:
        self.labels = labels.to(torch.int16)
        self.reach = radius - 1
        self.paths = [[(int(dy), int(dx)) for dy, dx in path] for path in each_path(radius)]
        counts = torch.stack([torch.stack([kind.sum() for kind in kinds]) for _, kinds in self]).sum(dim=0)
        # of the whole batch, where several processes train: a mean over pairs, not a mean of means
        self.n_background, self.n_foreground, self.n_different = shared_counts(counts)

    def __iter__(self) -> Iterator[tuple[list[tuple[int, int]], tuple[Tensor, Tensor, Tensor]]]:
        """Yield each path, destination first, and where its pairs are both background, of one class, or differ."""
        source = self.seen(self.labels, 0, 0)
        source_valid = source != IGNORED
        for path in self.paths:
            destination = self.seen(self.labels, *path[0])
            equal = source == destination
            background = equal & (source == 0)
            valid = source_valid & (destination != IGNORED)
            yield path, (background, equal & valid & ~background, valid & ~equal)

    def seen(self, values: Tensor, dy: int, dx: int) -> Tensor:
        """Every source's neighbour at an offset: a view (..., h - r, w - 2r) of (..., h, w), r = radius - 1."""
        height, width = values.shape[-2] - self.reach, values.shape[-1] - 2 * self.reach
        return values[..., dy : dy + height, self.reach + dx : self.reach + dx + width]


class _AffinityLosses(torch.autograd.Function):
    """Positive and negative affinity loss of edges (B, h, w) in 0..1, with their gradients worked out on the way."""

    @staticmethod
    def forward(ctx: Any, edge: Tensor, pairs: _Pairs) -> tuple[Tensor, Tensor]:
        """Accumulate both losses and their gradients, offset by offset."""
        gradient = edge.new_zeros(2, edge.numel())  # of the positive loss, of the negative one
        losses = edge.new_zeros(2)
        # A float that isn't negative sorts like its bits: with the pixel's number below them, one maximum over a
        # path gives both the largest edge and where it lies.
        numbers = torch.arange(edge.numel(), device=edge.device).view(edge.shape)
        keys = (edge.detach().contiguous().view(torch.int32).long() << 32) | numbers
        for path, (background, foreground, different) in pairs:
            strongest = pairs.seen(keys, *path[0]).clone()
            for point in path[1:]:
                torch.maximum(strongest, pairs.seen(keys, *point), out=strongest)
            largest = (strongest >> 32).int().view(torch.float32)
            where = strongest & 0xFFFFFFFF
            alike = background * (0.5 / (pairs.n_background + NEAR_ZERO))
            alike += foreground * (0.5 / (pairs.n_foreground + NEAR_ZERO))
            differ = different * (1 / (pairs.n_different + NEAR_ZERO))
            affinity = 1 - largest
            losses[0] -= (alike * torch.log(affinity + NEAR_ZERO)).sum()
            losses[1] -= (differ * torch.log(1 + NEAR_ZERO - affinity)).sum()
            slope = alike / (affinity + NEAR_ZERO) - differ / (1 + NEAR_ZERO - affinity)
            where += different * edge.numel()  # negative pairs belong to the second row
            gradient.view(-1).scatter_add_(0, where.flatten(), slope.flatten())
        ctx.save_for_backward(gradient.view(2, *edge.shape))
        return losses[0], losses[1]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        """Weigh the stored gradients by what comes from above."""
        (gradient,) = ctx.saved_tensors
        return upstream[0] * gradient[0] + upstream[1] * gradient[1], None


class _DisplacementLosses(torch.autograd.Function):
    """Foreground and background L1 loss of displacement (B, 2, h, w), with gradients worked out on the way."""

    @staticmethod
    def forward(ctx: Any, displacement: Tensor, pairs: _Pairs) -> tuple[Tensor, Tensor]:
        """Accumulate both losses and their gradients, offset by offset."""
        field = displacement.detach()
        gradients = [torch.zeros_like(field) for _ in range(2)]
        losses = field.new_zeros(2)
        for path, (background, foreground, _) in pairs:
            difference = pairs.seen(field, 0, 0) - pairs.seen(field, *path[0])  # (B, 2, h - r, w - 2r)
            offset = field.new_tensor(path[0]).view(1, 2, 1, 1)
            cases = (
                (foreground, difference - offset, pairs.n_foreground),
                (background, difference, pairs.n_background),
            )
            for index, (chosen, distance, count) in enumerate(cases):
                weight = (chosen / (2 * count + NEAR_ZERO)).unsqueeze(1)
                losses[index] += (weight * distance.abs()).sum()
                slope = weight * distance.sign()
                pairs.seen(gradients[index], 0, 0).add_(slope)
                pairs.seen(gradients[index], *path[0]).sub_(slope)
        ctx.save_for_backward(*gradients)
        return losses[0], losses[1]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        """Weigh the stored gradients by what comes from above."""
        foreground, background = ctx.saved_tensors
        return upstream[0] * foreground + upstream[1] * background, None
