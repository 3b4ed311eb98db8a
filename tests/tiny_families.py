"""Tiny networks of every family, random, as timm makes them by name."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.eva import _create_eva
from timm.models.swin_transformer import _create_swin_transformer
from timm.models.swin_transformer_v2 import _create_swin_transformer_v2
from timm.models.vision_transformer import _create_vision_transformer
from torch import nn

_VIT = {"embed_dim": 16, "depth": 5, "num_heads": 2}
_SWIN = {"embed_dim": 8, "depths": (1, 1, 2, 2), "num_heads": (1, 1, 2, 2), "window_size": 2, "img_size": 64}


@register_model
def tiny_vit(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """As DINOv2 with registers: patches of 14 pixels, a class token and four registers, sizes of 3 cells a side."""
    own = {"img_size": 42, "patch_size": 14, "reg_tokens": 4, "init_values": 1.0, "no_embed_class": True}
    return _create_vision_transformer("vit_small_patch14_reg4_dinov2", **{**_VIT, **own, **arguments})


@register_model
def tiny_clip(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """As CLIP's tower: patches of 32 pixels, a norm before the blocks, a normalisation of its own."""
    own = {"img_size": 64, "patch_size": 32, "pre_norm": True}
    return _create_vision_transformer("vit_base_patch32_clip_224", **{**_VIT, **own, **arguments})


@register_model
def tiny_siglip(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """As SigLIP's tower: no class token, pooled by attention."""
    own = {"img_size": 32, "patch_size": 8, "class_token": False, "global_pool": "map"}
    return _create_vision_transformer("vit_base_patch16_siglip_224", **{**_VIT, **own, **arguments})


@register_model
def tiny_eva02(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """As EVA-02: rotary position embeddings beside learned ones, gated layers."""
    own = {"img_size": 42, "patch_size": 14, "use_rot_pos_emb": True, "swiglu_mlp": True, "ref_feat_shape": (3, 3)}
    return _create_eva("eva02_tiny_patch14_224", **{**_VIT, **own, **arguments})


@register_model
def tiny_dinov3(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """As DINOv3: rotary position embeddings alone, four registers."""
    own = {"img_size": 32, "patch_size": 16, "num_reg_tokens": 4, "use_abs_pos_emb": False, "use_rot_pos_emb": True}
    own |= {"rope_type": "dinov3", "no_embed_class": True, "init_values": 1.0}
    return _create_eva("vit_small_patch16_dinov3", **{**_VIT, **own, **arguments})


@register_model
def tiny_swin(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Swin with windows of 2 x 2."""
    return _create_swin_transformer("swin_tiny_patch4_window7_224", **{**_SWIN, **arguments})


@register_model
def tiny_swinv2(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Swin V2 with windows of 2 x 2."""
    return _create_swin_transformer_v2("swinv2_tiny_window8_256", **{**_SWIN, **arguments})


PLAIN = ["tiny_vit", "tiny_clip", "tiny_siglip", "tiny_eva02", "tiny_dinov3", "test_vit"]
WINDOWS = ["tiny_swin", "tiny_swinv2"]
CONVNEXT = ["test_convnext", "test_convnext2"]  # V1 and V2
BATCH_NORM = [
    "test_resnet",
    "regnetx_002",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "test_efficientnet",
    "hrnet_w18_small",
]
