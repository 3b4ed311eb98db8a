"""What one training step costs by each decoder, and by segmentation_models_pytorch's own SegFormer beside ours.

    python benchmarks/decoders.py [--backbone efficientnet_lite0] [--crop 384] [--threads 1]

Steps of all are taken in turns, five rounds; prints medians of seconds, their ratio to segformer's, and how far
logits and gradients of the two SegFormers with the same parameters lie apart, in parts of the largest value.
"""

from __future__ import annotations

import argparse
import copy
import time
from statistics import median

import torch

from tag2mask.common.memory import keep_freed_memory
from tag2mask.networks import ARCHITECTURES, build_segmentation_network, segmentation_loss
from tag2mask.networks.decoders import SegmentationNetwork, use_group_norm

ROUNDS = 5


def main() -> None:
    """Build, step, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--crop", type=int, default=384)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    names = [name for name in ARCHITECTURES if name != "deeplabv2"]
    networks = {name: build_segmentation_network(name, options.backbone, 5, "none").train() for name in names}
    networks["segformer, as published"] = published(networks["segformer"], options.backbone)
    torch.manual_seed(0)
    images = torch.randn(options.batch, 3, options.crop, options.crop).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 5, (options.batch, options.crop, options.crop))
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for network in networks.values():
        step(network, images[:1], labels[:1])  # what is done once
    for _ in range(ROUNDS):
        for name, network in networks.items():
            started = time.perf_counter()
            step(network, images, labels)
            seconds[name].append(time.perf_counter() - started)
    first = median(seconds["segformer"])
    print(f"{options.batch} crops of {options.crop} pixels, {options.threads} threads, {options.backbone}\n")
    print("| decoder | seconds a step | in parts of segformer |\n|---|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {median(values):.2f} | {median(values) / first:.2f} |")
    print(f"\nlargest difference of the two: {apart(*pair(networks), images[:2], labels[:2])}")


def published(network: SegmentationNetwork, backbone: str) -> SegmentationNetwork:
    """The same network with the decoder of segmentation_models_pytorch, parameters copied."""
    import segmentation_models_pytorch as smp

    from tag2mask.networks.backbones import timm_name

    other = copy.deepcopy(network)
    plain = smp.Segformer(
        f"tu-{timm_name(backbone)}", encoder_weights=None, classes=5, decoder_segmentation_channels=128
    ).decoder
    use_group_norm(plain)
    plain.load_state_dict(network.decoder.state_dict())
    other.decoder = plain.to(memory_format=torch.channels_last)
    return other.train()


def pair(networks: dict[str, SegmentationNetwork]) -> tuple[SegmentationNetwork, SegmentationNetwork]:
    """Ours and theirs."""
    return networks["segformer"], networks["segformer, as published"]


def step(network: SegmentationNetwork, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """One pass forth and back; returns the logits."""
    network.zero_grad()
    logits = network(images)
    segmentation_loss(logits, labels, balanced=False, loss="cross_entropy").backward()
    return logits.detach()


def apart(one: SegmentationNetwork, other: SegmentationNetwork, images: torch.Tensor, labels: torch.Tensor) -> str:
    """Largest differences of logits and gradients, dropout left out."""
    found = []
    for network in (one.eval(), other.eval()):
        logits = step(network, images, labels)
        found.append((logits, [p.grad for p in network.parameters() if p.grad is not None]))
    logits = ((found[0][0] - found[1][0]).abs().max() / found[1][0].abs().max()).item()
    gradients = max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()
        for a, b in zip(found[0][1], found[1][1], strict=True)
    )
    return f"logits {logits:.1e}, gradients {gradients:.1e}"


if __name__ == "__main__":
    main()
