"""Saliency maps made from true masks: an UPPER BOUND for saliency in pseudo-masks, never a result.

    python benchmarks/saliency_upper_bound.py DIR --out FOLDER [--split train] [--blur 4] [--noise 0.1] [--seed 0]
    tag2mask run voc_animals --data DIR --out RUN --set comparisons.rib_irn_sal.saliency.source=FOLDER

DIR is any data set that tag2mask reads, with masks. Every pixel of any object, also of classes that a recipe leaves
out, and the ignored rims become 255, background 0. A real saliency model knows less: it never saw these masks,
overlooks small and plain objects, and finds things that no mask has. `--blur` softens the maps by a Gaussian of so
many pixels, `--noise` swaps object and background in that share of cells of 32 pixels; both make the bound a little
less bold.
FOLDER/about.txt says what the maps are, and tag2mask puts that beside every score made with them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from tag2mask.common.files import atomic_write
from tag2mask.common.seeding import seed_for
from tag2mask.data import read_dataset, read_mask

CELL = 32  # pixels
ABOUT = "simulated from true masks (blur {blur:g} pixels, noise {noise:g}): an upper bound, not a result"


def simulated_saliency(mask: np.ndarray, blur: float, noise: float, seed: int) -> np.ndarray:
    """Saliency (H, W) uint8 from a true mask (H, W): 255 where there is any object."""
    shown = mask > 0
    if noise:
        height, width = mask.shape
        cells = np.random.default_rng(seed).random((-(-height // CELL), -(-width // CELL))) < noise
        shown ^= cells.repeat(CELL, axis=0).repeat(CELL, axis=1)[:height, :width]
    picture = Image.fromarray((shown * 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(blur)) if blur else picture)


def main() -> None:
    """Write the maps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a folder for ID.png")
    parser.add_argument("--split", default="", help="only this split's images")
    parser.add_argument("--blur", type=float, default=4.0, help="pixels (default 4)")
    parser.add_argument("--noise", type=float, default=0.0, help="share of cells, 0..1 (default 0)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dataset = read_dataset(options.data)
    records = [r for r in dataset.records if r.mask_path and options.split in ("", r.split)]
    for record in records:
        mask = read_mask(record.mask_path)  # raw values: whatever isn't background is an object
        saliency = simulated_saliency(mask, options.blur, options.noise, seed_for(options.seed, record.id))
        with atomic_write(options.out / f"{record.id}.png") as temporary:
            Image.fromarray(saliency).save(temporary)
    about = ABOUT.format(blur=options.blur, noise=options.noise)
    with atomic_write(options.out / "about.txt") as temporary:
        temporary.write_text(about + "\n", encoding="utf-8")
    print(f"{len(records)} maps in {options.out}, {about}")


if __name__ == "__main__":
    main()
