"""Decisions of a review: their log, and how a run goes on with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_run
from exports_world import make_world
from tag2mask.chain import open_chain
from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import digest_file, read_json, write_json
from tag2mask.data import Dataset, ImageRecord, read_mask, write_mask
from tag2mask.decided import with_tags, with_threshold
from tag2mask.engine.execution import Execution
from tag2mask.exports.source import open_source
from tag2mask.recipe import load_recipe
from tag2mask.refine.crf import map_probabilities
from tag2mask.refine.threshold import labels_from_maps, threshold_by_class
from tag2mask.rerun import rerun
from tag2mask.runs.decisions import (
    Decisions,
    Effect,
    append,
    log_path,
    mask_path,
    name_scores,
    read_applied,
    read_decisions,
    write_applied,
)


def test_the_last_line_on_a_thing_counts(tmp_path: Path) -> None:
    append(tmp_path, [{"id": "a", "verdict": "accepted", "seen": "1"}, {"id": "b", "verdict": "rejected"}])
    append(tmp_path, [{"id": "a", "tag": "cat", "present": False}, {"id": "a", "tag": "cow", "present": True}])
    append(tmp_path, [{"id": "a", "mask": "d1"}, {"id": "c", "mask": "d2"}, {"id": "c", "mask": ""}])
    append(tmp_path, [{"threshold": 0.4, "thresholds": {"cat": 0.5}}, {"id": "b", "verdict": ""}])
    found = read_decisions(tmp_path)
    assert found.verdicts == {"a": "accepted"}
    assert found.seen == {"a": "1"}
    assert found.masks == {"a": "d1"}
    assert (found.threshold, found.thresholds) == (0.4, {"cat": 0.5})
    assert found.labels("a", ["cat", "dog"]) == ("dog", "cow")
    append(tmp_path, [{"id": "a", "tag": tag, "present": None} for tag in ("cat", "cow")])
    assert read_decisions(tmp_path).labels("a", ["cat", "dog"]) == ("cat", "dog")
    assert read_decisions(tmp_path).tags == {}


def test_a_line_that_a_crash_cut_off_costs_that_line_alone(tmp_path: Path) -> None:
    append(tmp_path, [{"id": "a", "verdict": "accepted"}])
    with open(log_path(tmp_path), "ab") as stream:
        stream.write(b'{"id": "b", "verd')
    append(tmp_path, [{"id": "c", "verdict": "rejected"}])
    assert read_decisions(tmp_path).verdicts == {"a": "accepted", "c": "rejected"}


def test_strange_lines_change_nothing(tmp_path: Path) -> None:
    log_path(tmp_path).parent.mkdir()
    lines = ["[1, 2]", '{"id": 3, "verdict": "accepted"}', '{"id": "a", "verdict": "superb"}', "\xff", "null"]
    log_path(tmp_path).write_bytes("\n".join(lines).encode("latin-1"))
    assert read_decisions(tmp_path) == Decisions()


def test_effect_is_what_later_steps_see_and_comes_back_from_its_file(tmp_path: Path) -> None:
    decisions = Decisions({"a": "rejected", "b": "accepted"}, {}, {"b": {"cat": False}}, {"a": "1", "b": "2"}, 0.3)
    effect = Effect.of(decisions)
    assert effect == Effect({"b": {"cat": False}}, ("a",), {"b": "2"}, 0.3, {})
    write_applied(tmp_path, effect)
    assert read_applied(tmp_path) == effect
    assert read_applied(tmp_path / "elsewhere") == Effect()
    assert effect.on_training(["c"]) == {}
    assert effect.on_training(["a", "c"]) == {"rejected": ["a"], "masks": {}, "tags": {}}


def test_scores_by_eye_are_of_what_was_in_use(tmp_path: Path) -> None:
    append(tmp_path, [{"threshold": 0.4, "thresholds": {"cat": 0.5}}])
    write_applied(tmp_path, Effect(threshold=0.4, thresholds={"cat": 0.5}))
    for _ in range(2):  # as after a call that was killed
        name_scores(tmp_path, "other")
        assert Effect.of(read_decisions(tmp_path)) == read_applied(tmp_path) == Effect({}, (), {}, 0.4, {"cat": 0.5})
    write_json(tmp_path / "choices.json", {"chosen": "other"})
    there = {"first": (0.4, {"cat": 0.5})}
    assert Effect.of(read_decisions(tmp_path)) == read_applied(tmp_path) == Effect(others=there)
    append(tmp_path, [{"threshold": 0.6}])
    assert Effect.of(read_decisions(tmp_path)) == Effect(threshold=0.6, others=there)
    name_scores(tmp_path, "first")
    write_json(tmp_path / "choices.json", {"chosen": "first"})
    assert Effect.of(read_decisions(tmp_path)) == Effect({}, (), {}, 0.4, {"cat": 0.5}, {"other": (0.6, {})})


def test_rerun_says_that_a_review_is_not_repeated(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tag2mask.rerun.run", lambda *_, **__: None)
    monkeypatch.setattr("tag2mask.rerun.differences", lambda *_: [])
    run, said = tiny_run.copy_run(finished_run, tmp_path), "decisions of its review, which aren't repeated"
    assert said not in rerun(run, say=lambda _: None).circumstances
    write_applied(run, Effect(rejected=("a",)))
    assert said in rerun(run, say=lambda _: None).circumstances


def test_corrected_tags_keep_the_digest_of_the_set(tmp_path: Path) -> None:
    records = tuple(ImageRecord(name, tmp_path / name, (0,), "train") for name in "ab")
    dataset = Dataset("set", ("cat", "cow"), records)
    changed = with_tags(dataset, Effect({"a": {"cat": False, "cow": True}, "b": {"cat": True}, "x": {"cat": True}}))
    assert [record.labels for record in changed.records] == [(1,), (0,)]
    assert changed.digest() == dataset.digest()
    assert changed.corrected_tags() == {"a": ["cow"]}
    assert with_tags(dataset, Effect({"a": {"cat": False, "horse": True}})).records[0].labels == ()


def test_thresholds_of_classes_hold_where_they_are_strongest() -> None:
    maps = np.array([[[0.9, 0.5, 0.2]], [[0.1, 0.6, 0.3]]], np.float32)
    classes = np.array([2, 4])
    plane = threshold_by_class(maps, classes, 0.25, {4: 0.7, 0: 0.1})
    assert np.allclose(plane, [[0.25, 0.7, 0.7]])
    assert labels_from_maps(maps, classes, plane).tolist() == [[3, 0, 0]]
    assert map_probabilities(maps, plane).argmax(axis=0).tolist() == [[1, 0, 0]]
    assert threshold_by_class(maps, classes, 0.25, {0: 0.1}) == 0.25
    assert np.allclose(map_probabilities(maps, np.full((1, 3), 0.25, np.float32)), map_probabilities(maps, 0.25))


def test_a_threshold_by_eye_goes_into_the_settings_of_pseudo_masks(tmp_path: Path) -> None:
    recipe = load_recipe("voc_animals")
    chosen = with_threshold(recipe, Effect(threshold=0.3, thresholds={"dog": 0.5}))
    used = chosen.refine.used()
    assert (used["threshold"], used["thresholds"]) == (0.3, {"dog": 0.5})
    assert "by eye" in used["threshold_chosen_on"]
    assert "thresholds" not in recipe.refine.used()
    irn = dataclasses.replace(recipe, refine=dataclasses.replace(recipe.refine, method="irn"))
    assert with_threshold(irn, Effect(threshold=0.3)) == irn
    with pytest.raises(ConfigError, match=r"thresholds.*cat: 2"):
        dataclasses.replace(recipe.refine, thresholds={"cat": 2.0})


def test_exports_leave_out_what_was_rejected_and_take_what_was_corrected(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    corrected = np.where(world.masks["day1__IMG 1"] == 1, 2, 0).astype(np.uint8)
    write_mask(mask_path(world.run, "day1__IMG 1"), corrected)
    append(
        world.run,
        [
            {"id": "day1__IMG 1", "mask": digest_file(mask_path(world.run, "day1__IMG 1"))},
            {"id": "day2__empty", "verdict": "rejected"},
            {"id": "day2__IMG 1", "tag": "cat", "present": False},
            {"id": "day2__IMG 1", "tag": "of another run", "present": False},
        ],
    )
    source = open_source(world.run)
    found = {photo.id: mask for photo, mask in source}
    assert set(found) == {"day1__IMG 1", "day2__IMG 1", "blätter"}
    assert np.array_equal(found["day1__IMG 1"], corrected)
    expected = world.masks["day2__IMG 1"]
    assert np.array_equal(found["day2__IMG 1"], np.where(expected == 1, 0, expected))
    assert source.reviewed == "1 rejected, 1 corrected by hand, 1 without a wrong tag"
    plain = {photo.id: mask for photo, mask in open_source(world.run, reviewed=False)}
    assert np.array_equal(plain["day2__IMG 1"], expected)
    append(world.run, [{"id": name, "verdict": "rejected"} for name in world.masks])
    with pytest.raises(DataError, match="every photo was rejected"):
        open_source(world.run)


RECIPE = tiny_run.RECIPE.replace("method: irn\n  unsure: 0.05", "method: none\n  threshold: 0.3")
RECIPE += "supervised: false\n"


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny finished run whose pseudo-masks are cut from the maps."""
    folder = tmp_path_factory.mktemp("reviewed")
    tiny_run.write_photos(folder / "farm")
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    _go_on(folder / "run")
    return folder / "run"


