"""Images, labels, masks and maps: reading and writing them, and nothing else."""

from tag2mask.data.check import CheckReport, check_dataset, check_masks
from tag2mask.data.images import decode_image, image_size, image_sizes, limited_size, read_image
from tag2mask.data.maps import LocalizationMaps, at_full, at_stride4, load_maps, save_maps
from tag2mask.data.masks import read_mask, resize_labels, voc_palette, write_mask
from tag2mask.data.partners import PartnerIndex
from tag2mask.data.readers import READERS, read_dataset
from tag2mask.data.records import IGNORED, VOC_CLASSES, Dataset, ImageRecord, Problem, Reading
from tag2mask.data.transforms import Draws, augment, joint_augment, normalise, random_augment, rescale

__all__ = [
    "IGNORED",
    "READERS",
    "VOC_CLASSES",
    "CheckReport",
    "Dataset",
    "Draws",
    "ImageRecord",
    "LocalizationMaps",
    "PartnerIndex",
    "Problem",
    "Reading",
    "at_full",
    "at_stride4",
    "augment",
    "check_dataset",
    "check_masks",
    "decode_image",
    "image_size",
    "image_sizes",
    "joint_augment",
    "limited_size",
    "load_maps",
    "normalise",
    "random_augment",
    "read_dataset",
    "read_image",
    "read_mask",
    "rescale",
    "resize_labels",
    "save_maps",
    "voc_palette",
    "write_mask",
]
