"""The archive that the PASCAL VOC 2012 evaluation server expects, and its check before anyone uploads it."""

from __future__ import annotations

import argparse
import gzip
import io
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from tag2mask.cli.common import add_execution_options, execution_of
from tag2mask.common.errors import ConfigError, DataError, did_you_mean
from tag2mask.common.files import atomic_write, refuse_existing
from tag2mask.common.progress import track
from tag2mask.data import VOC_CLASSES, image_size, read_mask
from tag2mask.data.masks import palette_picture
from tag2mask.data.readers.voc import list_lines, voc_home

# comp6: segmentation with any training data but the test images, which ImageNet weights make it.
FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
TEST_IMAGES = 1456
_SHOWN = 5


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    command.add_argument("--data", type=Path, required=True, help="VOC 2012 with the test archive unpacked into it")
    command.add_argument("--run", type=Path, help="the run whose network predicts the test images")
    command.add_argument(
        "--masks", type=Path, help="instead: a folder with ID.png of every test image, in VOC's numbers"
    )
    command.add_argument("--out", type=Path, default=Path("results.tgz"), help="the archive (default results.tgz)")
    command.add_argument("--check-only", type=Path, metavar="ARCHIVE", help="only check an archive that is there")
    command.add_argument(
        "--expect",
        type=int,
        default=TEST_IMAGES,
        metavar="N",
        help=f"images in the test list (default {TEST_IMAGES})",
    )
    add_execution_options(command)
    command.set_defaults(resumes=True)  # the prediction does


def export(options: argparse.Namespace) -> int:
    """Write the archive, or check one that is there; 1 where a check finds problems."""
    images = listed_images(options.data, options.expect)
    if options.check_only is not None:
        return _check(options.check_only, images)
    if (options.run is None) == (options.masks is None):
        raise ConfigError("export voc-server needs either --run RUN or --masks DIR")
    refuse_existing(options.out, "--out")
    masks, values = (options.masks, None) if options.run is None else _predicted(options, images)
    print(f"{write_archive(masks, images, options.out, values)}: {len(images)} masks, checked; nothing was uploaded")
    return 0


def _check(archive: Path, images: Mapping[str, Path]) -> int:
    problems = check_archive(archive, images)
    for problem in problems[:20]:
        print(f"! {problem}", file=sys.stderr)
    print(f"{archive}: " + (f"{len(problems)} problem(s)" if problems else f"fine, {len(images)} masks"))
    return 1 if problems else 0


def _predicted(options: argparse.Namespace, images: Mapping[str, Path]) -> tuple[Path, np.ndarray]:
    """Predict the test images by the run's network; return the folder of the masks and their values' table."""
    from tag2mask.inference import predict_listed
    from tag2mask.runs.folder import read_manifest

    # before the images are predicted: other classes than VOC's can't be submitted
    values = voc_values(read_manifest(options.run / "segmenter", "train-segmenter").get("classes", ()))
    out = options.run / "test_predictions"
    predict_listed(images, options.run, out, execution=execution_of(options))
    return out / "masks", values


def listed_images(root: Path, expected: int = TEST_IMAGES) -> dict[str, Path]:
    """Return {id: photo} of ImageSets/Segmentation/test.txt, in its order.

    Raises DataError when there is no such list, it has another number of images than `expected`, or photos are
    missing.
    """
    home = voc_home(root.expanduser().absolute())
    path = home / "ImageSets" / "Segmentation" / "test.txt"
    if not path.is_file():
        raise DataError(f"{path}: no such list; unpack the test archive (VOC2012test.tar) there")
    images = {stem: home / "JPEGImages" / f"{stem}.jpg" for _, _, _, stem in list_lines(path, "test")}
    if len(images) != expected:
        raise DataError(
            f"{path}: lists {len(images)} images, the server expects {expected}; use the official list, "
            "or give --expect for another server"
        )
    missing = [stem for stem, photo in images.items() if not photo.is_file()]
    if missing:
        raise DataError(f"{home}: {_some(missing)} not in JPEGImages; unpack VOC2012test.tar again")
    return images


