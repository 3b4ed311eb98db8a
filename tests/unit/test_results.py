"""Published rows beside own ones: what is ranked, what is marked, what is exported."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tag2mask.cli import main
from tag2mask.cli.scores import print_scores
from tag2mask.common.errors import DataError
from tag2mask.common.files import read_json, write_json
from tag2mask.data import VOC_CLASSES
from tag2mask.reports import write_report
from tag2mask.reports.results import Result, filtered, find_runs, own, published, ranked, to_csv, to_json
from tag2mask.reports.results_page import results_page
from tiny_run import copy_run, edit

Make = Callable[..., Path]
DATA = {
    "root_name": "VOC2012",
    "classes": list(VOC_CLASSES),
    "train_images": 10582,
    "val_images": 1449,
    "limited_to": None,
}


@pytest.fixture
def made(finished_run: Path, tmp_path: Path) -> Make:
    """Makes copies of a run that look as if made in the published setting, but for what a test asks for."""

    def make(
        name: str = "a", *, miou: float = 0.683, images: int = 1449, score: dict | None = None, **changes: Any
    ) -> Path:
        folder = copy_run(finished_run, tmp_path / "made" / name)
        folder = folder.rename(tmp_path / name)
        finished, recipe = changes.pop("finished", True), changes.pop("recipe", "voc12-rib")
        data = DATA | changes
        seconds = {"classifier": 1800.0, "segmenter": 5400.0}
        edit(
            folder / "run.json",
            lambda info: info | {"name": recipe, "data": data, "finished": finished, "seconds": seconds},
        )
        row = {"miou": miou, "images": images, "interval": {"low": miou - 0.01, "high": miou + 0.01}} | (score or {})
        edit(
            folder / "scores.json",
            lambda scores: {
                "segmentation_val": scores["segmentation_val"] | row,
                "seed_rib": scores["seed_rib"] | {"miou": miou},
            },
        )
        learned_from(folder / "segmenter", data["train_images"])
        return folder

    return make


def learned_from(network: Path, done: int, failed: int = 0) -> None:
    """Make the manifest of a network say that it learned from so many images."""
    images = {str(i): {"status": "done" if i < done else "failed"} for i in range(done + failed)}
    edit(network / "manifest.json", lambda made: made | {"images": images})


def segmentation(folder: Path) -> Result:
    rows, notes = own([folder])
    assert notes == []
    return next(row for row in rows if row.task == "segmentation from image labels")


def test_a_run_as_it_is_says_why_it_is_not_comparable(finished_run: Path) -> None:
    rows, notes = own([finished_run])
    assert notes == []
    assert [(row.task, row.model) for row in rows] == [
        ("class maps (seed)", "CAM seed"),
        ("class maps (seed)", "RIB seed"),
        ("pseudo-masks", "RIB+IRN"),
        ("pseudo-masks", "CAM+threshold (plain_cam)"),
        ("pseudo-masks", "RIB+IRN, deeplabv2 (resnet18)"),
        ("segmentation from image labels", "RIB+IRN, deeplabv2 (resnet18)"),
        ("segmentation from true masks", "deeplabv2 (resnet18), true masks"),
    ]
    assert [row.beyond_labels for row in rows] == ["", "", "", "", "", "", "pixel masks"]
    assert all(row.remarks == ("another data set",) and row.dataset == "farm (3 classes)" for row in rows)
    scores = read_json(finished_run / "scores.json")
    assert [row.value for row in rows] == [round(100 * row["miou"], 2) for row in scores.values()]
    seconds = read_json(finished_run / "run.json")["seconds"]
    assert rows[0].details["hours"] == round(sum(seconds.values()) / 3600, 3)
    assert [row.details["training_images"] for row in rows[-2:]] == [8, 8]  # without the broken photo
    assert (rows[0].details["recipe"], rows[0].details["seed"]) == ("tiny", 3)


def test_published_rows_have_sources() -> None:
    rows = published()
    assert len(rows) == 87
    assert all(row.source and row.dataset and row.split and 0 < row.value < 100 for row in rows)
    kinds = {"ImageNet CNN", "ImageNet ViT", "CLIP", "DINO", "mask-trained proposers", ""}
    assert {row.kind for row in rows} == kinds
    assert {row.model for row in rows if not row.kind} == {"KTSE", "MuP-VSS"}  # of which we don't know
    assert len({(row.task, row.dataset, row.split, row.model) for row in rows}) == len(rows)
    assert {row.year for row in rows} >= {"2024", "2025", "2026"}
    rib = [row.value for row in rows if row.model == "RIB"]
    assert rib == [68.3, 68.6, 43.8]


def test_a_run_in_the_published_setting_is_ranked_among_the_published(made: Make) -> None:
    mine = segmentation(made())
    assert mine.remarks == ()
    assert (mine.dataset, mine.split, mine.metric, mine.value) == ("PASCAL VOC 2012", "val", "mIoU", 68.3)
    assert mine.interval_text == "67.3-69.3"
    assert mine.details["hours"] == 2.0
    assert (mine.details["recipe"], mine.details["seed"]) == ("voc12-rib", 3)
    row = next(row for row in ranked([*published(), mine]) if row.own)
    better = [r for r in published() if r.group == mine.group and r.value > 68.3]
    assert row.rank in (len(better) + 1, len(better) + 2)  # RIB itself has the same value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limited_to": 480, "train_images": 480}, "limited to 480 training images"),
        ({"images": 64}, "scored on 64 images, published: 1,449"),
        ({"train_images": 1464}, "trained on 1,464 images, published: 10,582"),
        ({"classes": ["cat"]}, "another data set"),
        ({"finished": False}, "run not finished"),
        ({"score": {"count_ignored": True}}, "ignored pixels counted"),
    ],
)
def test_other_settings_are_marked_and_never_ranked(made: Make, changes: dict, words: str) -> None:
    mine = segmentation(made(miou=0.99, **changes))
    assert any(words in remark for remark in mine.remarks)
    rows = ranked([*published(), mine])
    assert next(row for row in rows if row.own).rank is None
    assert [row.rank for row in rows if row.model == "DiCLIP"] == [11, 7, 8]  # COCO, VOC test, VOC val: not moved


def counts(train: int, val: int, **more: Any) -> dict[str, Any]:
    return {"train_images": train, "val_images": val, "images": val} | more


EIGHTY = [f"c{number}" for number in range(80)]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        (counts(10582, 1449), "PASCAL VOC 2012"),
        (counts(1464, 100), "PASCAL VOC 2012"),
        (counts(209, 213, root_name="VOC2007"), "VOC2007 (20 classes)"),
        (counts(82081, 40504, classes=EIGHTY), "COCO 2014"),
        (counts(118287, 5000, classes=EIGHTY, root_name="coco2017"), "coco2017 (80 classes)"),
        (counts(900, 100, classes=EIGHTY, root_name="shop"), "shop (80 classes)"),
    ],
)
def test_published_names_are_for_published_sets(made: Make, changes: dict, name: str) -> None:
    mine = segmentation(made(**changes))
    assert mine.dataset == name
    assert ("another data set" in mine.remarks) == ("classes)" in name)


@pytest.mark.parametrize(("val", "name"), [(1449, "PASCAL VOC 2012"), (213, "VOC2012 (20 classes)")])
def test_a_prepared_set_is_what_its_preparation_found(made: Make, tmp_path: Path, val: int, name: str) -> None:
    folder = made(**counts(100, 50, limited_to=100))
    found, wanted = {"train": 10582, "val": val}, {"train": 10582, "val": 1449}
    prepared = {"kind": "voc2012", "counts": found, "published": wanted}
    write_json(tmp_path / "made" / "a" / "farm" / "tag2mask" / "prepared.json", prepared)
    assert segmentation(folder).dataset == name


@pytest.mark.parametrize(
    ("done", "remarks"),
    [
        (10582, ()),
        (1464, ("trained on 1,464 images, published: 10,582",)),
        (None, ("trained on an unknown number of images, published: 10,582",)),
    ],
)
def test_an_upper_bound_counts_the_images_that_had_true_masks(
    made: Make, done: int | None, remarks: tuple[str, ...]
) -> None:
    folder = made()
    edit(folder / "scores.json", lambda scores: {"supervised_val": scores["segmentation_val"]})
    if done is None:
        (folder / "supervised" / "manifest.json").unlink()
    else:
        learned_from(folder / "supervised", done, 10582 - done)
    (row,), _ = own([folder])
    assert row.remarks == remarks
    assert row.details["training_images"] == done
    assert (next(r for r in ranked([*published(), row]) if r.own).rank is None) == bool(remarks)


def test_seeds_have_no_published_row(made: Make) -> None:
    rows, _ = own([made()])
    seed = next(row for row in rows if row.task == "class maps (seed)")
    assert seed.remarks == ("no published row of this kind",)
    assert seed.model == "RIB seed"


def test_runs_are_found_below_and_broken_ones_named(made: Make, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name in ("one", "more/two", "three", "four", "five"):
        made(name)
    (tmp_path / "three" / "run.json").write_text("{")
    (tmp_path / "four" / "scores.json").unlink()
    (tmp_path / "five" / "scores.json").write_text("[]")
    found = find_runs([tmp_path, tmp_path / "one"])
    assert {path.name for path in found} == {"one", "two", "three", "four", "five"}
    rows, notes = own(found)
    assert len(rows) == 4
    assert any("three" in note and "can't be read" in note for note in notes)
    assert any("four" in note and "no scores yet" in note for note in notes)
    assert any("five" in note and "holds no object" in note for note in notes)
    with pytest.raises(DataError, match="no such folder"):
        find_runs([tmp_path / "gone"])


def test_exports_hold_own_rows_only(made: Make) -> None:
    folder = made(limited_to=5)
    rows = ranked([*published(), *own([folder])[0]])
    exported = json.loads(to_json(rows))
    assert len(exported) == 2
    assert exported[0]["versions"] == read_json(folder / "run.json")["versions"]
    assert exported[0]["comparable_with_published"] is False
    table = list(csv.DictReader(to_csv(rows).splitlines()))
    assert [row["value"] for row in table] == ["68.3", "68.3"]
    assert table[0]["interval_low"] == "67.3"
    assert "limited to 5" in table[0]["remarks"]
    assert to_csv(published()).startswith("task,dataset,split,metric,value,model")


def test_reports_and_the_terminal_show_the_interval(made: Make, capsys: pytest.CaptureFixture) -> None:
    folder = made(score={"count_ignored": True})
    print_scores(read_json(folder / "scores.json"))
    for shown in (write_report(folder, examples=0).read_text(encoding="utf-8"), capsys.readouterr().out):
        assert "67.3-69.3" in shown
        assert "95 % bootstrap interval" in shown
        assert "ignored pixels counted, as in the reference" in shown


def test_the_terminal_has_every_row_with_what_must_be_said(finished_run: Path, capsys: pytest.CaptureFixture) -> None:
    print_scores(read_json(finished_run / "scores.json"))
    shown = capsys.readouterr().out
    for title in ("CAM seed", "RIB seed", "pseudo-mask RIB+IRN", "segmentation", "upper bound", "person"):
        assert title in shown
    assert "[a] best on the true masks of these images" in shown
    assert "pseudo-mask RIB+IRN: " in shown
    print_scores({})
    assert "no true masks" in capsys.readouterr().out


def test_filter_words() -> None:
    assert [row.value for row in filtered(published(), ["coco", "rib"])] == [43.8]
    assert filtered(published(), ["own"]) == []


def test_the_page_is_self_contained_and_escaped(made: Make) -> None:
    rows = ranked([*published(), *own([made("a<b>", recipe="<script>alert(1)</script>")])[0]])
    page = results_page(rows, ["runs/x: has no scores yet"])
    assert "<script>alert" not in page
    assert "a&lt;b&gt;" in page
    assert "http://" not in page
    assert "https://" not in page
    assert re.search(r"(src|href)=\"(?!data:)", page) is None
    assert page.count("<tr") == len(rows) + 1
    assert "runs/x: has no scores yet" in page
    for column in ("Task", "Data set", "Split", "Metric", "Value", "Model", "Begins from", "Source"):
        assert f">{column}<span" in page


def test_command_line(made: Make, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "runs").mkdir()
    made("runs/mine")
    files = [tmp_path / name for name in ("page.html", "own.json", "own.csv")]
    options = [
        part for kind, path in zip(("--html", "--json", "--csv"), files, strict=True) for part in (kind, str(path))
    ]
    assert main(["results", str(tmp_path / "runs"), *options, "--filter", "VOC", "--sort", "value"]) == 0
    shown = capsys.readouterr().out
    assert "own run mine" in shown
    assert "COCO" not in shown
    assert shown.index("DiCLIP") < shown.index("own run mine") < shown.index("SEAM")
    assert all(path.is_file() for path in files)
    assert main(["results", str(tmp_path / "runs"), *options]) == 0  # what it wrote itself is written again
    for kind, path in zip(("--html", "--json", "--csv"), files, strict=True):
        path.write_text("mine")
        assert main(["results", str(tmp_path / "runs"), kind, str(path)]) == 2
        assert (
            f"{path}: is there already, and nothing is overwritten; choose another {kind}" in capsys.readouterr().err
        )
        assert path.read_text() == "mine"
    assert main(["results", str(tmp_path / "gone")]) == 2
