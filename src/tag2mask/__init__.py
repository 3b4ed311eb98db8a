"""tag2mask: from image-level labels to pixel-accurate masks and a trained segmentation network."""

__version__ = "0.1.0"
