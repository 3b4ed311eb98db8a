"""Every family of backbones through classifier, CAM, RIB, boundary network and affinity, on tiny random networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError, WeightsError
from tag2mask.networks import (
    CAMClassifier,
    build_boundary_network,
    build_classifier,
    build_segmentation_network,
    create_network,
    load_module,
    save_module,
)
from tag2mask.networks.backbones import TwoDepths, WholeCells, entrance_of, family_of, family_of_kind, split_network
from tag2mask.networks.folding import FoldedHead, fold_trunk
from tag2mask.networks.weights import build_stages
from tag2mask.refine.feature_affinity import descriptors, tapped
from tag2mask.rib import RIBConfig, RIBResult, rib, stack_with_mirror
from tiny_families import BATCH_NORM, CONVNEXT, PLAIN, WINDOWS

EVERY = [*PLAIN, *WINDOWS, *CONVNEXT, *BATCH_NORM]
SIZE = (75, 107)  # multiples of nothing
ONE_STEP = RIBConfig.fast(scales=(1.0, 0.5), loss_scales=(1.0,), partners="none")


def images(seed: int = 0, size: tuple[int, int] = SIZE, count: int = 1) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def classifier_of(name: str, seed: int = 0, stages: tuple[int, ...] = (5,)) -> CAMClassifier:
    """Three classes whose maps have positive and negative positions: nothing in them speaks for the photo's mean."""
    classifier = build_classifier(name, 3, "none", seed=seed, stages=stages)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weight = nn.init.normal_(classifier.classifier.weight, std=0.5)
    with torch.no_grad():
        mean = classifier.backbone(images()).mean(dim=(2, 3), keepdim=True)  # (1, C, 1, 1)
        weight -= (weight * mean).sum(dim=1, keepdim=True) * mean / mean.square().sum()
    return classifier


def rib_of(classifier: CAMClassifier, seed: int = 0) -> RIBResult:
    photo = images(seed)
    views = stack_with_mirror([photo[0], nn.functional.interpolate(photo, scale_factor=0.5)[0]])
    return rib(classifier, views, [0, 2], (), ONE_STEP)


def positions(name: str) -> tuple[int, int]:
    family = family_of(name)
    stride = 8 if name.startswith("hrnet") else 16
    cell = family.cell or family.classifier_cell
    if cell is None:
        return -(-SIZE[0] // stride), -(-SIZE[1] // stride)
    cells = [round(side / cell) for side in SIZE]
    return cells[0] * cell // stride, cells[1] * cell // stride


def brought_to_cells(name: str, photos: torch.Tensor) -> torch.Tensor:
    family = family_of(name)
    cell = family.cell or family.classifier_cell
    assert cell is not None
    size = [cell * round(side / cell) for side in photos.shape[-2:]]
    return nn.functional.interpolate(photos, size, mode="bilinear") if family.patch is None else photos


@pytest.mark.parametrize("name", EVERY)
def test_sizes_parts_and_rib(name: str, tmp_path: Path) -> None:
    classifier = classifier_of(name)
    maps = classifier.class_maps(classifier.trunk_features(images()))
    assert maps.shape == (1, 3, *positions(name))
    family = family_of(name)
    assert classifier.backbone.whole == (family.cell is not None or family.classifier_cell is not None)
    if classifier.backbone.whole:  # each position is the same part of a photo, whatever its size is a multiple of
        assert torch.equal(maps, classifier.class_maps(classifier.trunk_features(brought_to_cells(name, images()))))
    together = images(size=(64, 64), count=2)
    assert torch.allclose(classifier.backbone(together)[1:], classifier.backbone(together[1:]), atol=1e-4)

    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    result = rib_of(classifier)
    start, raised = result.cam_sums[0], result.rib_sums[0] - result.cam_sums[0]
    assert start.amax() > 0
    assert raised.mean() > start.mean() + 0.1 * start.amax(dim=(1, 2)).mean()  # the step asks for 0.2 of the peak
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())

    # another photo in between, another process that loaded the file: the same maps
    rib_of(classifier, seed=1)
    save_module(classifier, tmp_path / "classifier.safetensors")
    loaded = build_classifier(name, 3, "none", seed=5)
    load_module(loaded, tmp_path / "classifier.safetensors")
    for again in (rib_of(classifier), rib_of(loaded)):
        assert all(torch.equal(a, b) for a, b in zip(again.rib_sums, result.rib_sums, strict=True))

    # what is frozen doesn't move in training
    optimiser = torch.optim.SGD([p for group in classifier.learned_parameters() for p in group], lr=0.1)
    classifier.train()
    classifier(images(2, (64, 64), 2)).sum().backward()
    optimiser.step()
    after = classifier.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("backbone.trunk."))
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])
    head = [key for key in before if key.startswith("backbone.head.") and not key.endswith("num_batches_tracked")]
    assert any(not torch.equal(after[key], before[key]) for key in head)


