"""RIB of several images of one shape at once: fewer and larger operations, for a GPU.

At the start weights all images share the network, so their frozen features, their maps of step 0 and what these need
are one pass. From the first update on each image has tuned weights of its own: these are stacked, and torch.func.vmap
turns every layer of the tuned half into one operation over all images. Nothing goes from one image to another: what
each gets is what `rib` gives it alone, up to round-off. Images of fewer classes than others beside them repeat their
first class, which is masked in losses and means.

Partners that are images aren't batched, so `config.partners` is "amortised" or "none".
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.data.transforms import scaled_size
from tag2mask.networks import CAMClassifier
from tag2mask.networks.folding import FoldedHead
from tag2mask.networks.precision import calling_in, computing_in
from tag2mask.rib.config import RIBConfig
from tag2mask.rib.finetune import RIBResult, check_input
from tag2mask.rib.step import (
    Groups,
    NetworkInput,
    StepRecord,
    Stopped,
    TrunkFeatures,
    ceiling_of,
    covered_shares,
    frozen_features,
    merge_mirror,
    paired,
    passes_limit,
    present_logits,
    rib_loss,
    runs_away,
)
from tag2mask.rib.update import PolySGD, level_search, tuned

WEIGHT_COPIES = 8  # of the tuned half an image: gradients of two scales, direction, place on it, folded, partners'


@dataclass(frozen=True)
class Photo:
    """What `rib` needs of one image."""

    # for each scale (V, 3, h_s, w_s) or its features: the image, and with V = 2 its mirror
    scaled_images: Sequence[NetworkInput]
    labels: Sequence[int]  # the classes present
    partner_gradient: Tensor | None = None  # (P,): the expected gradient of one partner, for partners "amortised"
    trace: bool = False  # keep the scale-1 maps of every step


def can_batch(config: RIBConfig) -> bool:
    """Whether `rib_batch` takes these settings: its partners are no images."""
    return config.partners in ("amortised", "none") or config.updates == 0


def rib_batch(classifier: CAMClassifier, photos: Sequence[Photo], config: RIBConfig) -> list[RIBResult]:
    """Do what `rib` does for each of several images of one shape, all of them at once; equal up to round-off.

    The classifier leaves as it came. Raises ConfigError for partners that are images, DataError for images of
    different shapes and for what `rib` refuses in any of them.
    """
    if not can_batch(config):
        raise ConfigError(f"partners {config.partners} can't be batched; use amortised or none")
    for photo in photos:
        check_input(classifier, photo.scaled_images, photo.labels, config)
    shapes = {tuple(_values(given).shape for given in photo.scaled_images) for photo in photos}
    if len(shapes) > 1:
        raise DataError(f"images of different shapes can't be batched: {sorted(shapes)}")
    numbers = computing_in(config.precision, classifier.classifier.weight.device)
    folded = FoldedHead(classifier.backbone.head if config.fold_batch_norm else nn.Identity())
    with torch.no_grad(), numbers, tuned(classifier) as groups, warnings.catch_warnings():
        # attention goes image by image where vmap has no rule for it: 2 x heads matrices each, large enough
        warnings.filterwarnings("ignore", "There is a performance drop because we have not yet implemented")
        names = [name for name, _ in classifier.backbone.head.named_parameters()]
        with folded as head, calling_in(config.precision):
            steps = _BatchSteps(classifier, groups, names, head, photos, config)
            for k in range(config.steps):
                steps.step(k, updating=k < config.updates)
                if not steps.going.any():
                    break
            return steps.results()


class PhotoBytes:
    """Memory in bytes that one photo takes in a batch, at most: what autograd keeps of it, and its own weights.

    Counted on an empty network at the largest scale, without any computation; a tensor that two operations keep
    counts twice. What a convolution takes for itself isn't in it.
    """

    def __init__(self, classifier: CAMClassifier, config: RIBConfig) -> None:
        self.network = copy.deepcopy(classifier).to("meta")
        self.largest, self.views, self.fold = max(config.scales), config.views, config.fold_batch_norm
        self.known: dict[tuple[int, int], int] = {}

    def __call__(self, size: tuple[int, int]) -> int:
        """Bytes of a photo of `size` (H, W)."""
        if size not in self.known:
            self.known[size] = self._counted(scaled_size(size, self.largest))
        return self.known[size]

    def _counted(self, size: tuple[int, int]) -> int:
        kept: list[int] = []

        def keep(tensor: Tensor) -> Tensor:
            kept.append(tensor.nbytes)
            return tensor

        images = torch.empty(self.views, 3, *size, device="meta", dtype=self.network.classifier.weight.dtype)
        features = self.network.trunk_features(images)
        head = self.network.backbone.head if self.fold else nn.Identity()
        with tuned(self.network) as groups, FoldedHead(head), torch.enable_grad():
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                self.network.class_maps(features)
            return sum(kept) + WEIGHT_COPIES * sum(p.nbytes for group in groups for p in group)


class _BatchSteps:
    """N images on their way, as `Steps` is one: P is the largest number of classes that one of them has."""

    def __init__(
        self,
        classifier: CAMClassifier,
        groups: Groups,
        names: Sequence[str],
        head: FoldedHead,
        photos: Sequence[Photo],
        config: RIBConfig,
    ) -> None:
        self.classifier, self.names, self.head, self.photos, self.config = classifier, names, head, photos, config
        self.count = len(photos)
        self.features = [self._features(index) for index in range(len(config.scales))]  # (N, V, c, h', w') a scale
        labels = [sorted(set(photo.labels)) for photo in photos]
        self.numbers = torch.tensor([len(own) for own in labels])  # (N,) classes of each
        most = max(map(len, labels))
        device = self.features[0].device
        self.classes = torch.tensor([own + own[:1] * (most - len(own)) for own in labels], device=device)  # (N, P)
        self.valid = (torch.arange(most) < self.numbers[:, None]).to(device)  # (N, P)
        self.sizes = [len(group) for group in groups]  # parameters of the head and of the 1x1 convolution
        self.weights = [parameter.detach() for group in groups for parameter in group]
        self.shared = True  # until the first update; then each of them is (N, ...)
        self.optimiser: PolySGD | None = None
        self.cam_sums: list[Tensor] = []  # per scale (N, P, h, w)
        self.rib_sums: list[Tensor] = []
        self.records: list[list[StepRecord]] = [[] for _ in photos]
        self.stopped: list[Stopped] = ["finished"] * self.count
        self.going = torch.ones(self.count, dtype=torch.bool)  # images that nothing has ended

    def _features(self, index: int) -> Tensor:
        given = [photo.scaled_images[index] for photo in self.photos]
        joined = torch.cat([_values(one) for one in given])  # (N * V, ...)
        kind = TrunkFeatures if isinstance(given[0], TrunkFeatures) else lambda images: images
        features = frozen_features(self.classifier, kind(joined), self.config)
        return features.unflatten(0, (self.count, -1))

    def results(self) -> list[RIBResult]:
        """What came of each image."""
        found = []
        for place, (records, stopped) in enumerate(zip(self.records, self.stopped, strict=True)):
            own = int(self.numbers[place])
            cam, rib = ([values[place, :own].clone() for values in kind] for kind in (self.cam_sums, self.rib_sums))
            found.append(RIBResult(tuple(self.classes[place, :own].tolist()), cam, rib, records, stopped))
        return found

    def step(self, k: int, *, updating: bool) -> None:
        """Step k = 0 .. K-1 of the images that are going, as `Steps.step`."""
        config = self.config
        now: dict[int, StepRecord] = {}
        for place in self._places():
            now[place] = StepRecord()
            self.records[place].append(now[place])
        gradient: list[Tensor] = []
        losses = torch.zeros(self.count, dtype=torch.float64)
        for index, scale in enumerate(config.scales):
            maps, logits, loss, more = self._passed(index, in_loss=scale in config.loss_scales, updating=updating)
            if more:
                gradient = [a.add_(b) for a, b in zip(gradient, more, strict=True)] if gradient else more
            merged = merge_mirror(maps)  # (N, P, h, w)
            self._accumulate(index, merged, k, now)
            if logits is not None:
                for place, own in zip(range(self.count), logits.cpu(), strict=True):
                    if self.going[place]:
                        now[place].target_logits.append(own[:, : self.numbers[place]])
            if index == 0:
                for place, covered in enumerate(covered_shares(merged, config.guard_threshold).tolist()):
                    if self.going[place]:
                        now[place].covered = covered
                        if runs_away(covered, k, config):
                            self._end(place, "run-away")
            if loss is not None:
                losses += loss.cpu()
        if not updating or not self.going.any():
            return
        rates = self._update(gradient)
        for place in self._places():
            now[place].loss, now[place].learning_rate = losses[place].item(), rates[place]
            if passes_limit(now[place].target_sum, config):
                self._end(place, "early-stop")

    def _places(self) -> list[int]:
        return self.going.nonzero().flatten().tolist()

    def _end(self, place: int, why: Stopped) -> None:
        self.stopped[place] = why
        self.going[place] = False

    def _passed(
        self, index: int, *, in_loss: bool, updating: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor]]:
        """Maps (N, V, P, h, w), logits (N, 2, P) and loss (N,) of one scale, and the loss's gradient (N, ...).

        The last three only where the scale is in the loss, the last two only where an update follows.
        """
        weights = None if self.shared else 0
        given = (self.weights, self.features[index], self.classes)
        if in_loss and updating:
            passed = vmap(grad_and_value(self._loss, has_aux=True), in_dims=(weights, 0, 0, 0))
            gradient, (loss, (maps, logits)) = passed(*given, self.valid)
            return maps, logits, loss, list(gradient)
        maps = vmap(self._maps, in_dims=(weights, 0, 0))(*given)
        logits = vmap(lambda m, c: paired(present_logits(m, c, self.config)))(maps, self.classes) if in_loss else None
        return maps, logits, None, []

    def _loss(
        self, weights: Sequence[Tensor], features: Tensor, classes: Tensor, valid: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Loss of one image, a scalar; its maps and logits, without gradient."""
        maps = self._maps(weights, features, classes)
        logits = paired(present_logits(maps, classes, self.config))
        loss = rib_loss(torch.where(valid, logits, 0.0), ceiling=ceiling_of(self.config))
        return loss, (maps.detach(), logits.detach())

    def _maps(self, weights: Sequence[Tensor], features: Tensor, classes: Tensor) -> Tensor:
        """Raw class maps (V, P, h, w) of one image's classes, of its views."""
        own = dict(zip(self.names, weights[: self.sizes[0]], strict=True))
        passed = functional_call(self.classifier.backbone.head, self.head.folded_from(own), (features,))
        maps = functional_call(self.classifier.classifier, {"weight": weights[-1]}, (passed,))
        return maps[:, classes].float()

    def _accumulate(self, index: int, maps: Tensor, k: int, now: dict[int, StepRecord]) -> None:
        if k == 0:
            self.cam_sums.append(maps)
            self.rib_sums.append(maps.clone() if self.config.first_map else torch.zeros_like(maps))
        else:
            places = self._places()
            self.rib_sums[index][places] += maps[places]
        if index == 0:
            for place in self._places():
                if self.photos[place].trace:
                    own = int(self.numbers[place])
                    now[place].maps = maps[place, :own].clone()
                    now[place].accumulated = self.rib_sums[0][place, :own].clone()

    def _update(self, gradient: list[Tensor]) -> list[float]:
        """Add the partners' gradients and update; return each image's learning rate of the head."""
        if self.config.step_size == "searched":
            return self._search(gradient, self._with_partners(gradient))
        if self.optimiser is None:
            stacked = [nn.Parameter(w.expand(self.count, *w.shape).clone()) for w in self.weights]
            head, last = stacked[: self.sizes[0]], stacked[self.sizes[0] :]
            self.optimiser = PolySGD.for_rib((head, last), self.config)
            self.weights, self.shared = list(stacked), False
        for weight, own in zip(self.weights, self._with_partners(gradient), strict=True):
            weight.grad = own
        return [self.optimiser.step()[0]] * self.count

    def _with_partners(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """The gradient (N, ...) of target and partners together."""
        if self.config.partners != "amortised":
            return list(gradient)
        total = [own.clone() for own in gradient]
        for place, photo in enumerate(self.photos):
            if photo.partner_gradient is not None:
                parts = photo.partner_gradient.split([own[0].numel() for own in total])
                for own, part in zip(total, parts, strict=True):
                    own[place].add_(part.view_as(own[place]).to(own), alpha=self.config.batch_size)
        return total

    def _search(self, own: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[float]:
        """Move each image along its gradient until its maps have risen as `config.rise` says; return the rates.

        Images go on together; a look is one pass of those that are still searching.
        """
        config, count = self.config, self.count
        multipliers = [1.0] * self.sizes[0] + [config.classifier_multiplier] * self.sizes[1]
        origin = [w[None] if self.shared else w for w in self.weights]  # (1, ...) or (N, ...)
        direction = [
            by * (g + config.weight_decay * start) for g, start, by in zip(gradient, origin, multipliers, strict=True)
        ]
        products = [(g * d).flatten(1).sum(dim=1) for g, d in zip(own, direction, strict=True)]
        slopes = torch.stack(products).double().sum(dim=0).cpu() / (2 * len(config.loss_scales) * self.numbers)
        everywhere = list(range(count))
        start = self.cam_sums[0] if self.shared else self._look(self.weights, everywhere)
        peaks = self._mean_of_classes(start.amax(dim=(-2, -1)), everywhere)
        levels = self._mean_of_classes(start.mean(dim=(-2, -1)), everywhere)
        searches = [level_search(p, v, s, config) for p, v, s in zip(peaks, levels, slopes.tolist(), strict=True)]
        rates = [0.0] * count
        looking: dict[int, float] = {}

        def go_on(place: int, mean: float | None) -> None:
            try:
                looking[place] = next(searches[place]) if mean is None else searches[place].send(mean)
            except StopIteration as found:
                looking.pop(place, None)
                rates[place] = float(found.value)

        for place in self._places():
            go_on(place, None)
        while looking:
            places = list(looking)
            maps = self._look(_along(origin, direction, places, list(looking.values())), places)
            means = self._mean_of_classes(maps.mean(dim=(-2, -1)), places)
            for place, mean in zip(places, means, strict=True):
                go_on(place, mean)
        self.weights, self.shared = _along(origin, direction, everywhere, rates), False
        return rates

    def _look(self, weights: Sequence[Tensor], places: Sequence[int]) -> Tensor:
        """The scale-1 maps (n, P, h, w) of the images at `places`, n of them, at weights (n, ...) of their own."""
        features, classes = (_rows(values, places) for values in (self.features[0], self.classes))
        return merge_mirror(vmap(self._maps)(list(weights), features, classes))

    def _mean_of_classes(self, values: Tensor, places: Sequence[int]) -> list[float]:
        """Mean over each image's own classes of values (n, P), n images at `places`."""
        kept = torch.where(_rows(self.valid, places), values, 0.0).sum(dim=1)
        return (kept.cpu() / self.numbers[places]).tolist()


def _along(
    origin: Sequence[Tensor], direction: Sequence[Tensor], places: Sequence[int], rates: Sequence[float]
) -> list[Tensor]:
    """The weights (n, ...) of n images at `places` on their lines, origin - rate * direction."""
    moved = []
    for start, along in zip(origin, direction, strict=True):
        by = along.new_tensor(rates).view(-1, *[1] * (along.ndim - 1))
        first = start if len(start) == 1 else _rows(start, places)
        moved.append(torch.addcmul(first, _rows(along, places), by, value=-1))
    return moved


def _rows(values: Tensor, places: Sequence[int]) -> Tensor:
    """Rows of a tensor; itself where they are all of them."""
    return values if len(places) == len(values) else values[list(places)]


def _values(given: NetworkInput) -> Tensor:
    return given.values if isinstance(given, TrunkFeatures) else given