def _go_on(run: Path) -> list[str]:
    said: list[str] = []
    recipe, execution = load_recipe(run.parent / "tiny.yaml"), Execution("cpu", workers=0, processes=1)
    open_chain(recipe, run.parent / "farm", run, execution=execution, say=said.append).run()
    return said


def _stamps(run: Path, *folders: str) -> dict[str, int]:
    paths = (path for name in folders for path in sorted((run / name).rglob("*")) if path.suffix in (".npz", ".png"))
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in paths}


def _weights(run: Path) -> dict[str, str]:
    return {name: digest_file(run / name / "weights.safetensors") for name in ("classifier", "segmenter")}


def test_a_run_goes_on_with_decisions(plain_run: Path) -> None:
    """One photo rejected, one mask corrected, one tag changed: only what follows from these is made again."""
    run = plain_run
    train = [name for name, entry in read_json(run / "index.json")["images"].items() if entry["split"] == "train"]
    rejected, corrected, retagged = train[0], train[1], train[2]
    before, weights = _stamps(run, "localization", "pseudo_masks", "pseudo_masks_plain_cam"), _weights(run)
    assert not any("decided otherwise" in line for line in _go_on(run))
    assert _weights(run) == weights

    write_mask(mask_path(run, corrected), np.full((48, 64), 3, np.uint8))
    own = read_json(run / "index.json")["images"][retagged]["labels"]
    other = next(name for name in tiny_run.CLASSES if name not in own)
    lines: list[dict[str, Any]] = [
        {"id": rejected, "verdict": "rejected"},
        {"id": corrected, "mask": digest_file(mask_path(run, corrected))},
        *({"id": retagged, "tag": name, "present": False} for name in own),
        {"id": retagged, "tag": other, "present": True},
    ]
    append(run, lines)
    said = _go_on(run)
    assert any("1 rejected photo, 1 corrected mask, 1 photo with other tags" in line for line in said)
    assert any("classifier: learned from other tags of 1 photos" in line for line in said)

    after = _stamps(run, "localization", "pseudo_masks", "pseudo_masks_plain_cam")
    assert {Path(name).stem for name in before if after.get(name) != before[name]} == {retagged}
    assert set(np.unique(read_mask(run / "pseudo_masks" / "masks" / f"{retagged}.png"))) <= {
        0,
        tiny_run.CLASSES.index(other) + 1,
    }
    now = _weights(run)
    assert now["classifier"] == weights["classifier"]
    assert now["segmenter"] != weights["segmenter"]
    manifest = read_json(run / "segmenter" / "manifest.json")
    assert manifest["inputs"]["masks"] == "pseudo-masks, reviewed"
    assert rejected not in manifest["images"]
    assert manifest["images"][corrected] == {"status": "done"}
    kept = run / "earlier" / "1"
    assert digest_file(kept / "segmenter" / "weights.safetensors") == weights["segmenter"]
    assert {path.name for path in kept.iterdir()} >= {"segmenter", "masks", "predictions", "localization"}
    assert read_json(run / "index.json")["images"][retagged] | {"path": ""} == {
        "path": "",
        "labels": [other],
        "own_labels": own,
        "split": "train",
        "mask": read_json(run / "index.json")["images"][retagged]["mask"],
    }
    assert read_json(run / "run.json")["finished"]

    assert not any("decided otherwise" in line for line in _go_on(run))  # nothing is left to do
    assert _weights(run) == now

    append(run, [{"threshold": 0.6, "thresholds": {"cat": 0.5}}])
    said = _go_on(run)
    assert any("a threshold chosen by eye" in line for line in said)
    config = read_json(run / "pseudo_masks" / "manifest.json")["config"]
    assert (config["threshold"], config["thresholds"]) == (0.6, {"cat": 0.5})
    later = _stamps(run, "localization", "pseudo_masks_plain_cam")
    assert later == {name: after[name] for name in later}
    assert (run / "earlier" / "2" / "pseudo_masks").is_dir()

    mask_path(run, corrected).unlink()
    append(run, [{"threshold": None}])
    with pytest.raises(DataError, match="corrected mask isn't there"):
        _go_on(run)
    append(run, [{"id": corrected, "mask": ""}])
    _go_on(run)
    assert json.loads((run / "review" / "applied.json").read_text())["threshold"] is None
