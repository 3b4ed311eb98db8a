"""Makes a data set in COCO's format from photos with palette masks: polygons, crowd regions, both kinds of RLE."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IGNORED = 255


def outline(region: np.ndarray) -> list[float]:
    """The polygon, [x0, y0, x1, y1, ...], of a region (H, W) bool from first to last pixel in each row."""
    rows = np.flatnonzero(region.any(axis=1))
    left = region[rows].argmax(axis=1)
    right = region.shape[1] - region[rows][:, ::-1].argmax(axis=1)
    down = [(x, y + d) for x, y in zip(left, rows, strict=True) for d in (0, 1)]
    up = [(x, y + 1 - d) for x, y in zip(right[::-1], rows[::-1], strict=True) for d in (0, 1)]
    return [float(value) for point in down + up for value in point]


def run_lengths(region: np.ndarray) -> dict[str, Any]:
    """Uncompressed RLE of a region (H, W) bool: runs down the columns, outside first."""
    flat = region.T.ravel().tolist()
    runs = [(value, len(list(group))) for value, group in groupby(flat)]
    counts = [length for _, length in runs]
    return {"size": list(region.shape), "counts": counts if not flat[0] else [0, *counts]}


def coco_set(
    home: Path,
    photos: Mapping[str, Sequence[tuple[Path, Path]]],
    categories: Mapping[int, str],
    values: Mapping[int, int],
) -> Path:
    """Write a COCO set: `photos` are (image, mask) by split; `values` gives a mask's value the category id.

    Every region of one value becomes one annotation, of 255 a crowd of the first category.
    """
    number = 0
    for split, pairs in photos.items():
        folder = f"{split}2014"
        images, annotations = [], []
        (home / folder).mkdir(parents=True, exist_ok=True)
        for image_id, (photo, mask_path) in enumerate(pairs, start=1):
            name = f"COCO_{folder}_{image_id:012d}.jpg"
            shutil.copy(photo, home / folder / name)
            mask = np.array(Image.open(mask_path))
            images.append({"id": image_id, "file_name": name, "height": mask.shape[0], "width": mask.shape[1]})
            for value in np.unique(mask):
                if value in values or value == IGNORED:
                    number += 1
                    region = mask == value
                    crowd = int(value == IGNORED)
                    annotations.append(
                        {
                            "id": number,
                            "image_id": image_id,
                            "area": float(region.sum()),
                            "iscrowd": crowd,
                            "category_id": min(categories) if crowd else values[int(value)],
                            "segmentation": run_lengths(region) if crowd else [outline(region)],
                        }
                    )
        content = {
            "info": {"description": "made for a test"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": n} for i, n in categories.items()],
        }
        path = home / "annotations" / f"instances_{folder}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return home