@pytest.mark.parametrize("stages", [(4,), (4, 5)])
@pytest.mark.parametrize("name", EVERY)
def test_features_of_the_fourth_stage(name: str, stages: tuple[int, ...], tmp_path: Path) -> None:
    classifier = classifier_of(name, stages=stages)
    whole = build_classifier(name, 3, "none", seed=0)
    assert (classifier.backbone.stages, whole.backbone.stages) == (stages, (5,))
    own, its = parts_of(classifier), parts_of(whole)
    assert len(own) == len(its) if 5 in stages else len(own) < len(its)
    for one, other in zip(own, its, strict=False):
        pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        assert all(torch.equal(value, same) for value, same in pairs)
    features = classifier.backbone(images())
    channels = classifier.classifier.in_channels
    assert features.shape == (1, channels, *positions(name))
    if 5 in stages:  # those of the last stage come last, those of the fourth before them
        deep, fourth = whole.backbone(images()), classifier_of(name, stages=(4,)).backbone(images())
        assert torch.allclose(features, torch.cat([fourth, deep], dim=1), atol=1e-5)

    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    result = rib_of(classifier)
    assert result.rib_sums[0].mean() > 2 * result.cam_sums[0].mean()  # the sum of two maps, the second raised
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    save_module(classifier, tmp_path / "classifier.safetensors")
    loaded = build_classifier(name, 3, "none", seed=5, stages=stages)
    load_module(loaded, tmp_path / "classifier.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(rib_of(loaded).rib_sums, result.rib_sums, strict=True))


def parts_of(classifier: CAMClassifier) -> list[nn.Module]:
    """What photos pass one after the other, without what turns tokens and streams into maps."""
    head = classifier.backbone.head
    late = [*head.first, *head.second] if isinstance(head, TwoDepths) else [*head.children()]
    return [part for part in [*classifier.backbone.trunk, *late] if any(True for _ in part.parameters())]


@pytest.mark.parametrize("name", EVERY)
def test_taps_of_boundary_network_and_affinity(name: str) -> None:
    network = build_boundary_network(name, "none")
    assert network.backbone.strides[1:] == [4, 8, 16, 8 if name == "hrnet" else 16]
    edge, displacement = network(images())
    assert edge.shape == (1, 1, 19, 27)
    assert displacement.shape == (1, 2, 19, 27)
    stages = network.backbone
    taps = tapped(list(stages.stages), images(), family_of(name).taps, list(stages.shown))
    looks = descriptors(taps, (9, 13))
    assert looks.shape == (9 * 13, sum(tap.shape[1] for tap in taps))
    assert torch.isfinite(looks).all()


@pytest.mark.parametrize("name", [*PLAIN, *WINDOWS, *CONVNEXT])
def test_the_parts_are_timms_network(name: str) -> None:
    network = create_network(name, output_stride=32).eval()
    family = family_of_kind(type(network), name)
    photo = images(size=(64, 96))
    entered = nn.Sequential(*entrance_of(network, family))(photo)
    with torch.no_grad():
        own = network.forward_features(entered)
        ours = split_network(network, name)(photo)
    if family.plain:
        assert network.pretrained_cfg["mean"] == (0.485, 0.456, 0.406) or not torch.equal(entered, photo)
        own = network.fc_norm(own)[:, network.num_prefix_tokens :].transpose(1, 2)
        assert ours.shape[-2:] == (4, 6)
        assert torch.allclose(ours.flatten(2), own, atol=1e-5)
    elif name in WINDOWS:
        assert torch.allclose(ours, own.permute(0, 3, 1, 2), atol=1e-5)
    else:
        assert torch.allclose(ours, network.head.norm(own), atol=1e-5)


@pytest.mark.parametrize("name", WINDOWS)
def test_the_last_stage_of_a_swin_is_looked_at_from_four_places(name: str) -> None:
    fine, coarse = (create_network(name, output_stride=stride).eval() for stride in (16, 32))
    fine.load_state_dict(coarse.state_dict())  # lowering the stride changes no name
    photo = images(size=(128, 64))
    with torch.no_grad():
        four = split_network(fine, name)(photo)
        one = split_network(coarse, name)(photo)
    assert four.shape[-2:] == (8, 4)
    assert torch.allclose(four[..., ::2, ::2], one, atol=1e-5)
    assert not torch.allclose(four[..., 1::2, ::2], one, atol=1e-2)


@pytest.mark.parametrize("name", BATCH_NORM)
def test_folding_is_exact(name: str) -> None:
    classifier = classifier_of(name).double()
    statistics = torch.Generator().manual_seed(3)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3, generator=statistics)
            module.running_var.uniform_(0.5, 2, generator=statistics)
    photo = images().double()
    features = classifier.trunk_features(photo)
    plain = classifier.class_maps(features)
    with FoldedHead(classifier.backbone.head) as folded:
        assert folded.pairs
        assert torch.allclose(classifier.class_maps(features), plain, rtol=1e-9, atol=1e-9)
    fold_trunk(classifier.backbone)
    assert torch.allclose(classifier.trunk_features(photo), features, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_swin", "test_convnext"])
@pytest.mark.parametrize("architecture", ["fpn", "unet", "segformer"])
def test_segmentation_networks(name: str, architecture: str) -> None:
    network = build_segmentation_network(architecture, name, 4, "none")
    logits = network(images(count=2))
    assert logits.shape == (2, 4, *SIZE)
    logits.mean().backward()
    encoder, new = network.parameter_groups()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in encoder)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in new)


