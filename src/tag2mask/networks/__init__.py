"""Networks: tensors in, tensors out."""

from tag2mask.networks.backbones import Backbone, create_network
from tag2mask.networks.boundary import BoundaryLosses, BoundaryNetwork, boundary_loss
from tag2mask.networks.classifier import CAMClassifier
from tag2mask.networks.decoders import ARCHITECTURES, EncoderDecoder, build_segmentation_network
from tag2mask.networks.deeplab import DeepLabV2
from tag2mask.networks.losses import LOSSES, segmentation_loss
from tag2mask.networks.weights import (
    build_backbone,
    build_boundary_network,
    build_classifier,
    build_imagenet_classifier,
    load_module,
    save_module,
)

__all__ = [
    "ARCHITECTURES",
    "LOSSES",
    "Backbone",
    "BoundaryLosses",
    "BoundaryNetwork",
    "CAMClassifier",
    "DeepLabV2",
    "EncoderDecoder",
    "boundary_loss",
    "build_backbone",
    "build_boundary_network",
    "build_classifier",
    "build_imagenet_classifier",
    "build_segmentation_network",
    "create_network",
    "load_module",
    "save_module",
    "segmentation_loss",
]
