"""Published rows beside own ones: what is ranked, what is marked, what is exported."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tag2mask.cli import main
from tag2mask.cli.scores import print_scores
from tag2mask.common.errors import DataError
from tag2mask.common.files import write_json
from tag2mask.data import VOC_CLASSES
from tag2mask.reports import write_report
from tag2mask.reports.results import Result, filtered, find_runs, own, published, ranked, to_csv, to_json
from tag2mask.reports.results_page import results_page


def write_run(folder: Path, *, name: str = "voc12-rib", miou: float = 0.683, **changes: Any) -> Path:
    """Write what a run leaves that the table reads; `changes` go into run.json's data or, if "finished", run.json."""
    folder.mkdir(parents=True)
    data = {"root_name": "VOC2012", "classes": list(VOC_CLASSES), "train_images": 10582, "val_images": 1449,
            "limited_to": None}  # fmt: skip
    images = changes.pop("images", 1449)
    finished = changes.pop("finished", True)
    score = changes.pop("score", {})
    info = {"name": name, "seed": 3, "finished": finished, "started": "2026-05-01 10:00", "data": data | changes,
            "seconds": {"classifier": 1800.0, "segmenter": 5400.0}, "versions": {"torch": "2.9"},
            "machine": {"cores": 8, "gpu": "a GPU"},
            "recipe": {"name": name, "refine": {"maps": "rib", "method": "irn"},
                       "segmenter": {"backbone": "resnet101"}}}  # fmt: skip
    row = {"miou": miou, "per_class": {"background": 0.9}, "images": images, "split": "val", "threshold": None,
           "threshold_chosen_on": "no threshold", "interval": {"low": miou - 0.01, "high": miou + 0.01}}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "scores.json").write_text(
        json.dumps({"segmentation_val": row | score, "seed_rib": row | {"split": "train"}})
    )
    return folder


def segmentation(folder: Path) -> Result:
    rows, notes = own([folder])
    assert notes == []
    return next(row for row in rows if row.task == "segmentation from image labels")


def test_published_rows_have_sources() -> None:
    rows = published()
    assert len(rows) == 50
    assert all(row.source and row.dataset and row.split and 0 < row.value < 100 for row in rows)
    rib = [row.value for row in rows if row.model == "RIB"]
    assert rib == [68.3, 68.6, 43.8]


def test_a_run_in_the_published_setting_is_ranked_among_the_published(tmp_path: Path) -> None:
    mine = segmentation(write_run(tmp_path / "a"))
    assert mine.remarks == ()
    assert (mine.dataset, mine.split, mine.metric, mine.value) == ("PASCAL VOC 2012", "val", "mIoU", 68.3)
    assert mine.interval == (67.3, 69.3)
    assert mine.model == "RIB+IRN, DeepLabV2 (resnet101)"
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
def test_other_settings_are_marked_and_never_ranked(tmp_path: Path, changes: dict, words: str) -> None:
    mine = segmentation(write_run(tmp_path / "a", miou=0.99, **changes))
    assert any(words in remark for remark in mine.remarks)
    rows = ranked([*published(), mine])
    assert next(row for row in rows if row.own).rank is None
    assert [row.rank for row in rows if row.model == "DiCLIP"] == [3, 1, 1]  # COCO, VOC test, VOC val: not moved


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
def test_published_names_are_for_published_sets(tmp_path: Path, changes: dict, name: str) -> None:
    mine = segmentation(write_run(tmp_path / "a", **changes))
    assert mine.dataset == name
    assert ("another data set" in mine.remarks) == ("classes)" in name)


@pytest.mark.parametrize(("val", "name"), [(1449, "PASCAL VOC 2012"), (213, "VOC2012 (20 classes)")])
def test_a_prepared_set_is_what_its_preparation_found(tmp_path: Path, val: int, name: str) -> None:
    data, folder = tmp_path / "VOC2012", write_run(tmp_path / "a", **counts(100, 50, limited_to=100))
    write_json(data / "tag2mask" / "prepared.json", {
        "kind": "voc2012", "counts": {"train": 10582, "val": val}, "published": {"train": 10582, "val": 1449}
    })  # fmt: skip
    write_json(folder / "index.json", {"images": {"a": {"path": str(data / "JPEGImages" / "a.jpg")}}})
    assert segmentation(folder).dataset == name


