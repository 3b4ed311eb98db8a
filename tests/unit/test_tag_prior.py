"""What whole photos say of their classes: the regression, its evidence, and where it counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json
from tag2mask.data import Dataset, ImageRecord, write_mask
from tag2mask.engine.execution import Execution
from tag2mask.networks import build_backbone, build_classifier
from tag2mask.networks.pooling import Pooling
from tag2mask.networks.tag_prior import EVIDENCE, PENALTIES, WORTH, ClassifierPrior, TagPrior, _fit, evidence_of
from tag2mask.stages.answer import prior_of
from tag2mask.stages.predict import PredictConfig, predict_answer
from tag2mask.stages.train_classifier import ClassifierConfig, load_classifier, train_classifier
from tag2mask.stages.train_segmenter import SegmenterConfig, _told, load_segmenter, train_segmenter

CONFIG = SegmenterConfig(
    architecture="fpn", backbone="resnet10t", weights="none", epochs=0, crop_size=64, tag_prior=2.0
)


def told(images: int, features: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of which the first tells class 0, noise about class 1, and a class that two images have."""
    draw = torch.Generator().manual_seed(4)
    values = torch.randn(images, features, generator=draw, dtype=torch.float64)
    tags = torch.zeros(images, 3, dtype=torch.float64)
    tags[:, 0] = (values[:, 0] > 0.5).double()
    tags[:, 1] = (torch.rand(images, generator=draw) > 0.5).double()
    tags[:2, 2] = 1
    return values, tags


def test_a_class_that_features_tell_gets_evidence_and_others_none() -> None:
    features, tags = told(200)
    found = evidence_of(features, tags)
    assert found.told.penalty in PENALTIES
    assert found.told.gain[0] > WORTH > found.told.gain[1]
    assert found.told.gain[2] == 0.0
    evidence = features @ found.weight.T + found.bias
    assert not evidence[:, 1:].any()
    assert bool((evidence[features[:, 0] > 1, 0] > 1).all())
    assert bool((evidence[features[:, 0] < -0.5, 0] < -1).all())
    assert bool((evidence_of(features[:4], tags[:4]).weight == 0).all())  # too few to learn anything


def test_the_regression_is_at_its_minimum() -> None:
    """Against the gradient written out, with more features than images as well."""
    for images, features in ((200, 12), (20, 40)):
        values, tags = told(images, features)
        tags = tags[:, :2]
        weight, bias = _fit(values, tags, 0.25)
        wrong = (torch.sigmoid(values @ weight.T + bias) - tags) / images
        assert float((wrong.T @ values + 0.25 * weight).abs().max()) < 1e-4
        assert float(wrong.sum(dim=0).abs().max()) < 1e-4


def test_evidence_is_over_the_classes_frequencies() -> None:
    """An uninformative feature vector, the mean, says next to nothing, however rare a class is."""
    features, tags = told(400)
    tags[:, 0] = (features[:, 0] > 1.3).double()  # one in ten
    found = evidence_of(features, tags)
    plain = torch.logit(tags[:, 0].mean())
    fitted = _fit((features - features.mean(0)) / features.std(0, correction=0), tags, found.told.penalty or 0)
    at_mean = features.mean(dim=0) @ found.weight.T + found.bias
    assert at_mean[0] == pytest.approx(float(fitted[1][0] - plain), abs=1e-4)


def test_what_is_added_is_bounded_and_leaves_background_alone() -> None:
    prior = TagPrior(build_backbone("resnet10t", "none", output_stride=32, dilated=False), 2, strength=0.5)
    images = torch.randn(3, 3, 50, 70)
    assert not prior(images).any()  # nothing learned yet
    prior.linear.bias.copy_(torch.tensor([100.0, -100.0]))
    low, high = EVIDENCE
    assert prior(images).tolist() == [[0.0, 0.5 * high, 0.5 * low]] * 3
    assert not prior.train().training
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    padded = torch.nn.functional.pad(images, (0, 26, 0, 14))
    assert torch.equal(prior.of_padded(padded), prior(images))


