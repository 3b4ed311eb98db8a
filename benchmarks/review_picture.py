"""A picture of the review's page for the documentation: many photos, and one of them.

    tag2mask demo && python benchmarks/review_picture.py runs/demo docs/review.png

Needs the extra `dev` and Debian's chromium. The run is copied; nothing is decided in it.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

SIZE = {"width": 1180, "height": 640}  # pixels of a window
NEEDED = (
    "run.json",
    "index.json",
    "localization",
    "affinity",
    "walk_rib",
    "walk_cam",
    "pseudo_masks",
    "masks",
    "predictions",
)


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        for name in NEEDED:
            source = options.run / name
            if source.exists():
                (shutil.copytree if source.is_dir() else shutil.copy2)(source, run / name)
        views = pictures(run)
    both = Image.new("RGB", (SIZE["width"], 2 * SIZE["height"] + 8), "white")
    for place, view in enumerate(views):
        both.paste(Image.open(io.BytesIO(view)), (0, place * (SIZE["height"] + 8)))
    both.quantize(256, method=Image.Quantize.FASTOCTREE).save(options.out, optimize=True)
    print(f"{options.out}: {options.out.stat().st_size // 1024} KB")


def pictures(run: Path) -> list[bytes]:
    """The page of a run with some decisions, as two PNGs."""
    command = [sys.executable, "-m", "tag2mask.cli", "review", str(run), "--no-browser"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                return views(browser.new_page(viewport=SIZE), address)
        finally:
            server.terminate()


def views(page: Page, address: str) -> list[bytes]:
    """Many photos, two of them decided on; then one with a stroke of the brush."""
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.focus("#grid")
    for key in ("a", "a", "r", "ArrowRight"):
        page.keyboard.press(key)
        page.wait_for_timeout(500)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)
    many = page.screenshot()
    page.keyboard.press("Enter")
    page.wait_for_timeout(2500)
    page.keyboard.press("b")
    box = page.locator("#sheet").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.5 * box["height"])
    return [many, page.screenshot()]


if __name__ == "__main__":
    main()
