"""One photo in memory: its localization maps from a classifier and its tags, without a data set or a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tag2mask.common.errors import ConfigError, DataError, did_you_mean
from tag2mask.common.seeding import rng_for
from tag2mask.data import LocalizationMaps, decode_image, image_size, limited_size, random_augment
from tag2mask.data.images import pixels_of
from tag2mask.data.records import LongSide, Reading
from tag2mask.data.settings import reading_of_run
from tag2mask.data.transforms import resize
from tag2mask.networks import CAMClassifier
from tag2mask.networks.precision import computing_in
from tag2mask.rib import PartnerBatch, PartnerGradients, RIBConfig, RIBResult, TrunkFeatures, mean_gradient, rib
from tag2mask.runs.folder import read_manifest
from tag2mask.runs.info import read_info
from tag2mask.stages.localize import scaled_views
from tag2mask.stages.train_classifier import load_classifier

Picture = Image.Image | np.ndarray | Path | str  # a PIL image, an array (H, W, 3) uint8 RGB, or a file
Sample = tuple[TrunkFeatures, Tensor]  # features (1, c, h, w) and labels (1, C) of a partner
Tags = str | int | Iterable[str | int]  # one or several, by name or by number


@dataclass(frozen=True)
class ImageMaps:
    """CAM and RIB maps of one photo's n tags.

    Of each, `sums` are the maps per scale (n, h, w) at network resolution, and `full()` gives (n, H, W) in 0..1 at
    the photo's size.
    """

    tags: tuple[str, ...]  # n names in the order of the maps; a class without a name is its number
    cam: LocalizationMaps
    rib: LocalizationMaps
    result: RIBResult  # what each step saw, and what ended them


def localize_image(
    classifier: CAMClassifier | Path | str,
    image: Picture,
    tags: Tags,
    config: RIBConfig | None = None,
    *,
    classes: Sequence[str] | None = None,
    partners: PartnerGradients | Sequence[tuple[Picture, Tags]] = (),
    long_side: LongSide = 640,
    seed: int = 0,
) -> ImageMaps:
    """Compute the CAM and RIB maps of one photo whose tags are known (RIB, NeurIPS 2021).

    `classifier`: a network, which leaves as it came and whose device is used, or the folder of a run or of its
    classifier (loaded at each call). `classes`: the names of the network's classes, for tags that are names; a
    folder knows its own. `config`: `RIBConfig.fast()` by default, one step whose length is searched, which suits any
    backbone. `partners`: none by default; other photos with their tags, of which those count that share no tag with
    this one (all where `config.partners` is "any"), or their expected gradients. A photo with more than `long_side`
    pixels is passed at that size; of two numbers, one with less than the first is enlarged to it. `seed` draws the
    partners and their crops. Raises DataError for a photo or tags that can't be used, ConfigError for a folder
    without a finished classifier.

    >>> import numpy as np
    >>> from tag2mask import localize_image
    >>> from tag2mask.networks import build_classifier
    >>> network = build_classifier("resnet18", 2, weights="none")  # or a folder, such as "runs/photos"
    >>> photo = np.zeros((48, 64, 3), np.uint8)  # or a file, or a PIL image
    >>> maps = localize_image(network, photo, ["dog"], classes=["cat", "dog"])
    >>> maps.tags, maps.rib.full().shape, [sums.shape for sums in maps.cam.sums]
    (('dog',), (1, 48, 64), [(1, 3, 4), (1, 2, 2), (1, 5, 6), (1, 6, 8)])
    """
    config = config or RIBConfig.fast()
    network, names = _network_and_names(classifier, classes)
    present = _numbers(tags, names, network.n_classes)
    reading = _reading_of(classifier)
    pixels, size = _read(image, long_side, reading)
    views = scaled_views(pixels, config, network)
    gradient: Tensor | None = None
    batches: Iterable[PartnerBatch] = ()
    if isinstance(partners, PartnerGradients):
        gradient = partners.expected(present)
    elif config.partners != "none":
        samples = _samples(network, partners, names, config, present, seed, reading)
        if config.partners == "amortised":
            gradient = mean_gradient(network, samples, config)
        else:
            batches = _batches(samples, config, rng_for(seed, "partners"))
    result = rib(network, views, present, batches, config, partner_gradient=gradient)
    whole = network.backbone.whole
    cam, rib_maps = (_maps(result, sums, size, config.scales, whole) for sums in (result.cam_sums, result.rib_sums))
    return ImageMaps(tuple(names[label] if names else str(label) for label in result.classes), cam, rib_maps, result)


def _maps(
    result: RIBResult, sums: list[Tensor], size: tuple[int, int], scales: tuple[float, ...], whole: bool
) -> LocalizationMaps:
    arrays = [values.detach().float().cpu().numpy() for values in sums]
    return LocalizationMaps(np.asarray(result.classes), size, scales, arrays, whole=whole)


def _network_and_names(
    classifier: CAMClassifier | Path | str, classes: Sequence[str] | None
) -> tuple[CAMClassifier, Sequence[str]]:
    """The network and the names of its classes, none where they aren't known."""
    if isinstance(classifier, CAMClassifier):
        network, names = classifier, classes or ()
    else:
        folder = Path(classifier)
        folder = folder / "classifier" if (folder / "classifier").is_dir() else folder
        network = load_classifier(folder)
        names = classes or read_manifest(folder, "train-classifier")["classes"]
    if names and len(names) != network.n_classes:
        raise ConfigError(f"classes: {len(names)} names for a network of {network.n_classes} classes; name each one")
    return network, names


