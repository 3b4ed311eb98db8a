"""The pictures of these pages, made anew: `make demo`, then `python docs/pictures.py runs/demo`.

Needs Playwright and a Chromium (`--chromium PATH` where it isn't Playwright's own). Writes example.jpg, new.svg,
report.jpg, compare.jpg and export.jpg beside this file; the run is copied first and stays as it is.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.console import Console

HERE = Path(__file__).parent
LOWER = "refine.threshold=0.45"
SHOWN = 5  # overlays
GAP = 8  # pixels between pictures


def main() -> None:
    """Make all pictures of a finished run of the demonstration."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "digits"
        shutil.copytree(options.run, run)
        data = ["--data", str(options.data or options.run.with_name(f"{options.run.name}_digits"))]
        _terminal(["new", data[1], "--no-decode", "--out", str(Path(folder) / "digits.yaml")], "photos")
        _tag2mask("refine", str(run), "--set", LOWER, *data)
        _tag2mask("report", str(run))
        _pages(run / "report.html", options.chromium)
        _tag2mask("export", "masks", str(run), "--as", "overlay", "--out", f"{folder}/overlays")
        _save_sheet([sorted(Path(folder, "overlays").rglob("*.jpg"))[:SHOWN]], "export.jpg")
    _example(options.run)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="runs/demo")
    parser.add_argument("--data", type=Path, help="its scenes (default: runs/demo_digits)")
    parser.add_argument("--chromium", help="path of the browser")
    return parser.parse_args()


def _tag2mask(*arguments: str) -> str:
    command = [sys.executable, "-m", "tag2mask.cli", *arguments]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def _terminal(arguments: list[str], called: str) -> None:
    """What a command prints, as new.svg; its folders are called `called`."""
    text = _tag2mask(*arguments).replace(arguments[-1], "digits.yaml")
    text = text.replace(arguments[1], called).replace(Path(arguments[1]).name, called)
    console = Console(record=True, width=124, file=io.StringIO())
    console.print(f"$ tag2mask new {called}", style="bold")
    console.print(text.rstrip(), markup=False, highlight=False)
    picture = console.export_svg(title="tag2mask new")
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)  # nothing is loaded from elsewhere
    (HERE / "new.svg").write_text(picture, encoding="utf-8")


def _pages(report: Path, chromium: str | None) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1180}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.add_style_tag(content="html { scroll-behavior: auto !important } .tools { position: static !important }")
        _save(page, "report.jpg")
        page.evaluate("document.querySelector('#compare').scrollIntoView()")
        _save(page, "compare.jpg")
        browser.close()


def _save(page: Page, name: str) -> None:
    page.wait_for_timeout(300)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(HERE / name, quality=72, optimize=True)


def _example(run: Path) -> None:
    """Photo, CAM, RIB and mask of each photo that the demonstration shows."""
    items = json.loads((run / "showcase.json").read_text(encoding="utf-8"))["items"]
    rows = [[run / item[kind] for kind in ("photo", "cam", "rib", "mask")] for item in items]
    _save_sheet(rows, "example.jpg", height=160)


def _save_sheet(rows: list[list[Path]], name: str, height: int | None = None) -> None:
    """Pictures side by side, in rows of one height (default: the lowest picture's), as `name` beside this file."""
    sheets = [_beside([Image.open(path).convert("RGB") for path in row], height) for row in rows]
    size = (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets) + GAP * (len(sheets) - 1))
    whole, top = Image.new("RGB", size, "white"), 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height + GAP
    whole.save(HERE / name, quality=80, optimize=True)


def _beside(pictures: list[Image.Image], height: int | None) -> Image.Image:
    height = height or min(picture.height for picture in pictures)
    pictures = [picture.resize((round(picture.width * height / picture.height), height)) for picture in pictures]
    sheet = Image.new(
        "RGB", (sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1), height), "white"
    )
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP
    return sheet


if __name__ == "__main__":
    main()