def test_a_classifier_tells_what_a_photo_shows_less_the_odds_of_its_classes() -> None:
    classifier = build_classifier("resnet10t", 3, "none")
    classifier.pooling = Pooling.of("log-sum-exp")
    images = torch.randn(2, 3, 50, 70, generator=torch.Generator().manual_seed(5))
    padded = torch.nn.functional.pad(images, (0, 26, 0, 14))
    with torch.no_grad():
        classifier.classifier.weight.mul_(2 / classifier(padded).std())  # features of a random network are tiny
    logits = classifier(padded)
    assert logits.std() > 0.5
    prior = ClassifierPrior(classifier, strength=0.5)
    tags = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    prior.learn(tags)
    odds = torch.tensor([0.0, 0.0, float(np.log(3))])
    expected = torch.nn.functional.pad(0.5 * (logits - odds).clamp(*EVIDENCE), (1, 0))
    assert torch.allclose(prior(images), expected, atol=1e-6)
    assert torch.equal(prior.of_padded(padded), prior(images))
    assert expected[:, 1:].all()
    classifier.pooling = Pooling()
    classifier.classifier.weight.mul_(1e6)
    assert set(prior(images)[:, 1:].flatten().tolist()) <= {0.5 * bound for bound in EVIDENCE}
    assert not prior.train().classifier.training
    assert not any(parameter.requires_grad for parameter in prior.parameters())


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Bright and dark photos by class, two without any, one broken."""
    folder = tmp_path_factory.mktemp("noise")
    records = []
    for number in range(24):
        label = number % 2
        rng = np.random.default_rng(number)
        pixels = rng.integers(150 if label else 0, 255 if label else 100, (40, 48, 3), dtype=np.uint8)
        paths = folder / f"{number}.png", folder / f"{number}_mask.png"
        Image.fromarray(pixels).save(paths[0])
        write_mask(paths[1], np.full((40, 48), 0 if number < 2 else label + 1, np.uint8))
        records.append(ImageRecord(str(number), paths[0], () if number < 2 else (label,), "train", paths[1]))
    (folder / "5.png").write_bytes(b"nothing")
    return Dataset("noise", ("dark", "bright"), tuple(records))


def test_the_stage_learns_it_and_it_counts_where_tags_are_unknown(noise: Dataset, tmp_path: Path) -> None:
    network = train_segmenter(noise, None, tmp_path / "net", CONFIG, execution=Execution("cpu", workers=0))
    note = read_json(tmp_path / "net" / "manifest.json")["tag_prior"]
    assert note["photos"] == 23
    assert min(note["gain"].values()) > WORTH
    loaded = load_segmenter(tmp_path / "net")
    assert {name: value.shape for name, value in loaded.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
    image = np.asarray(Image.open(noise.records[9].path))
    shift = prior_of(loaded, image)
    assert shift is not None
    assert torch.equal(shift, prior_of(network, image))
    assert shift[2] > 0 > shift[1]
    config = PredictConfig(scales=(1.0,), mirror=False)
    free = predict_answer(loaded, image, config)
    bare = load_segmenter(tmp_path / "net")
    bare.prior = None
    assert not np.array_equal(free.confidence, predict_answer(bare, image, config).confidence)
    for classes in ((0,), (0, 1)):
        known = predict_answer(loaded, image, config, classes)
        assert np.array_equal(known.confidence, predict_answer(bare, image, config, classes).confidence)


@pytest.mark.parametrize("stages", [(4,), (4, 5), (5,)])
def test_the_runs_classifier_is_asked(stages: tuple[int, ...], noise: Dataset, tmp_path: Path) -> None:
    execution = Execution("cpu", workers=0)
    tags = ClassifierConfig(
        "resnet10t", "none", stages, epochs=0, crop_size=64, long_side_min=64, long_side_max=64, pooling="top-share"
    )
    train_classifier(noise, tmp_path / "classifier", tags, execution=execution)
    config = dataclasses.replace(CONFIG, tag_prior_by="classifier")
    with pytest.raises(ConfigError, match="tag_prior_by"):
        train_segmenter(noise, None, tmp_path / "none", config, execution=execution)
    classifier = tmp_path / "classifier"
    network = train_segmenter(noise, None, tmp_path / "net", config, execution=execution, classifier=classifier)
    manifest = read_json(tmp_path / "net" / "manifest.json")
    made = {"backbone": "resnet10t", "stages": list(stages), "kind": "top-share", "parameter": 0.1}
    assert manifest["tag_prior"] == {"photos": 24, "classifier": made}
    assert manifest["inputs"]["classifier"]
    image = np.asarray(Image.open(noise.records[9].path))
    shift = prior_of(network, image)
    assert shift is not None
    assert torch.equal(shift, prior_of(load_segmenter(tmp_path / "net"), image))
    assert shift[1:].all()
    prior = network.prior
    assert isinstance(prior, ClassifierPrior)
    assert torch.equal(prior.classifier.classifier.weight, load_classifier(classifier).classifier.weight)
    assert prior.odds.tolist() == pytest.approx([np.log(11 / 13)] * 2, abs=1e-5)


def test_without_the_setting_nothing_is_there(noise: Dataset, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, tag_prior=0.0)
    network = train_segmenter(noise, None, tmp_path / "net", config, execution=Execution("cpu", workers=0))
    assert network.prior is None
    assert prior_of(network, np.zeros((9, 9, 3), np.uint8)) is None
    assert "tag_prior" not in read_json(tmp_path / "net" / "manifest.json")


def test_what_it_knows_is_said_in_a_line() -> None:
    assert _told({"cat": 0.6, "cow": 0.75, "dog": 0.4}) == (
        "whole photos tell, with so much less uncertainty: cow (75 %), cat (60 %); 1 not well enough to be asked"
    )
    assert _told({"cat": 0.4}) == "whole photos tell no tag well enough to be asked; pixels decide alone"
    assert _told({str(number): 0.7 for number in range(8)}).endswith(
        "5 (70 %), 4 (70 %), 3 (70 %), 2 (70 %) and 2 more"
    )