def _numbers(tags: Tags, names: Sequence[str], n_classes: int) -> list[int]:
    """Numbers of the tags' classes, ascending."""
    several = [tags] if isinstance(tags, str) or not isinstance(tags, Iterable) else list(tags)
    numbers = sorted({_number(tag, names) for tag in several})
    outside = [number for number in numbers if not 0 <= number < n_classes]
    if outside:
        raise DataError(f"tag {outside[0]} is outside the classifier's classes 0..{n_classes - 1}")
    if not numbers:
        raise DataError("a photo without tags has no class to localize; give at least one")
    return numbers


def _number(tag: str | int, names: Sequence[str]) -> int:
    if not isinstance(tag, str):
        return int(tag)
    if not names:
        raise ConfigError(f"tag '{tag}' is a name, but the network's are not known; give classes=[...] or its number")
    if tag not in names:
        raise DataError(f"tag '{tag}' is none of the classifier's classes{did_you_mean(tag, names)}")
    return list(names).index(tag)


def _reading_of(classifier: CAMClassifier | Path | str) -> Reading:
    """How files become 8-bit RGB: as those of the run, where it is known."""
    if isinstance(classifier, CAMClassifier):
        return Reading()
    folder = Path(classifier)
    return reading_of_run(read_info(folder if (folder / "classifier").is_dir() else folder.parent))


def _read(image: Picture, long_side: LongSide, reading: Reading) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels (H', W', 3) uint8 within `long_side`, and the photo's own size (H, W)."""
    if isinstance(image, Path | str):
        return decode_image(image, long_side=long_side, reading=reading), image_size(image)
    pixels = pixels_of(image) if isinstance(image, Image.Image) else np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise DataError(f"an image is {pixels.dtype} of shape {pixels.shape}; expected uint8 RGB of shape (H, W, 3)")
    size = (pixels.shape[0], pixels.shape[1])
    return resize(pixels, limited_size(size, long_side)), size


def _samples(
    network: CAMClassifier,
    partners: Sequence[tuple[Picture, Tags]],
    names: Sequence[str],
    config: RIBConfig,
    present: Sequence[int],
    seed: int,
    reading: Reading,
) -> list[Sample]:
    """Each partner that may be used, cropped as in training."""
    samples: list[Sample] = []
    device = network.classifier.weight.device
    for place, (image, tags) in enumerate(partners):
        numbers = _numbers(tags, names, network.n_classes)
        if config.partners != "any" and set(numbers) & set(present):
            continue
        pixels = torch.from_numpy(random_augment(_read(image, None, reading)[0], rng_for(seed, "partner", place)))
        with computing_in(config.precision, device):
            features = network.trunk_features(pixels[None].to(device))
        labels = torch.zeros(1, network.n_classes, device=device)
        labels[0, numbers] = 1
        samples.append((TrunkFeatures(features), labels))
    return samples


def _batches(samples: Sequence[Sample], config: RIBConfig, rng: Random) -> Iterator[PartnerBatch]:
    """A batch an update, drawn without replacement; after all have been drawn, all again in another order."""
    drawn: list[Sample] = []
    while samples and len(drawn) < config.updates * config.batch_size:
        drawn += rng.sample(samples, len(samples))
    for start in range(0, len(drawn) - config.batch_size + 1, config.batch_size):
        features, labels = zip(*drawn[start : start + config.batch_size], strict=True)
        yield TrunkFeatures(torch.cat([given.values for given in features])), torch.cat(labels)