@pytest.mark.parametrize(
    ("done", "remarks"), [(10582, ()), (1464, ("trained on 1,464 images, published: 10,582",)),
                          (None, ("trained on an unknown number of images, published: 10,582",))],
)  # fmt: skip
def test_an_upper_bound_counts_the_images_that_had_true_masks(
    tmp_path: Path, done: int | None, remarks: tuple[str, ...]
) -> None:
    folder = write_run(tmp_path / "a")
    scores = json.loads((folder / "scores.json").read_text())
    write_json(folder / "scores.json", {"supervised_val": scores["segmentation_val"]})
    if done is not None:
        images = {str(i): {"status": "done" if i < done else "failed"} for i in range(10582)}
        write_json(folder / "supervised" / "manifest.json", {"stage": "train-segmenter", "images": images})
    (row,), _ = own([folder])
    assert row.remarks == remarks
    assert row.details["training_images"] == done
    assert (next(r for r in ranked([*published(), row]) if r.own).rank is None) == bool(remarks)


def test_seeds_have_no_published_row(tmp_path: Path) -> None:
    rows, _ = own([write_run(tmp_path / "a")])
    seed = next(row for row in rows if row.task == "class maps (seed)")
    assert seed.remarks == ("no published row of this kind",)
    assert seed.model == "RIB"


def test_runs_are_found_below_and_broken_ones_named(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    write_run(tmp_path / "more" / "two")
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "run.json").write_text("{")
    (tmp_path / "four").mkdir()
    (tmp_path / "four" / "run.json").write_text("{}")
    found = find_runs([tmp_path, tmp_path / "one"])
    assert {path.name for path in found} == {"one", "two", "three", "four"}
    rows, notes = own(found)
    assert len(rows) == 4
    assert any("three" in note and "can't be read" in note for note in notes)
    assert any("four" in note and "no scores yet" in note for note in notes)
    with pytest.raises(DataError, match="no such folder"):
        find_runs([tmp_path / "gone"])


def test_exports_hold_own_rows_only(tmp_path: Path) -> None:
    rows = ranked([*published(), *own([write_run(tmp_path / "a", limited_to=5)])[0]])
    exported = json.loads(to_json(rows))
    assert len(exported) == 2
    assert exported[0]["versions"] == {"torch": "2.9"}
    assert exported[0]["comparable_with_published"] is False
    table = list(csv.DictReader(to_csv(rows).splitlines()))
    assert [row["value"] for row in table] == ["68.3", "68.3"]
    assert table[0]["interval_low"] == "67.3"
    assert "limited to 5" in table[0]["remarks"]
    assert to_csv(published()).startswith("task,dataset,split,metric,value,model")


def test_reports_and_the_terminal_show_the_interval(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_run(tmp_path / "a", score={"count_ignored": True})
    page = write_report(folder).read_text(encoding="utf-8")
    assert "67.3–69.3" in page
    assert "95 % bootstrap interval" in page
    print_scores(json.loads((folder / "scores.json").read_text()))
    shown = capsys.readouterr().out
    assert "67.3-69.3" in shown
    assert "ignored pixels are counted" in shown


def test_filter_words() -> None:
    assert [row.value for row in filtered(published(), ["coco", "rib"])] == [43.8]
    assert filtered(published(), ["own"]) == []


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    rows = ranked([*published(), *own([write_run(tmp_path / "a<b>", name="<script>alert(1)</script>")])[0]])
    page = results_page(rows, ["runs/x: has no scores yet"])
    assert "<script>alert" not in page
    assert "a&lt;b&gt;" in page
    assert "http://" not in page
    assert "https://" not in page
    assert re.search(r"(src|href)=\"(?!data:)", page) is None
    assert page.count("<tr") == len(rows) + 1
    assert "runs/x: has no scores yet" in page
    for column in ("Task", "Data set", "Split", "Metric", "Value", "Model", "Source"):
        assert f">{column}<span" in page


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_run(tmp_path / "runs" / "mine")
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
    assert main(["results", str(tmp_path / "gone")]) == 2
