"""A run's segmentation network as an ONNX file that says by itself how it is to be used, checked against torch."""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.common.errors import DataError, MissingExtraError, WeightsError
from tag2mask.common.files import atomic_write, refuse_existing
from tag2mask.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from tag2mask.networks.backbones import SIDE_MULTIPLE
from tag2mask.networks.decoders import EncoderDecoder, SegmentationNetwork
from tag2mask.onnx_file import FORMAT, OnnxNetwork, Usage

EXAMPLE = (2, 3)  # height and width of the traced example, in multiples; they differ, and neither is 1
AS_IT_IS = Usage()
LABELS_EQUAL = 0.999  # of the pixels: the least for an export to be kept
LARGEST_DIFFERENCE = 1e-2  # of logits; a few 1e-5 in practice


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    command.add_argument("run", type=Path, help="the run whose network is written")
    command.add_argument("--to", type=Path, metavar="FILE", help="the file (default RUN/segmenter/network.onnx)")
    command.add_argument("--images", type=Path, help="photos to check it on (default: some of the run's own)")


def export(options: argparse.Namespace) -> int:
    """Write the file and say how it compares with torch."""
    from tag2mask.inference import export_onnx, left_out_of_onnx  # which imports this module

    out = options.to or options.run / "segmenter" / "network.onnx"
    if options.to is not None:  # the run's own file is written again, as its network may be another by now
        refuse_existing(out, "--to")
    parity = export_onnx(options.run, out, options.images)
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB; against torch on {parity.images} photos: largest difference of "
        f"logits {parity.largest:.1e}, labels equal on {100 * parity.equal:.3f} % of the pixels"
    )
    for setting in left_out_of_onnx(options.run):
        print(f"! {setting} isn't in the file: what 'predict --onnx' answers lacks it", file=sys.stderr)
    return 0


@dataclass(frozen=True)
class Parity:
    """How far onnxruntime's logits are from torch's, over some images."""

    images: int
    largest: float  # difference of two logits
    equal: float  # share of the pixels with the same label, 0..1


class AtFullSize(nn.Module):
    """What is exported: logits (1, L, H, W) of ImageNet-normalised images whose sides are multiples of 32.

    Beside them, where the network has a tag prior, which they contain, this prior (1, L).
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits at the image's size; no padding is needed, so that no operation depends on what is left over."""
        if isinstance(self.network, EncoderDecoder):
            logits = self.network.of_padded(images)
        else:
            logits = self.network(images)
            logits = F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
        if self.network.prior is None:
            return (logits,)
        prior = self.network.prior.of_padded(images)
        return logits + prior[:, :, None, None], prior


def export_network(
    network: SegmentationNetwork,
    out: Path,
    classes: Sequence[str],
    checked_on: Iterable[np.ndarray],
    usage: Usage = AS_IT_IS,
) -> Parity:
    """Write `network` to `out` as ONNX with free height and width; return how it compares on the given images.

    `classes` are names without background; `checked_on`: images (H, W, 3) uint8, of several sizes; `usage` goes into
    the file. It is kept only where labels agree on 99.9 % of the pixels. Raises MissingExtraError, DataError without
    images, WeightsError where onnxruntime's answers differ from torch's.
    """
    _check_extra()
    module = AtFullSize(fixed_padding(copy.deepcopy(network).cpu().eval()))
    notes = metadata(classes, usage)
    with atomic_write(out) as temporary:
        _write(module, temporary, notes)
        parity = compare(network, OnnxNetwork(temporary), checked_on)
        if parity.equal < LABELS_EQUAL or parity.largest > LARGEST_DIFFERENCE:
            raise WeightsError(
                f"{out}: not written: onnxruntime's labels agree with torch's on {100 * parity.equal:.2f} % of the "
                f"pixels of {parity.images} images (largest difference of logits {parity.largest:.2g}); update "
                "onnxruntime and torch, or export another architecture"
            )
    return parity


def metadata(classes: Sequence[str], usage: Usage) -> dict[str, str]:
    """What a reader of the file needs to know, each as JSON text under a key of its own."""
    values = {
        "tag2mask": FORMAT,
        "labels": ["background", *classes],  # in the order of the logits
        "mean": list(IMAGENET_MEAN),  # of RGB in 0..1
        "std": list(IMAGENET_STD),
        "size": {
            "multiple": SIDE_MULTIPLE,
            "pad": "right and bottom, with 0 after normalisation",
            "long_side": usage.long_side,
        },
        "scales": list(usage.scales),
        "mirror": usage.mirror,
        "tagged": usage.tagged,
        "combine": usage.combine,
        "edges": usage.edges,
        "background": usage.background,
        "reading": usage.reading.facts(),
        "about": usage.about,
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}


def fixed_padding(module: Any) -> Any:
    """Replace timm's `Conv2dSame`, whose padding depends on the input's size, by convolutions with fixed padding.

    The same result where every input's side is a multiple of its stride, as it is for images whose sides are
    multiples of 32; in place. Where the padding is uneven, a layer of zeros comes first.
    """
    for name, child in module.named_children():
        if isinstance(child, Conv2dSame):
            setattr(module, name, _padded(child))
        else:
            fixed_padding(child)
    return module


def _padded(conv: Conv2dSame) -> nn.Module:
    total = [
        max((size - 1) * dilation + 1 - stride, 0)
        for size, dilation, stride in zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
    ]  # rows, columns
    even = all(side % 2 == 0 for side in total)
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        (total[0] // 2, total[1] // 2) if even else 0,
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        conv.bias is not None,
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    if even:
        return plain
    top, left = total[0] // 2, total[1] // 2
    return nn.Sequential(nn.ZeroPad2d((left, total[1] - left, top, total[0] - top)), plain)


def _check_extra() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, "onnx", "export onnx") from error


def _write(module: AtFullSize, path: Path, notes: dict[str, str]) -> None:
    import onnx

    height, width = (torch.export.Dim(name, min=1, max=512) for name in ("rows", "columns"))
    example = torch.zeros(1, 3, *(side * SIDE_MULTIPLE for side in EXAMPLE))
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes={"images": {2: SIDE_MULTIPLE * height, 3: SIDE_MULTIPLE * width}},
            input_names=["images"],
            output_names=["logits"] if module.network.prior is None else ["logits", "prior"],
            verbose=False,
        )
    model = program.model_proto  # type: ignore[union-attr]
    for key, value in notes.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    onnx.save_model(model, path)


@contextmanager
def _quiet() -> Any:
    """Without the exporter's remarks on what it looks for and doesn't find."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@torch.inference_mode()
def compare(network: SegmentationNetwork, exported: OnnxNetwork, images: Iterable[np.ndarray]) -> Parity:
    """Compare logits and labels of torch and onnxruntime on images (H, W, 3) uint8; DataError without any."""
    count, largest, equal, pixels = 0, 0.0, 0, 0
    for image in images:
        prepared = exported.prepared(image)  # (1, 3, H', W')
        logits = AtFullSize(network)(torch.from_numpy(prepared))[0].numpy()
        found = exported.run(prepared)[0]
        height, width = image.shape[:2]
        ours, theirs = (part[0, :, :height, :width] for part in (logits, found))
        count, pixels = count + 1, pixels + height * width
        largest = max(largest, float(np.abs(ours - theirs).max()))
        equal += int((ours.argmax(axis=0) == theirs.argmax(axis=0)).sum())
    if not count:
        raise DataError("export onnx: there is no photo to check the network on; give some with --images")
    return Parity(count, largest, equal / pixels)
