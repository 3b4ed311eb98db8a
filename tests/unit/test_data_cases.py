"""Twenty small inputs as people have them: what each reads as, and what is said of it, here and before a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tag2mask.cli import main
from tag2mask.common.errors import DataError
from tag2mask.data import Dataset, check_dataset, read_image, read_mask
from tag2mask.data.findings import before_training
from tag2mask.data.settings import DataConfig, read_set

Labels = dict[str, list[str]]
THREE = {"0": ["cat"], "1": ["dog"], "2": ["cat", "dog"]}


@pytest.fixture(scope="module")
def cases(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated folders."""
    script = shared_dir / "cases" / "make_cases.py"
    if not script.is_file():
        pytest.skip(f"no {script}")
    spec = importlib.util.spec_from_file_location("make_cases", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path_factory.mktemp("cases")
    module.make(out)
    return out


def labels(dataset: Dataset) -> Labels:
    return {r.id: [dataset.classes[label] for label in r.labels] for r in dataset.records}


def kinds(dataset: Dataset) -> set[str]:
    """What would be said before a run, without notes."""
    return {problem.kind for problem in before_training(dataset, None) if not problem.note}


def fatal(dataset: Dataset) -> list[str]:
    return [str(problem) for problem in before_training(dataset, None) if problem.fatal]


@pytest.mark.parametrize(
    ("case", "classes", "expected"),
    [
        ("words", ("cat", "golden retriever", "traffic light"),
         {"a": ["golden retriever"], "b": ["traffic light"], "c": ["cat"]}),
        ("list_literals", ("cat", "dog"), THREE),
        ("nan", ("cat", "dog"), THREE | {"3": []}),
        ("row_a_label", ("cat", "dog"), THREE),
        ("other_headers", ("cat", "dog"), THREE),
        ("paths", ("cat", "dog"), THREE),
        ("labelmap", ("cat", "dog"), THREE),
        ("mask_names", ("cat", "dog"), THREE),
    ],
)  # fmt: skip
def test_labels(cases: Path, case: str, classes: tuple[str, ...], expected: Labels) -> None:
    dataset = read_set(cases / case, DataConfig())
    assert dataset.classes == classes
    assert labels(dataset) == expected
    assert not fatal(dataset)


@pytest.mark.parametrize("case", ["one_hot", "coco_export"])
def test_splits_as_folders(cases: Path, case: str) -> None:
    dataset = read_set(cases / case, DataConfig())
    assert dataset.classes == ("cat", "dog")
    for split in ("train", "val"):
        part = dataset.select(split)
        assert len(part) == 4
        assert part.negatives() == 1
        assert part.label_matrix().sum(0).tolist() == [2, 2]
    assert {problem.note for problem in dataset.problems} <= {True}


def test_paths_are_said_once(cases: Path) -> None:
    notes = [str(problem) for problem in read_set(cases / "paths", DataConfig()).problems]
    assert len(notes) == 1
    assert "2 path(s) lead elsewhere, such as 'C:\\Users\\me\\pets\\1.jpg'" in notes[0]


def test_negatives_are_images_like_others(cases: Path) -> None:
    dataset = read_set(cases / "negatives_csv", DataConfig())
    assert (len(dataset), dataset.negatives()) == (12, 6)
    assert len(dataset.limit(6).positives()) == 3
    text = "\n".join(check_dataset(dataset, progress=False).summary())
    assert "negatives (none of the classes): 6 of 12 images, 50 %" in text


def test_one_class(cases: Path) -> None:
    dataset = read_set(cases / "one_class_negatives", DataConfig())
    assert (dataset.classes, dataset.negatives(), kinds(dataset)) == (("cat",), 4, set())
    alone = read_set(cases / "one_class_alone", DataConfig())
    assert kinds(alone) == {"one-class"}
    assert "add photos without it" in next(str(p) for p in before_training(alone, None) if p.kind == "one-class")


def test_masks_of_0_and_255(cases: Path) -> None:
    dataset = read_set(cases / "masks_255", DataConfig())
    assert len(fatal(dataset)) == 1
    assert "hold only 0 and 255, and 255 means ignored: set data.mask_classes: binary" in fatal(dataset)[0]
    mended = read_set(cases / "masks_255", DataConfig(mask_classes="binary"))
    assert not fatal(mended)
    assert mended.records[0].mask_path is not None
    assert np.unique(read_mask(mended.records[0].mask_path, mended.mask_lut)).tolist() == [0, 1]


def test_class_file_and_its_absence(cases: Path) -> None:
    dataset = read_set(cases / "classes_txt", DataConfig())
    assert (dataset.classes, dataset.class_source) == (("dog", "cat"), "classes.txt")
    assert kinds(dataset) == set()
    swapped = read_set(cases / "masks_swapped", DataConfig())
    assert "in another order: write classes.txt, or data.mask_classes: [dog, cat]" in fatal(swapped)[0]
    assert not fatal(read_set(cases / "masks_swapped", DataConfig(mask_classes=("dog", "cat"))))


def test_voc_layout_with_own_classes(cases: Path) -> None:
    dataset = read_set(cases / "voc_own_classes", DataConfig())
    assert dataset.classes == ("cat", "dog")
    assert dataset.mask_lut[:4].tolist() == [0, 1, 2, 255]
    assert labels(dataset) == {str(i): THREE[str(i % 3)] for i in range(6)}
    (cases / "voc_own_classes" / "class_names.txt").unlink()
    with pytest.raises(DataError, match=r"nothing names the classes.*data\.mask_classes: voc"):
        read_set(cases / "voc_own_classes", DataConfig())
    assert read_set(cases / "voc_own_classes", DataConfig(mask_classes="voc")).classes == ("aeroplane", "bicycle")


def test_colours_by_labelmap(cases: Path) -> None:
    dataset = read_set(cases / "labelmap", DataConfig())
    assert {record.split for record in dataset.records} == {""}
    assert any("tags of 3 image(s) are taken from their masks" in str(problem) for problem in dataset.problems)
    path = dataset.records[2].mask_path
    assert path is not None
    assert np.unique(read_mask(path, dataset.mask_lut)).tolist() == [0, 1, 2]


def test_masks_under_other_names(cases: Path) -> None:
    dataset = read_set(cases / "mask_names", DataConfig())
    assert [r.mask_path and r.mask_path.name for r in dataset.records] == ["0_mask.png", "1.jpg.png", None]
    assert [str(problem) for problem in dataset.problems] == [
        "masks/nobody.png: is the mask of no image; name it as its image, or delete it"]  # fmt: skip


def test_twelve_bits_have_contrast(cases: Path) -> None:
    dataset = read_set(cases / "twelve_bit", DataConfig())
    value_range = dataset.reading.value_range
    assert value_range is not None
    assert value_range[0] == 0
    assert 3800 < value_range[1] <= 3900
    picture = read_image(next(record for record in dataset.records if record.labels))
    assert picture[10, 10].tolist() == [255] * 3
    assert any("3900 white in all of them" in str(problem) for problem in before_training(dataset, None))


def test_every_pixel_a_class(cases: Path) -> None:
    assert kinds(read_set(cases / "no_background", DataConfig())) == {"no-background"}
    dataset = read_set(cases / "no_background", DataConfig(background=False))
    assert kinds(dataset) == set()
    assert dataset.mask_lut[:3].tolist() == [255, 1, 2]


def test_huge(cases: Path) -> None:
    dataset = read_set(cases / "huge", DataConfig())
    huge = next(record for record in dataset.records if record.id.endswith("huge"))
    with pytest.raises(DataError, match=r"data\.max_pixels"):
        read_image(huge)
    small = next(r for r in read_set(cases / "huge", DataConfig(long_side=640)).records if r.id == huge.id)
    assert read_image(small).shape == (582, 640, 3)


def test_data_check_by_command(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(cases / "masks_255")]) == 1
    assert "data.mask_classes: binary" in capsys.readouterr().out
    assert main(["data", "check", str(cases / "masks_255"), "--set", "data.mask_classes=binary"]) == 1  # one class
    assert "tags-masks" not in capsys.readouterr().out
    assert main(["data", "check", str(cases / "huge"), "--set", "data.long_side=64"]) == 0
    assert main(["data", "check", str(cases / "huge"), "--set", "classifier.epochs=3"]) == 2
