"""The main job on embedded material: real photos by an ImageNet classifier, and the full chain on digits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tag2mask.chain import run
from tag2mask.common.files import atomic_write, write_json
from tag2mask.common.progress import track
from tag2mask.data import Dataset, ImageRecord, LocalizationMaps, decode_image, read_image
from tag2mask.data.transforms import resize_long
from tag2mask.engine.execution import Execution, cpu_threads
from tag2mask.engine.loop import check_execution
from tag2mask.experiments.demo_data import DemoPhoto, digit_scenes, sample_photos
from tag2mask.networks import build_imagenet_classifier
from tag2mask.recipe import load_recipe
from tag2mask.refine.threshold import cover_by_score, otsu_score
from tag2mask.reports import write_report
from tag2mask.reports.pictures import heat_overlay, mask_overlay
from tag2mask.rib import RIBConfig
from tag2mask.runs.info import read_info, refuse_other_run
from tag2mask.stages.affinity import AffinityStageConfig, Follower
from tag2mask.stages.localize import LocalizeConfig, Localizer
from tag2mask.stages.refine import RefineConfig, refined_labels, resolve_method

LONG_SIDE = 384  # pixels of the photos
BACKBONE = "efficientnet_lite0"
RIB = RIBConfig.fast(partners="none", channels_last=True)  # one searched step of the photo alone
AFFINITY = AffinityStageConfig(backbone=BACKBONE, weights="auto", temperature=0.06, products=3)
PHOTOS = ("chelsea", "coffee", "motorcycle_left", "rocket")
TEXT = (
    "One tag a photo goes in. The classifier is EfficientNet-Lite0 with its own 1,000-class ImageNet head; no mask "
    "and no training is involved. CAM shows what the classifier looks at, RIB what it knows after one step without "
    "its last activation. The mask is RIB's map, averaged over what looks alike in the photo, cut where the map's "
    "values part (Otsu) and refined by {method}."
)


def demo(out: Path, *, execution: Execution | None = None) -> tuple[Path, dict[str, Any]]:
    """Run both parts in `out` and write the report; returns its path and the scores on the digits.

    Needs the extra `demo`; no data set, hub or GPU. A second call finds everything done.
    """
    execution = execution or Execution()
    check_execution(execution)
    if not read_info(out):
        refuse_other_run(out, {}, {})  # before anything is written beside it
    data = digit_scenes(out.parent / f"{out.name}_digits")
    scores = run(load_recipe("digits"), data, out, execution=execution)
    if not (out / "showcase.json").is_file():
        showcase(out)
    return write_report(out), scores


def showcase(out: Path) -> None:
    """Write showcase.json and its pictures: photo, CAM, RIB and mask of scikit-image's photos."""
    photos = [photo for photo in sample_photos() if photo.name in PHOTOS]
    dataset = _as_dataset(photos, out)
    classifier = build_imagenet_classifier(BACKBONE, [photo.imagenet_class for photo in photos])
    method = resolve_method(RefineConfig()).method
    with cpu_threads(1):
        localizer = Localizer(dataset, classifier, out, LocalizeConfig(rib=RIB), seed=0)
        follower = Follower({}, out, out, ["rib"], AFFINITY)
        records = track(dataset.records, total=len(dataset), description="photos")
        pairs = zip(photos, records, strict=True)
        items = [_show(localizer, follower, photo, record, method, out) for photo, record in pairs]
    text = TEXT.format(method={"crf": "dense CRF", "pamr": "PAMR"}[method])
    write_json(out / "showcase.json", {"title": "Real photos, one tag each", "text": text, "items": items})


def _as_dataset(photos: list[DemoPhoto], out: Path) -> Dataset:
    """Write the photos at a common size and return them as a data set of one tag each."""
    records = []
    for index, photo in enumerate(photos):
        path = out / "showcase" / f"{photo.name}.jpg"
        _save(resize_long(decode_image(photo.path), LONG_SIDE), path)
        records.append(ImageRecord(photo.name, path, (index,)))
    return Dataset("photos", tuple(photo.tag for photo in photos), tuple(records))


def _show(
    localizer: Localizer, follower: Follower, photo: DemoPhoto, record: ImageRecord, method: str, out: Path
) -> dict[str, Any]:
    started = time.monotonic()
    image = read_image(record)
    size = (image.shape[0], image.shape[1])
    result = localizer.maps_of(image, record)
    scales = localizer.config.rib.scales
    stored = [
        LocalizationMaps(np.asarray([0]), size, scales, [values.detach().numpy() for values in sums])
        for sums in (result.cam_sums, result.rib_sums)
    ]
    cam, rib = (maps.full() for maps in stored)  # (1, H, W)
    alike = follower.followed(image, stored[1:])[0].full()  # (1, H, W)
    mask = refined_labels(image, alike, np.asarray([0]), otsu_score(cover_by_score(alike)), method)
    pictures = {
        "cam": heat_overlay(image, cam[0]),
        "rib": heat_overlay(image, rib[0]),
        "mask": mask_overlay(image, mask),
    }
    item = {"name": photo.name, "tag": photo.tag, "photo": f"showcase/{photo.name}.jpg"}
    for kind, picture in pictures.items():
        item[kind] = f"showcase/{photo.name}_{kind}.jpg"
        _save(picture, out / item[kind])
    return item | {"seconds": round(time.monotonic() - started, 1)}


def _save(picture: np.ndarray, path: Path) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, quality=90)
