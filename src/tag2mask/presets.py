"""`backbone: NAME`: settings of classifier, maps, affinity and segmentation network that fit one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tag2mask.common.errors import ConfigError, did_you_mean
from tag2mask.config import Lines, where, with_changes, with_overrides

BACKBONE, AFFINITY = "backbone", "affinity"
# Short names beside timm's own, which may all be given where the family is supported.
PRESETS = {
    "efficientnet_lite0": "efficientnet_lite0",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnetv2_small": "tf_efficientnetv2_s",
    "mobilenetv3_large": "mobilenetv3_large_100",
    "mobilenetv4_medium": "mobilenetv4_conv_medium",
    "resnet50": "resnet50.tv_in1k",
    "resnext50": "resnext50_32x4d",
    "regnety_016": "regnety_016",
    "hrnet_w18": "hrnet_w18",
    "convnext_tiny": "convnext_tiny",
    "convnextv2_tiny": "convnextv2_tiny",
    "convnext_tiny_dinov3": "convnext_tiny.dinov3_lvd1689m",
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "swinv2_tiny": "swinv2_tiny_window8_256",
    "deit_small": "deit_small_patch16_224",
    "augreg_small": "vit_small_patch16_224",
    "dinov2_small": "vit_small_patch14_dinov2",
    "dinov2_small_reg": "vit_small_patch14_reg4_dinov2",
    "dinov2_base": "vit_base_patch14_dinov2",
    "dinov3_small": "vit_small_patch16_dinov3",
    "clip_base": "vit_base_patch16_clip_224.openai",
    "siglip_base": "vit_base_patch16_siglip_224",
    "eva02_small": "eva02_small_patch14_224",
}


def backbone_settings(name: str) -> dict[str, Any]:
    """Settings over a recipe's for a preset or a timm name; ConfigError for one that is neither or not supported."""
    from tag2mask.networks.backbones import family_of  # here: it imports torch, and most recipes name no preset

    name = PRESETS.get(name, name)
    family = family_of(name)
    steep = {"optimiser": "adamw", "schedule": "one_cycle", "learning_rate": family.rate, "weight_decay": 0.01}
    sizes = {"long_side_min": 256, "long_side_max": 448, "crop_size": 320}
    return {
        "classifier": {
            "backbone": name,
            "stages": [5],
            **steep,
            "new_layers_multiplier": 20.0,  # the 1x1 convolution begins at nothing
            "tuned": "head",
            "pooling": family.pooling.kind,
            "pooling_parameter": family.pooling.parameter if family.pooling.kind != "average" else None,
            **sizes,
        },
        # one step whose length is searched: no rate has to be known
        "localize": {
            "rib": {"preset": "fast", "channels_last": True},
            **{f"partner_{key}": value for key, value in sizes.items()},
        },
        AFFINITY: {"taps": list(family.taps)},
        "segmenter": {
            "architecture": "fpn",
            "backbone": name,
            **steep,
            "new_layers_multiplier": 3.0,
            "balanced": False,
            "crop_size": 256,
        },
    }


def with_backbone(
    values: dict[str, Any], overrides: Sequence[str], source: str, lines: Lines
) -> tuple[dict[str, Any], list[str]]:
    """A recipe's values with the settings of `backbone: NAME` over them, where it is given; and other overrides."""
    given = [text for text in overrides if text.partition("=")[0].strip() == BACKBONE]
    rest = [text for text in overrides if text not in given]
    values = dict(values)
    written = values.pop(BACKBONE, None)
    name = given[-1].partition("=")[2].strip() if given else written
    if name is None:
        return values, rest
    place = f"--set {given[-1]}" if given else where(source, lines, (BACKBONE,))
    if not isinstance(name, str):
        raise ConfigError(f"{place}: backbone is {name!r}; expected one of {', '.join(PRESETS)}, or a timm name")
    try:
        settings = backbone_settings(name)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}{did_you_mean(name, PRESETS)}") from error
    wish = [text for text in rest if text.partition("=")[0].strip() == AFFINITY]
    values, rest = with_overrides(values, wish, lines), [text for text in rest if text not in wish]
    if values.get(AFFINITY) is None and not any(text.strip().startswith(f"{AFFINITY}.") for text in rest):
        del settings[AFFINITY]  # a recipe that does without goes on doing so
    for section in settings:
        if not isinstance(values.get(section) or {}, dict):
            return values, rest  # reported where all types are
        values[section] = values.get(section) or {}
    _forget(lines, settings, (), place)
    return with_changes(values, settings), rest


def _forget(lines: Lines, settings: dict[str, Any], section: tuple[str, ...], place: str) -> None:
    """Note where the preset's settings come from, for messages."""
    for key, value in settings.items():
        here = (*section, key)
        if isinstance(value, dict) and "preset" not in value:
            _forget(lines, value, here, place)
        else:
            for below in [line for line in lines if line[: len(here)] == here]:
                del lines[below]
            lines[here] = place