def voc_values(classes: Sequence[str]) -> np.ndarray:
    """Return the (256,) uint8 table from a network's mask values (1..C are `classes`) to VOC's numbers.

    Values that name nothing become 255. Raises DataError for a class that VOC doesn't have.
    """
    table = np.full(256, 255, np.uint8)
    table[0] = 0
    for value, name in enumerate(classes, start=1):
        if name not in VOC_CLASSES:
            raise DataError(f"the network's class '{name}' is not one of VOC's{did_you_mean(name, VOC_CLASSES)}")
        table[value] = VOC_CLASSES.index(name) + 1
    return table


def write_archive(masks: Path, images: Mapping[str, Path], out: Path, values: np.ndarray | None = None) -> Path:
    """Write `masks`/ID.png of all `images` as the server's archive and check it; the same masks give the same bytes.

    `values` (256,) translates mask values to VOC's 0..20; without it they are taken as they are. Raises DataError,
    naming the masks that are missing, of the wrong size or with values outside 0..20, and writes nothing then.
    """
    if not masks.is_dir():
        raise DataError(f"{masks}: no such folder; predict the test images first")
    missing = [stem for stem in images if not (masks / f"{stem}.png").is_file()]
    if missing:
        raise DataError(f"{masks}: no mask for {_some(missing)}; predict the test images first")
    with atomic_write(out) as temporary:
        _pack(masks, images, temporary, values)
        problems = check_archive(temporary, images)
        if problems:
            raise DataError(f"{out}: not written: {problems[0]}")
    return out


def _pack(masks: Path, images: Mapping[str, Path], out: Path, values: np.ndarray | None) -> None:
    with (
        out.open("wb") as stream,
        gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for stem in track(sorted(images), total=len(images), description="archive"):
            path = masks / f"{stem}.png"
            labels = read_mask(path, values)
            problem = _mask_problem(labels, image_size(images[stem]))
            if problem:
                raise DataError(f"{path}: {problem}; predict the image again")
            data = _png(labels)
            member = tarfile.TarInfo(f"{FOLDER}/{stem}.png")  # time, owner and mode are constants
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))


def check_archive(path: Path, images: Mapping[str, Path]) -> list[str]:
    """Return what the server would refuse or misread in an archive: names, palette, sizes, values; [] when fine.

    Raises DataError when it is no archive at all.
    """
    problems: list[str] = []
    found: set[str] = set()
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if member.isdir():
                    continue
                if str(name.parent) != FOLDER or name.suffix != ".png" or not member.isfile():
                    problems.append(f"holds '{member.name}'; expected only {FOLDER}/ID.png")
                elif name.stem not in images:
                    problems.append(f"holds '{name.name}', which is not a test image")
                elif name.stem in found:
                    problems.append(f"holds '{name.name}' twice")
                else:
                    found.add(name.stem)
                    stream = archive.extractfile(member)
                    assert stream is not None
                    problem = _stored_problem(stream.read(), image_size(images[name.stem]))
                    problems += [f"{name.name}: {problem}"] if problem else []
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: is not a whole .tgz archive ({error}); write it again") from error
    missing = [stem for stem in images if stem not in found]
    return problems + ([f"lacks {_some(missing)}"] if missing else [])


def _stored_problem(data: bytes, size: tuple[int, int]) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.mode != "P":
                return f"is a PNG of mode {picture.mode}; the server reads palette indices"
            if picture.size != (size[1], size[0]):  # before decoding: a wrong one may claim any size
                return f"is {picture.size[1]} x {picture.size[0]} pixels, its photo {size[0]} x {size[1]}"
            return _mask_problem(np.array(picture), size)
    except (OSError, ValueError, SyntaxError) as error:
        return f"is not a whole PNG ({error})"


def _mask_problem(labels: np.ndarray, size: tuple[int, int]) -> str:
    if labels.shape != size:
        return f"is {labels.shape[0]} x {labels.shape[1]} pixels, its photo {size[0]} x {size[1]}"
    strange = [int(value) for value in np.unique(labels) if value > len(VOC_CLASSES)]
    return f"holds the value(s) {', '.join(map(str, strange[:_SHOWN]))}, outside 0..20" if strange else ""


def _png(labels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    palette_picture(labels).save(stream, format="PNG")
    return stream.getvalue()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{len(names)} image(s): {shown}" + (", ..." if len(names) > _SHOWN else "")
