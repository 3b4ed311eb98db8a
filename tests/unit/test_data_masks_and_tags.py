"""Which masks belong to which images, what their numbers and colours mean, and whether tags agree with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.common.errors import DataError
from tag2mask.data import Dataset, check_dataset, read_dataset, read_mask, write_mask
from tag2mask.data.agreement import compare, findings
from tag2mask.data.class_files import write_class_files
from tag2mask.data.classes import find_class_list, labelmap_name
from tag2mask.data.findings import before_training, grouped
from tag2mask.data.records import Problem

SIZE = (40, 50)
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that writes photos, labels.csv and masks whose values stand where a class is."""

    def write(
        tags: Mapping[str, str], values: Mapping[str, int], background: int = 0, wrong: Sequence[str] = ()
    ) -> Path:
        lines = ["image,labels"]
        for number, (name, own) in enumerate(tags.items()):
            photo = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(photo).save(tmp_path / f"{name}.png")
            mask = np.full(SIZE, background, np.uint8)
            for place, cls in enumerate(filter(None, own.split(";"))):
                mask[10 * place : 10 * place + 8] = values[cls]
            write_mask(tmp_path / "masks" / f"{name}.png", mask)
            lines.append(f"{name}.png,{'cow' if name in wrong else own}")
        (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
        return tmp_path

    return write


TAGS = {"a": "cat", "b": "dog", "c": "cat;dog", "d": "cow", "e": "cow;dog", "f": "", "g": "cat"}
RIGHT = {"cat": 1, "cow": 2, "dog": 3}


def said(root: Path, **more: object) -> list[Problem]:
    return list(findings(compare(read_dataset(root, **more))))  # type: ignore[arg-type]


def test_what_agrees_is_not_spoken_of(make: Make) -> None:
    assert said(make(TAGS, RIGHT)) == []


@pytest.mark.parametrize(
    ("values", "background", "remedy"),
    [
        ({"cat": 3, "cow": 1, "dog": 2}, 0, "data.mask_classes: [cow, dog, cat]"),
        ({"cat": 0, "cow": 1, "dog": 2}, 255, "data.mask_classes: {0: cat, 1: cow, 2: dog, 255: background}"),
        ({"cat": 8, "cow": 10, "dog": 12}, 0, "data.mask_classes: voc"),
        ({"cat": 50, "cow": 100, "dog": 150}, 0, "data.mask_classes: {50: cat, 100: cow, 150: dog}"),
        ({"cat": 255, "cow": 255, "dog": 255}, 0, "save them with the numbers 1..3"),
    ],
)
def test_a_majority_stops_with_its_cause(make: Make, values: Mapping[str, int], background: int, remedy: str) -> None:
    root = make(TAGS, values, background)
    problem = next(p for p in said(root) if p.kind == "tags-masks")
    assert problem.fatal
    assert remedy in problem.remedy
    if "mask_classes" not in remedy:
        return
    given = remedy.partition(": ")[2]
    numbers = {v: n for n, v in values.items()}
    mended = given if given == "voc" else numbers | ({255: "background"} if background else {})
    assert not any(p.fatal for p in said(root, mask_classes=mended))


def test_a_few_are_only_reported(make: Make) -> None:
    root = make(TAGS | {f"x{i}": "cat" for i in range(9)}, RIGHT, wrong=("a", "x1"))
    problem = said(root)[0]
    assert not problem.fatal
    assert "in 2 of 16 masks" in problem.message
    assert "cat: in 2 masks without the tag; cow: 2 tags without a pixel" in problem.message


def test_a_cause_counts_however_few_show_it(make: Make) -> None:
    """Swapped numbers show only on photos that lack a class."""
    tags = {"a": "cat", "b": "dog"} | {f"x{i}": "cat;dog" for i in range(10)}
    problem = said(make(tags, {"cat": 2, "dog": 1}))[0]
    assert problem.fatal
    assert "[dog, cat]" in problem.remedy


def test_every_pixel_a_class(make: Make) -> None:
    tags = {"a": "cat;dog", "b": "dog;cow", "c": "cat;cow"}
    root = make(tags, RIGHT, background=255)
    assert [p.kind for p in said(root)] == ["no-background"]
    assert said(root, background=False) == []
    root = make(tags, RIGHT)
    assert [p.kind for p in said(root, background=False)] == ["background-pixels"]


def test_sample_is_bounded_and_stated(make: Make) -> None:
    tags = {f"x{i}": "cat" for i in range(12)} | {"d": "dog"}
    compared = compare(read_dataset(make(tags, {"cat": 2, "dog": 1})), masks=6)
    assert len(compared.rows) == 6
    assert "of 6 masks looked at, of 13" in next(findings(compared)).message
    assert [r.id for r, _ in compared.rows] == [r.id for r, _ in compare(compared.dataset, masks=6).rows]


def test_unnamed_values_are_said_before_a_run(make: Make) -> None:
    root = make(TAGS, RIGHT)
    mask = read_mask(root / "masks" / "a.png")
    mask[-1] = 77
    write_mask(root / "masks" / "a.png", mask)
    problems = before_training(read_dataset(root), None)
    assert [str(p) for p in problems if p.kind == "mask-values"] == [
        f"{root.name}: mask value(s) 77 (in 1 masks) name no class; ignored; name them in data.mask_classes"]  # fmt: skip


def test_masks_drawn_before_exif_turned_the_photos(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg", exif=exif)
        write_mask(tmp_path / "masks" / f"{i}.png", np.full(SIZE, i % 2))
    (tmp_path / "labels.csv").write_text("image,labels\n0.jpg,\n1.jpg,cat\n2.jpg,\n")
    fatal = grouped(p for p in before_training(read_dataset(tmp_path), None) if p.fatal)
    assert len(fatal) == 1
    assert "EXIF turns the photo, and the mask was drawn on it as it is stored" in fatal[0]
    lines = check_dataset(read_dataset(tmp_path), progress=False).summary()
    assert "3 x mask-size" in lines


# ---------------------------------------------------------------- binary masks and mappings


@pytest.mark.parametrize("values", [[0, 255], [0, 1], [0, 128, 255], [0, 30, 200, 255]])
def test_binary(make: Make, values: list[int]) -> None:
    root = make({"a": "cat", "b": ""}, {"cat": 1})
    mask = np.zeros(SIZE, np.uint8)
    for row, value in enumerate(values):
        mask[row] = value
    write_mask(root / "masks" / "a.png", mask)
    dataset = read_dataset(root, mask_classes="binary")
    read = read_mask(root / "masks" / "a.png", dataset.mask_lut)
    assert [int(read[row, 0]) for row in range(len(values))] == [int(v == 1 or v >= 128) for v in values]
    two = make(TAGS, RIGHT)
    with pytest.raises(DataError, match=r"binary is for one class, there are 3 \(cat, cow, dog\)"):
        read_dataset(two, mask_classes="binary")


def test_wrong_mask_classes(make: Make) -> None:
    with pytest.raises(DataError, match="'one' is no mask value"):
        read_dataset(make(TAGS, RIGHT), mask_classes={"one": "cat"})


# ---------------------------------------------------------------- names of masks


@pytest.mark.parametrize(
    "name",
    ["masks/a.png", "masks/a_mask.png", "masks/a.jpg.png", "masks/a-mask.png", "masks/a_seg.png", "masks/mask_a.png",
     "masks/a.jpg_mask.png", "Masks/a.png", "mask/a.png", "SegmentationClass/a.png", "SegmentationClassPNG/a.png",
     "masks/a.tif", "masks/a_labelIds.png", "a_mask.png", "masks/a.PNG"],
)  # fmt: skip
def test_names_of_masks(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,cat\n")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    Image.fromarray(np.ones((6, 8), np.uint8)).save(tmp_path / name)
    dataset = read_dataset(tmp_path)
    assert dataset.records[0].mask_path == tmp_path / name
    assert len(dataset) == 1
    assert dataset.problems == ()


def test_masks_of_no_image_and_of_two(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "notlisted.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("image,labels\na.png,cat\nb.png,cat\n")
    for name in ("a_mask", "a.jpg", "b", "nobody", "notlisted"):
        write_mask(tmp_path / "masks" / f"{name}.png", np.ones((6, 8)))
    dataset = read_dataset(tmp_path)
    assert [r.mask_path and r.mask_path.name for r in dataset.records] == [None, "b.png"]
    assert [(p.kind, p.note) for p in dataset.problems] == [
        ("ambiguous-mask", False), ("orphan-mask", False), ("unlisted", True)]  # fmt: skip


def test_a_class_called_mask(tmp_path: Path) -> None:
    for name in ("mask/1.png", "no mask/2.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 6), (len(name), 0, 0)).save(tmp_path / name)
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("mask", "no mask")
    assert all(record.mask_path is None for record in dataset.records)


def test_masks_beside_photos_in_class_folders(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "cat" / "1.jpg")
    write_mask(tmp_path / "cat" / "1_mask.png", np.ones((6, 8)))
    dataset = read_dataset(tmp_path)
    assert [(r.id, r.mask_path and r.mask_path.name) for r in dataset.records] == [("cat__1", "1_mask.png")]


# ---------------------------------------------------------------- files that name the classes


@pytest.mark.parametrize(
    ("name", "text", "names", "values"),
    [
        ("classes.txt", "dog\ncat\n", ("dog", "cat"), {1: "dog", 2: "cat"}),
        ("classes.txt", "\ufeffdog\r\n\r\ncat", ("dog", "cat"), {1: "dog", 2: "cat"}),
        ("Classes.txt", "background\ndog\ncat\n", ("dog", "cat"), {1: "dog", 2: "cat"}),
        ("class_names.txt", "_background_\ndog\n", ("dog",), {1: "dog"}),
        ("labels.txt", "__ignore__\n_background_\ndog\n", ("dog",), {1: "dog"}),
        ("labels.txt", "0 dog\n1 golden retriever\n", ("dog", "golden retriever"), {1: "dog", 2: "golden retriever"}),
        ("labels.txt", "0: background\n1: dog\n5: cat\n", ("dog", "cat"), {0: "background", 1: "dog", 5: "cat"}),
        ("masks/classes.txt", "dog\ncat\n", ("dog", "cat"), {1: "dog", 2: "cat"}),
        ("labelmap.txt", "# label:color_rgb:parts:actions\ncat:250,50,83::\nbackground:0,0,0::\n", ("cat",), {1: "cat"}),
        ("class_dict.csv", "name,r,g,b\nvoid,9,9,9\ncat,250,50,83\n", ("cat",), {1: "cat"}),
        ("_classes.csv", "Pixel Value, Class\n0, background\n1, dog\n3, cat\n", ("dog", "cat"),
         {0: "background", 1: "dog", 3: "cat"}),
        ("classes.csv", "value,name,red,green,blue\n0,background,0,0,0\n1,'=cat,128,0,0\n255,ignored,224,224,192\n",
         ("=cat",), {0: "background", 1: "=cat", 255: "ignored"}),
        ("data.yaml", "names: [dog, cat]\nnc: 2\n", ("dog", "cat"), {1: "dog", 2: "cat"}),
        ("data.yaml", "names:\n  0: dog\n  1: cat\n", ("dog", "cat"), {1: "dog", 2: "cat"}),
        ("data.yaml", "names: {0: background, 1: dog}\n", ("dog",), {0: "background", 1: "dog"}),
    ],
)  # fmt: skip
def test_class_files(tmp_path: Path, name: str, text: str, names: tuple[str, ...], values: dict[int, str]) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    found = find_class_list(tmp_path)
    assert found is not None
    assert (found.names, dict(found.values)) == (names, values)
    assert found.source.casefold() == name.rpartition("/")[2].casefold()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"classes.txt": "cat\ncat\n"}, "names 'cat' twice"),
        ({"labelmap.txt": "cat:1,2::\n"}, r"line 1: '1,2' is no colour"),
        ({"labelmap.txt": "cat:1,2,3::\ndog:1,2,3::\n"}, "another class's too"),
        ({"classes.txt": "cat\ndog\n", "labelmap.txt": "dog:1,2,3::\ncat:3,2,1::\n"}, "classes have one order"),
        ({"data.yaml": "names: 3\n"}, "has no list 'names'"),
        ({"data.yaml": "[1, 2"}, "is not valid YAML"),
        ({"classes.txt": "background\n"}, "names no class"),
    ],
)
def test_class_files_that_cannot_be_used(tmp_path: Path, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        find_class_list(tmp_path)


def test_a_list_of_images_is_no_class_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("1.jpg 0\n2.jpg 1\n")
    assert find_class_list(tmp_path) is None


def test_the_recipe_comes_first_and_masks_stay_as_the_file_numbers_them(make: Make) -> None:
    root = make({"a": "cat", "b": "dog", "c": "cat;dog"}, {"dog": 1, "cat": 2})
    (root / "classes.txt").write_text("dog\ncat\n")
    assert read_dataset(root).class_source == "classes.txt"
    dataset = read_dataset(root, classes=["cat", "dog"])
    assert (dataset.classes, dataset.mask_lut[:4].tolist()) == (("cat", "dog"), [0, 2, 1, 255])
    assert list(findings(compare(dataset))) == []
    assert read_dataset(root, classes=["cat"]).mask_lut[:3].tolist() == [0, 0, 1]


def test_labels_that_the_class_file_lacks_are_reported(make: Make) -> None:
    root = make(TAGS, RIGHT)
    (root / "classes.txt").write_text("dog\ncat\n")
    dataset = read_dataset(root)
    assert {p.kind for p in dataset.problems} == {"unknown-class"}
    lines = grouped(dataset.problems)
    assert len(lines) == 1
    assert lines[0].startswith("2 x unknown-class: labels.csv line 5: class 'cow' is not in the class list")


def colours(path: Path, mask: np.ndarray, table: Mapping[int, tuple[int, int, int]], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if palette:
        picture = Image.fromarray(mask)
        picture.putpalette([part for value in range(256) for part in table.get(value, (0, 0, 0))])
        picture.save(path)
        return
    rgb = np.zeros((*mask.shape, 3), np.uint8)
    for value, colour in table.items():
        rgb[mask == value] = colour
    Image.fromarray(rgb).save(path)


@pytest.mark.parametrize("palette", [False, True])
def test_colours_of_a_label_map(tmp_path: Path, palette: bool) -> None:
    """Colours count, not places in a palette; the background may stand anywhere in the list."""
    mask = np.array([[0, 1, 2, 3]], np.uint8)
    table = {0: (0, 0, 0), 1: (9, 200, 9), 2: (200, 9, 9), 3: (224, 224, 192)}
    colours(tmp_path / "SegmentationClass" / "a.png", mask, table, palette)
    (tmp_path / "labelmap.txt").write_text("cat:200,9,9::\nbackground:0,0,0::\ndog:9,200,9::\n")
    assert read_mask(tmp_path / "SegmentationClass" / "a.png").tolist() == [[0, 2, 1, 255]]


def test_colours_that_the_label_map_lacks(tmp_path: Path) -> None:
    mask = np.array([[0, 1]], np.uint8)
    colours(tmp_path / "masks" / "a.png", mask, {0: (0, 0, 0), 1: (9, 200, 9)})
    (tmp_path / "labelmap.txt").write_text("cat:200,9,9::\n")
    with pytest.raises(DataError, match=r"1 colour\(s\) that the label map doesn't name, such as \(9, 200, 9\)"):
        read_mask(tmp_path / "masks" / "a.png")


def test_grey_masks_beside_a_label_map_are_numbers(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "labelmap.txt").write_text("cat:200,9,9::\n")
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("classes", [("cat", "golden retriever"), ("=cmd()", "a:b", "@x", "-1", "+y", "#1")])
def test_class_files_beside_masks_read_back(tmp_path: Path, classes: tuple[str, ...]) -> None:
    write_class_files(tmp_path, classes)
    text = (tmp_path / "classes.csv").read_text(encoding="utf-8")
    assert not any(cell[:1] in "=+-@" for line in text.splitlines() for cell in line.split(",") if cell)
    found = find_class_list(tmp_path)
    assert found is not None
    assert found.names == classes
    (tmp_path / "classes.txt").unlink()
    mapped = find_class_list(tmp_path)
    assert mapped is not None
    assert mapped.names == tuple(map(labelmap_name, classes))
    write_mask(tmp_path / "a.png", np.array([[0, 1, len(classes), 255]]))
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 1, len(classes), 255]]


# ---------------------------------------------------------------- said once


def test_twenty_equal_findings_are_one_line() -> None:
    problems = [Problem("missing-image", "labels.csv", f"line {i}", f"image '{i}.jpg' is not on disk", "add it")
                for i in range(20)]  # fmt: skip
    problems += [Problem("missing-image", "labels.csv", "line 30", "another text", "add it")]
    assert grouped(problems) == [
        "20 x missing-image: labels.csv line 0: image '0.jpg' is not on disk | labels.csv line 1: image '1.jpg' is not "
        "on disk | labels.csv line 2: image '2.jpg' is not on disk | and 17 more; add it",
        "labels.csv line 30: another text; add it",
    ]


def negatives(dataset: Dataset) -> list[str]:
    return [record.id for record in dataset.records if not record.labels]


def test_negatives_stay_through_all_that_is_done_with_a_set(make: Make) -> None:
    root = make(TAGS | {f"n{i}": "" for i in range(5)}, RIGHT)
    dataset = read_dataset(root)
    assert dataset.negatives() == 6
    assert dataset.label_matrix()[-1].tolist() == [False] * 3
    assert negatives(dataset.restrict(["cat"])) == negatives(dataset)
    assert [len(dataset.limit(n).positives()) for n in (1, 2, 4, 8)] == [1, 1, 2, 4]
    assert len(dataset.limit(11)) == 11
    assert dataset.limit(6).records == dataset.limit(6).records
    assert "(none)" in "\n".join(check_dataset(dataset, progress=False).summary())