def test_deeplab_under_a_plain_vit() -> None:
    assert build_segmentation_network("deeplabv3plus", "tiny_vit", 4, "none")(images()).shape == (1, 4, *SIZE)
    with pytest.raises(ConfigError, match=r"no dilated form, .* take a decoder such as segmenter\.arch"):
        build_segmentation_network("deeplabv2", "tiny_vit", 4, "none")


def test_weights_for_another_size_and_of_another_network(tmp_path: Path) -> None:
    larger = timm.create_model("tiny_vit", img_size=70)  # 25 positions instead of 9
    save_module(larger, tmp_path / "larger.safetensors")
    classifier = build_classifier("tiny_vit", 2, str(tmp_path / "larger.safetensors"))
    embedding = classifier.backbone.trunk[1].net
    assert embedding.pos_embed.shape == (1, 9, 16)
    assert torch.equal(embedding.reg_token, larger.reg_token)
    with pytest.raises(WeightsError, match=r"looks like another network than .*: tensor '.*' is"):
        build_classifier("tiny_siglip", 2, str(tmp_path / "larger.safetensors"))
    pyramid = build_segmentation_network("fpn", "tiny_vit", 2, str(tmp_path / "larger.safetensors"))
    assert torch.equal(pyramid.encoder.stages[0][0].net.cls_token, larger.cls_token)


def test_whole_cells() -> None:
    cells = WholeCells(16, 14)
    assert cells(images(size=(16, 375))).shape == (1, 3, 14, 23 * 14)
    assert cells(images(size=(3, 500))).shape == (1, 3, 14, 31 * 14)
    photo = images(size=(32, 48)).double()
    assert WholeCells(16, 16)(photo) is photo
    mirrored = cells(photo.flip(-1)).flip(-1)
    assert torch.allclose(cells(photo), mirrored)


def test_stages_of_whole_photos_have_the_reference_strides() -> None:
    taps = build_stages("tiny_vit", "none")(images())
    assert [tuple(tap.shape[2:]) for tap in taps] == [(19, 27), (19, 27), (10, 14), (5, 7), (5, 7)]


def test_an_unsupported_network_names_the_families() -> None:
    with pytest.raises(ConfigError, match=r"'test_nfnet' is a NormFreeNet; supported families: ResNet, .*Vision"):
        build_classifier("test_nfnet", 2, "none")
