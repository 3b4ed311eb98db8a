"""Every export is read back: by independent readers and by our own, and gives the same pixels."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from exports_world import CLASSES, NAMES, UNSURE, World, make_world, speckled, write_step
from tag2mask.cli import main
from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json, write_json
from tag2mask.data import image_size, read_dataset, read_mask, voc_palette
from tag2mask.data.class_files import write_class_files
from tag2mask.data.classes import find_class_list
from tag2mask.data.coco_masks import polygon_mask, semantic_mask
from tag2mask.data.images import decode_image
from tag2mask.data.masks import write_mask
from tag2mask.data.photos import photos_dataset
from tag2mask.exports import EXPORTS
from tag2mask.exports.labelstudio import LOCAL_FILES, address_of, brush_rle
from tag2mask.exports.masks import write_masks
from tag2mask.exports.shapes import parts_of, polygons, run_lengths
from tag2mask.exports.source import open_source
from tag2mask.runs.decisions import append, mask_path
from tag2mask.runs.folder import StageFolder
from tag2mask.runs.photos import note_photos

MASKS_OF_A_RUN = ("coco", "cvat", "labelstudio", "yolo", "ultralytics", "masks")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def export(world: World, name: str, *more: str) -> Path:
    out = world.run.parent / "out"
    assert main(["export", name, str(world.run), "--out", str(out), *more]) == 0
    return out


def tags_of(mask: np.ndarray) -> tuple[int, ...]:
    """The classes in a mask, from 0."""
    return tuple(value - 1 for value in np.unique(mask).tolist() if value)


# --- the table --------------------------------------------------------------------------------------------


def test_an_export_is_a_module_and_a_line(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "dummy_export.py").write_text(
        "from tag2mask.exports.source import add_source_options, source_of\n"
        "def add_options(command):\n"
        "    add_source_options(command, 'dummy')\n"
        "    command.add_argument('--loud', action='store_true')\n"
        "def export(options):\n"
        "    for photo, mask in source_of(options):\n"
        "        print(photo.name, mask.shape, options.loud)\n"
        "    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(EXPORTS, "dummy", ("dummy_export", "a dummy for the test"))
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "a dummy for the test" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["export", "dummy", "--help"])
    assert "--loud" in capsys.readouterr().out
    assert main(["export", "dummy", str(world.run), "--loud"]) == 1
    assert "day1/IMG 1.jpg (24, 40) True" in capsys.readouterr().out


def test_help_loads_no_export() -> None:
    code = "import sys, tag2mask.cli as cli\ntry:\n cli.main(['export', '--help'])\nexcept SystemExit:\n"
    code += " assert not {'torch', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in EXPORTS)


# --- the source -------------------------------------------------------------------------------------------


def test_the_best_masks_are_taken_unless_others_are_asked_for(world: World) -> None:
    source = open_source(world.run)
    assert source.folder.name == "pseudo_masks"
    assert (source.classes, source.failed) == (CLASSES, ["failed"])
    assert {photo.id: photo.name for photo, _ in source} == NAMES
    assert (source.empty, source.unsure, source.missing) == (1, {UNSURE: 21}, [])
    assert [photo.id for photo in open_source(world.run, "predictions").photos] == [UNSURE]
    write_step(world.run / "masks", {UNSURE: world.masks[UNSURE]})
    assert open_source(world.run).folder.name == "masks"


def test_held_out_photos_are_exported_as_predicted(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_step(world.run / "masks", {name: world.masks[name] for name in NAMES if name != UNSURE})
    index = read_json(world.run / "index.json")
    index["images"][UNSURE]["split"] = "test"  # whatever the data set calls it
    write_json(world.run / "index.json", index)
    settings = yaml.safe_load((export(world, "yolo") / "data.yaml").read_text("utf-8"))
    assert (settings["train"], settings["val"]) == ("images/train", "images/val")
    assert "from masks: 3, predictions: 1; --of takes one alone" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out" / "images" / "val").rglob("*.*")] == [NAMES[UNSURE]]
    source = open_source(world.run)
    assert source.title.endswith(": tiny, masks and predictions")
    assert not {photo.id: mask for photo, mask in source}[UNSURE].any()
    write_mask(mask_path(world.run, UNSURE), np.full((16, 15), 2, np.uint8))
    append(world.run, [{"id": UNSURE, "mask": "any"}])
    assert ({photo.id: mask for photo, mask in open_source(world.run)}[UNSURE] == 2).all()
    assert [photo.id for photo in open_source(world.run, "masks").photos] == [
        name for name in NAMES if name != UNSURE
    ]
    made = read_json(world.run / "predictions" / "manifest.json")
    write_json(world.run / "predictions" / "manifest.json", {**made, "finished": False})
    assert len(open_source(world.run).photos) == 3


def test_masks_of_photos_that_predict_wrote(world: World, tmp_path: Path) -> None:
    out = tmp_path / "predicted"
    dataset = photos_dataset(world.photos, CLASSES)
    folder = StageFolder(out, "predict", config={}, seed=0, inputs={})
    note_photos(folder, dataset.records)
    for record in dataset.records:
        write_mask(out / "masks" / f"{record.id}.png", np.full(image_size(record.path), 2, np.uint8))
    folder.finish([record.id for record in dataset.records])
    write_class_files(out, CLASSES)
    source = open_source(out)
    assert source.classes == CLASSES
    assert sorted(photo.name for photo, _ in source) == sorted(NAMES.values())
    assert main(["export", "masks", str(out), "--of", "masks"]) == 2


def test_names_count_from_the_folder_asked_for_and_photos_may_have_moved(world: World, tmp_path: Path) -> None:
    names = [photo.name for photo in open_source(world.run, photos=tmp_path).photos]
    assert names[0] == "photos/day1/IMG 1.jpg"
    moved = world.photos.rename(tmp_path / "elsewhere")
    source = open_source(world.run)
    assert len(list(source)) == 4
    assert len(source.missing) == 4
    source = open_source(world.run, photos=moved)
    assert next(photo.path for photo, _ in list(source)) == moved / "day1" / "IMG 1.jpg"
    assert source.missing == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--of", "pseudo_mask"], "has no masks in 'pseudo_mask'; did you mean 'pseudo_masks'?"),
        (["run", "--of", "half"], "half: is not finished; run 'refine' to its end first"),
        (["run", "--photos", "photos/day1"], "lies outside of --photos"),
        (["photos"], "is neither a run's folder (no run.json) nor one that 'predict --images' wrote"),
        (["run", "--out", "photos"], "is there already, and nothing is overwritten; choose another --out"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(
    world: World,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    write_step(world.run / "half", world.masks)
    (world.run / "half" / "manifest.json").write_text('{"stage": "refine", "finished": false}')
    monkeypatch.chdir(tmp_path)
    assert main(["export", "coco", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (world.run / "exports").exists()


def test_nothing_is_left_of_an_export_that_fails(world: World, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Image.new("L", (15, 16), 9).save(world.run / "pseudo_masks" / "masks" / f"{UNSURE}.png")
    for name in MASKS_OF_A_RUN:
        assert main(["export", name, str(world.run), "--out", str(tmp_path / "out")]) == 2
        assert "holds the value 9, but there are 3 classes" in capsys.readouterr().err
    Image.new("L", (15, 15)).save(world.run / "pseudo_masks" / "masks" / f"{UNSURE}.png")
    assert main(["export", "coco", str(world.run), "--out", str(tmp_path / "out")]) == 2
    assert "of another size" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "run"]


def test_what_is_lost_is_said(world: World, capsys: pytest.CaptureFixture) -> None:
    export(world, "coco")
    said = capsys.readouterr()
    assert "4 photos, 1 of them without any object" in said.out
    assert "1 photos have unsure pixels (255), 21 in all: in no annotation; e.g. blätter" in said.err
    assert "1 photos have no mask, since they failed, and are left out; e.g. failed" in said.err


def test_photos_that_differ_in_their_suffix_only_are_refused_where_it_is_not_kept(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    index = json.loads((world.run / "index.json").read_text("utf-8"))
    index["images"][UNSURE]["path"] = str(world.photos / "day2" / "empty.jpg")
    (world.run / "index.json").write_text(json.dumps(index), "utf-8")
    for name in ("cvat", "yolo", "ultralytics", "masks"):
        assert main(["export", name, str(world.run), "--out", str(tmp_path / "out")]) == 2
        assert "differs only in its suffix from empty.png" in capsys.readouterr().err
    assert main(["export", "coco", str(world.run), "--out", str(tmp_path / "out")]) == 0


# --- shapes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_outlines_and_run_lengths_are_exact(seed: int) -> None:
    mask = speckled(4 * (1 + seed % 4), 5 * (1 + seed), seed)
    mask[np.random.default_rng(seed).random(mask.shape) < 0.05] = 255
    parts = parts_of(mask)
    outlines, runs = polygons(parts.labels), run_lengths(parts.labels)
    assert set(outlines) == set(runs) == set(range(1, len(parts.values) + 1))
    for number, value in enumerate(parts.values, 1):
        own = parts.labels == number
        assert (mask[own] == value).all()
        np.testing.assert_array_equal(polygon_mask(outlines[number], *mask.shape), own)
        counts = runs[number]
        flat = np.repeat(np.arange(len(counts)) % 2, counts)
        np.testing.assert_array_equal(flat.reshape(mask.shape, order="F"), own)
        rows, columns = np.nonzero(own)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert (parts.boxes[number - 1].tolist(), parts.areas[number - 1]) == (box, own.sum())
    assert (parts.labels > 0).sum() == ((mask > 0) & (mask < 255)).sum()


def test_a_part_is_what_hangs_together_by_sides_of_pixels() -> None:
    mask = np.array([[1, 0, 2], [0, 1, 1], [1, 1, 1]], np.uint8)
    parts = parts_of(mask)
    np.testing.assert_array_equal(parts.labels, [[1, 0, 2], [0, 3, 3], [3, 3, 3]])
    assert parts.values.tolist() == [1, 2, 1]
    ring = polygons(parts_of(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)).labels)[1]
    assert ring.tolist() == [[0, 0], [1, 0], [1, 1], [1, 2], [2, 2], [2, 1], [1, 1], [1, 0], [3, 0], [3, 3], [0, 3]]
    assert parts_of(np.zeros((3, 4), np.uint8)).values.size == 0


# --- COCO -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [[], ["--rle"]])
def test_coco_is_read_by_pycocotools(world: World, form: list[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco").COCO(
        export(world, "coco", *form) / "annotations" / "instances.json"
    )
    assert [coco.cats[number]["name"] for number in (1, 2, 3)] == list(CLASSES)
    images = {image["file_name"]: image for image in coco.loadImgs(coco.getImgIds())}
    assert set(images) == set(NAMES.values())
    for image_id, name in NAMES.items():
        mask = np.zeros((images[name]["height"], images[name]["width"]), np.uint8)
        for annotation in coco.imgToAnns[images[name]["id"]]:
            pixels = coco.annToMask(annotation).astype(bool)
            assert annotation["area"] == pixels.sum()
            assert not mask[pixels].any()
            mask[pixels] = annotation["category_id"]
        np.testing.assert_array_equal(mask, world.expected(image_id))


@pytest.mark.parametrize("form", [[], ["--rle"]])
def test_coco_is_read_by_our_reader(world: World, form: list[str]) -> None:
    annotations = export(world, "coco", *form) / "annotations"
    shutil.move(annotations, world.photos / "annotations")
    dataset = read_dataset(world.photos, reader="coco")
    assert dataset.classes == CLASSES
    tags = {record.path.relative_to(world.photos).as_posix(): record.labels for record in dataset.records}
    assert tags == {name: tags_of(world.expected(image_id)) for image_id, name in NAMES.items()}
    written = json.loads((world.photos / "annotations" / "instances.json").read_text("utf-8"))
    for image, (image_id, name) in zip(written["images"], NAMES.items(), strict=True):
        regions = [
            (row["category_id"], False, row["segmentation"])
            for row in written["annotations"]
            if row["image_id"] == image["id"]
        ]
        assert image["file_name"] == name
        mask = semantic_mask(regions, image["height"], image["width"])
        np.testing.assert_array_equal(mask, world.expected(image_id))


def test_panoptic_masks_give_back_every_pixel(world: World) -> None:
    folder = export(world, "coco", "--panoptic") / "annotations"
    panoptic = json.loads((folder / "panoptic.json").read_text("utf-8"))
    assert [(row["id"], row["name"], row["isthing"]) for row in panoptic["categories"]][-1] == (4, "background", 0)
    names = {image["id"]: image["file_name"] for image in panoptic["images"]}
    ids = {name: image_id for image_id, name in NAMES.items()}
    for annotation in panoptic["annotations"]:
        rgb = np.array(Image.open(folder / "panoptic" / annotation["file_name"])).astype(int)
        numbers = rgb @ [1, 256, 65536]
        values = np.full(numbers.shape, 255)
        for segment in annotation["segments_info"]:
            own = numbers == segment["id"]
            rows, columns = np.nonzero(own)
            assert segment["area"] == own.sum()
            assert segment["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            values[own] = segment["category_id"] % 4
        np.testing.assert_array_equal(values, world.masks[ids[names[annotation["image_id"]]]])
    assert len(panoptic["annotations"]) == 4


# --- CVAT -------------------------------------------------------------------------------------------------


def test_cvat_says_classes_by_colour_and_objects_by_number(world: World) -> None:
    archive = zipfile.ZipFile(export(world, "cvat"))
    lines = [line.split(":") for line in archive.read("labelmap.txt").decode().splitlines() if line[0] != "#"]
    assert [line[0] for line in lines] == ["background", *CLASSES]
    assert {len(line) for line in lines} == {4}
    colours = [tuple(map(int, line[1].split(","))) for line in lines]
    stems = [name.rpartition(".")[0] for name in NAMES.values()]
    assert archive.read("ImageSets/Segmentation/default.txt").decode().splitlines() == stems
    object_colours = [tuple(colour) for colour in voc_palette().tolist()]
    for image_id, stem in zip(NAMES, stems, strict=True):
        classes, objects = (
            np.array(Image.open(io.BytesIO(archive.read(f"{folder}/{stem}.png"))).convert("RGB"))
            for folder in ("SegmentationClass", "SegmentationObject")
        )
        found = np.array([[colours.index(tuple(pixel)) for pixel in row] for row in classes.tolist()])
        numbers = np.array([[object_colours.index(tuple(pixel)) for pixel in row] for row in objects.tolist()])
        np.testing.assert_array_equal(found, world.expected(image_id))
        np.testing.assert_array_equal(numbers, parts_of(world.masks[image_id]).labels)


def test_cvat_is_read_by_our_reader_beside_the_photos(world: World) -> None:
    with zipfile.ZipFile(export(world, "cvat")) as archive:
        archive.extractall(world.run.parent / "voc")
    shutil.copytree(world.photos, world.run.parent / "voc" / "JPEGImages")
    dataset = read_dataset(world.run.parent / "voc")
    assert dataset.classes == CLASSES
    records = {
        record.path.relative_to(world.run.parent / "voc" / "JPEGImages").as_posix(): record
        for record in dataset.records
    }
    for image_id, name in NAMES.items():
        record = records[name]
        assert record.mask_path is not None
        np.testing.assert_array_equal(read_mask(record.mask_path, dataset.mask_lut), world.expected(image_id))


def test_cvat_takes_classes_as_objects_where_there_are_too_many(world: World) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[::2, ::2] = 1 + np.arange(600).reshape(20, 30) % 3
    write_step(world.run / "many", {"day2__empty": mask})
    Image.new("RGB", (60, 40)).save(world.photos / "day2" / "empty.png")
    archive = zipfile.ZipFile(export(world, "cvat", "--of", "many"))
    objects = np.array(Image.open(io.BytesIO(archive.read("SegmentationObject/day2/empty.png"))))
    np.testing.assert_array_equal(objects, mask)


@pytest.mark.parametrize(
    ("classes", "reason"), [(("a:b", "a_b"), "written like 'a:b'"), (("#1", "_1"), "written like '#1'")]
)
def test_cvat_refuses_classes_that_it_cannot_name(
    tmp_path: Path, classes: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture
) -> None:
    run = make_world(tmp_path, (*classes, "x", "y")[:3]).run
    assert main(["export", "cvat", str(run)]) == 2
    assert f"written like '{classes[0]}'" in capsys.readouterr().err


# --- YOLO and Ultralytics ---------------------------------------------------------------------------------


def test_yolo_polygons_give_the_same_pixels(world: World) -> None:
    out = export(world, "yolo")
    settings = yaml.safe_load((out / "data.yaml").read_text("utf-8"))
    assert settings == {"train": "images/train", "val": "images/val", "names": dict(enumerate(CLASSES))}
    for image_id, name in NAMES.items():
        split = "val" if image_id == UNSURE else "train"
        assert (out / "images" / split / name).read_bytes() == (world.photos / name).read_bytes()
        height, width = world.masks[image_id].shape
        mask = np.zeros((height, width), np.uint8)
        for line in (out / "labels" / split / name).with_suffix(".txt").read_text().splitlines():
            value, *shares = line.split()
            points = np.array(shares, float).reshape(-1, 2)
            assert len(points) >= 3
            assert 0 <= points.min() <= points.max() <= 1
            mask[polygon_mask(points * (width, height), height, width)] = int(value) + 1
        np.testing.assert_array_equal(mask, world.expected(image_id))


def test_yolo_finds_the_labels_of_photos_below_a_folder_images(tmp_path: Path) -> None:
    root = tmp_path / "set"
    records = []
    for name in ("train/images/a.png", "train/images/images/b.png", "c.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (len(records) * 40, 9, 9)).save(path)
        records.append(path)
    folder = StageFolder(tmp_path / "masks", "predict", config={}, seed=0, inputs={})
    dataset = photos_dataset(root, CLASSES)
    note_photos(folder, dataset.records)
    for record in dataset.records:
        write_mask(tmp_path / "masks" / "masks" / f"{record.id}.png", np.full((6, 8), 1, np.uint8))
    folder.finish([record.id for record in dataset.records])
    write_class_files(tmp_path / "masks", CLASSES)
    out = tmp_path / "out"
    assert main(["export", "yolo", str(tmp_path / "masks"), "--out", str(out)]) == 0
    for path in (out / "images").rglob("*.png"):  # as Ultralytics looks for them
        text = "/labels/".join(str(path).rsplit("/images/", 1)).removesuffix(".png") + ".txt"
        assert Path(text).read_text("utf-8").startswith("0 ")
    assert sorted(len(record.labels) for record in read_dataset(out).records) == [1, 1, 1]


def test_yolo_is_read_by_our_reader(world: World) -> None:
    out = export(world, "yolo")
    dataset = read_dataset(out)
    assert dataset.classes == CLASSES
    found = {record.path.relative_to(out / "images").as_posix(): record for record in dataset.records}
    for image_id, name in NAMES.items():
        record = found[("val/" if image_id == UNSURE else "train/") + name]
        assert record.labels == tags_of(world.expected(image_id))


def test_ultralytics_has_grey_masks_with_255(world: World) -> None:
    out = export(world, "ultralytics", "--link")
    settings = yaml.safe_load((out / "data.yaml").read_text("utf-8"))
    assert settings["masks_dir"] == "masks"
    assert settings["names"] == dict(enumerate(("background", *CLASSES)))
    for image_id, name in NAMES.items():
        split = "val" if image_id == UNSURE else "train"
        assert (out / "images" / split / name).resolve() == world.photos / name
        picture = Image.open((out / "masks" / split / name).with_suffix(".png"))
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.array(picture), world.masks[image_id])


def test_photos_are_held_out_by_name_and_one_split_stands_for_both(world: World, tmp_path: Path) -> None:
    for out, share in (("one", "0.5"), ("two", "0.5"), ("none", "0")):
        arguments = ["export", "yolo", str(world.run), "--of", "half" if out == "none" else "pseudo_masks"]
        write_step(world.run / "half", {"day1__IMG 1": world.masks["day1__IMG 1"]}) if out == "none" else None
        assert main([*arguments, "--val", share, "--out", str(tmp_path / out)]) == 0
    one, two = (
        sorted(path.relative_to(tmp_path / out) for path in (tmp_path / out).rglob("*.*")) for out in ("one", "two")
    )
    assert one == two
    assert yaml.safe_load((tmp_path / "none" / "data.yaml").read_text())["val"] == "images/train"
    assert "are of one split" in (tmp_path / "none" / "data.yaml").read_text()
    assert main(["export", "yolo", str(world.run), "--val", "1", "--out", str(tmp_path / "x")]) == 2


@pytest.mark.parametrize("name", ["yolo", "ultralytics", "masks"])
def test_a_photo_that_is_gone_is_left_out_where_photos_are_needed(
    world: World, name: str, capsys: pytest.CaptureFixture
) -> None:
    gone = world.photos / NAMES["day1__IMG 1"]
    gone.unlink()
    out = export(world, name, *(["--as", "overlay"] if name == "masks" else []))
    said = capsys.readouterr()
    assert "3 photos, 1 of them without any object" in said.out
    assert f"! 1 photos are not where they were, and are left out; e.g. {gone}" in said.err
    assert "--photos" not in said.err
    assert sorted(path.stem for path in out.rglob("*.jpg")) == (
        ["IMG 1", "blätter", "empty"] if name == "masks" else ["IMG 1"]
    )


def test_trainings_need_the_photos(world: World, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    world.photos.rename(tmp_path / "moved")
    assert main(["export", "yolo", str(world.run), "--out", str(tmp_path / "out")]) == 2
    assert "--photos DIR says where the photos lie by now" in capsys.readouterr().err


# --- Label Studio -----------------------------------------------------------------------------------------


def brush_pixels(code: list[int]) -> np.ndarray:
    """Decode Label Studio's code from its description: values 0..255 in the order of the pixels' channels."""
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    count, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        is_run, size = take(1), sizes[take(2)]
        length = take(size) + 1
        values += [take(word)] * length if is_run else [take(word) for _ in range(length)]
    assert len(values) == count
    assert len(bits) - at < 8
    return np.array(values)


def test_label_studio_regions_give_the_same_pixels(world: World) -> None:
    out = export(world, "labelstudio")
    tasks = json.loads((out / "tasks.json").read_text("utf-8"))
    config = ElementTree.parse(out / "label_config.xml").getroot()
    labels = config.findall("BrushLabels/Label")
    assert [label.get("value") for label in labels] == list(CLASSES)
    assert labels[0].get("background") == "#800000"
    assert [unquote(task["data"]["image"].partition("?d=")[2]) for task in tasks] == list(NAMES.values())
    for task, image_id in zip(tasks, NAMES, strict=True):
        (prediction,) = task["predictions"]
        assert prediction["model_version"].endswith(": tiny, pseudo_masks")
        assert "score" not in prediction
        mask = np.zeros(world.masks[image_id].shape, np.uint8)
        for region in prediction["result"]:
            assert (region["original_height"], region["original_width"]) == mask.shape
            rgba = brush_pixels(region["value"]["rle"]).reshape(*mask.shape, 4)
            assert (rgba == rgba[..., :1]).all()
            mask[rgba[..., 3] >= 128] = CLASSES.index(region["value"]["brushlabels"][0]) + 1
        np.testing.assert_array_equal(mask, world.expected(image_id))


def test_label_studio_gets_scores_where_there_is_confidence(world: World) -> None:
    confidence = np.full((24, 40), 51, np.uint8)
    confidence[world.masks["day1__IMG 1"] == 1] = 204
    (world.run / "pseudo_masks" / "confidence").mkdir()
    Image.fromarray(confidence).save(world.run / "pseudo_masks" / "confidence" / "day1__IMG 1.png")
    tasks = json.loads((export(world, "labelstudio", "--prefix", "s3://b/") / "tasks.json").read_text("utf-8"))
    assert tasks[0]["data"]["image"] == "s3://b/day1/IMG 1.jpg"
    prediction = tasks[0]["predictions"][0]
    assert [region["score"] for region in prediction["result"]] == [0.8, 0.2, 0.2]
    assert prediction["score"] == pytest.approx(confidence.mean() / 255, abs=1e-4)
    assert "score" not in tasks[1]["predictions"][0]


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        (LOCAL_FILES, "/data/local-files/?d=d%201/bl%C3%A4tt.png"),
        ("", "d%201/bl%C3%A4tt.png"),
        ("s3://bucket", "s3://bucket/d 1/blätt.png"),
        ("gs://bucket/photos/", "gs://bucket/photos/d 1/blätt.png"),
        ("azure-blob://box", "azure-blob://box/d 1/blätt.png"),
        ("https://host", "https://host/d%201/bl%C3%A4tt.png"),
        ("https://host/?file=", "https://host/?file=d%201/bl%C3%A4tt.png"),
    ],
)
def test_addresses_are_as_label_studio_takes_them(prefix: str, address: str) -> None:
    assert address_of("d 1/blätt.png", prefix) == address


@pytest.mark.parametrize("shape", [(1, 1), (3, 70_000), (200, 300)])
def test_long_runs_are_cut(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random(shape) < 0.001
    np.testing.assert_array_equal(brush_pixels(list(brush_rle(pixels))), np.repeat(pixels.ravel() * 255, 4))


def test_label_studio_own_decoder_agrees(tmp_path: Path) -> None:
    package = os.environ.get("TAG2MASK_RLE_PACK")
    if not package or shutil.which("node") is None:
        pytest.skip("needs node, and in TAG2MASK_RLE_PACK the path of the npm package @thi.ng/rle-pack's index.js")
    masks = [speckled(24, 40, 1) == 1, np.ones((300, 200), bool), np.zeros((1, 1), bool)]
    (tmp_path / "codes.json").write_text(json.dumps([list(brush_rle(mask)) for mask in masks]))
    (tmp_path / "decode.mjs").write_text(
        f"import {{ decode }} from {json.dumps(package)};\nimport {{ readFileSync }} from 'node:fs';\n"
        "const codes = JSON.parse(readFileSync('codes.json'));\n"
        "console.log(JSON.stringify(codes.map((code) => Array.from(decode(Uint8Array.from(code))))));\n"
    )
    done = subprocess.run(["node", "decode.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for mask, values in zip(masks, json.loads(done.stdout), strict=True):
        np.testing.assert_array_equal(values, np.repeat(mask.ravel() * 255, 4))


# --- plain folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grey", "palette"])
def test_masks_are_read_by_our_reader(tmp_path: Path, kind: str) -> None:
    classes = ("cat: wild", "=2+3", "dog")
    world = make_world(tmp_path, classes)
    out = export(world, "masks", "--as", kind)
    listed = find_class_list(out)
    assert listed is not None
    assert listed.names == classes
    rows = [line.split(",") for line in (out / "classes.csv").read_text("utf-8").splitlines()]
    assert rows == [
        ["value", "name", "red", "green", "blue"],
        ["0", "background", "0", "0", "0"],
        ["1", "cat: wild", "128", "0", "0"],
        ["2", "'=2+3", "0", "128", "0"],
        ["3", "dog", "128", "128", "0"],
        ["255", "ignored", "224", "224", "192"],
    ]
    for image_id, name in NAMES.items():
        path = (out / "masks" / name).with_suffix(".png")
        assert Image.open(path).mode == {"grey": "L", "palette": "P"}[kind]
        np.testing.assert_array_equal(read_mask(path), world.masks[image_id])
        np.testing.assert_array_equal(np.array(Image.open(path)), world.masks[image_id])
    shutil.copytree(world.photos, out / "images")
    dataset = read_dataset(out)
    assert (dataset.classes, len(dataset)) == (classes, 4)


def test_overlays_show_deep_photos_as_the_run_saw_them(world: World) -> None:
    values = read_json(world.run / "run.json")
    write_json(world.run / "run.json", values | {"data": values["data"] | {"value_range": [0.0, 900.0]}})
    rows, columns = world.masks["day2__empty"].shape
    Image.fromarray(np.full((rows, columns), 890, np.uint16)).save(world.photos / NAMES["day2__empty"])
    out = export(world, "masks", "--as", "overlay")
    assert decode_image(out / "overlays" / "day2" / "empty.jpg").min() > 240


def test_overlays_lie_over_the_upright_photo(world: World) -> None:
    out = export(world, "masks", "--as", "overlay")
    for image_id, name in NAMES.items():
        found = decode_image((out / "overlays" / name).with_suffix(".jpg")).astype(float)
        photo = decode_image(world.photos / name).astype(float)
        mask = world.masks[image_id]
        assert found.shape == photo.shape
        right, turned = (
            np.where(shown[..., None] > 0, (photo + voc_palette()[shown]) / 2, photo) for shown in (mask, mask[::-1])
        )
        assert np.abs(found - right).mean() < 8  # for JPEG
        assert not mask.any() or np.abs(found - turned).mean() > 20
    world.photos.rename(world.photos.with_name("moved"))
    with pytest.raises(ConfigError, match="is not there, nor is any other of the 4 photos; --photos"):
        write_masks(open_source(world.run), world.run.parent / "missing", "overlay")
