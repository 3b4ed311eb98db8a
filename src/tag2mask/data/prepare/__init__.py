"""Checking and indexing the published data sets as people have them on disk."""

from tag2mask.data.prepare.coco import prepare_coco
from tag2mask.data.prepare.common import Prepared
from tag2mask.data.prepare.download import DOWNLOADS, download
from tag2mask.data.prepare.voc import prepare_voc

__all__ = ["DOWNLOADS", "Prepared", "download", "prepare_coco", "prepare_voc"]
