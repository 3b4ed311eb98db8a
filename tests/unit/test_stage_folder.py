"""A stage's folder is continued only by the same settings and never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import atomic_write, read_json, write_json
from tag2mask.data import ImageRecord
from tag2mask.runs import folder as module
from tag2mask.runs.folder import StageFolder, read_manifest, started_without


def make(path: Path, **changes: object) -> StageFolder:
    values: dict = {"config": {"rate": 0.1, "inner": {"k": 1}}, "seed": 0, "inputs": {"dataset": "abc"}} | changes
    return StageFolder(path, "refine", **values)


def test_same_settings_continue(tmp_path: Path) -> None:
    make(tmp_path / "a").save(note=1)
    again = make(tmp_path / "a")
    assert not again.finished
    again.fail("broken", "why")
    again.finish(["good"])
    assert make(tmp_path / "a").finished
    manifest = read_manifest(tmp_path / "a", "refine")
    assert manifest["images"] == {"good": {"status": "done"}, "broken": {"status": "failed", "error": "why"}}
    assert manifest["note"] == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"config": {"rate": 0.2, "inner": {"k": 1}}}, r"config.rate: 0.1 there, 0.2 now"),
        ({"config": {"rate": 0.1, "inner": {"k": 2}}}, r"config.inner.k: 1 there, 2 now"),
        ({"seed": 1}, r"seed: 0 there, 1 now"),
        ({"inputs": {"dataset": "def"}}, r"inputs.dataset: 'abc' there"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changes: dict, named: str) -> None:
    make(tmp_path / "a")
    before = read_json(tmp_path / "a" / "manifest.json")
    with pytest.raises(ConfigError, match=named):
        make(tmp_path / "a", **changes)
    assert read_json(tmp_path / "a" / "manifest.json") == before


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(ConfigError, match="not empty"):
        make(tmp_path)
    with pytest.raises(ConfigError, match=r"no manifest.json; expected the folder that 'localize' wrote"):
        read_manifest(tmp_path, "localize")
    make(tmp_path / "b")
    with pytest.raises(ConfigError, match="was written by 'refine'"):
        read_manifest(tmp_path / "b", "localize")


def test_only_a_finished_stage_is_read(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    with pytest.raises(ConfigError, match="'refine' is not finished there; run refine to its end"):
        read_manifest(tmp_path / "a", "refine")
    assert read_manifest(tmp_path / "a", "refine", unfinished=True)["seed"] == 0
    folder.finish()
    assert read_manifest(tmp_path / "a", "refine")["finished"]


def test_a_finished_manifest_stays_and_later_versions_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "versions", lambda: {"torch": "1"})
    make(tmp_path / "a").finish(["good"])
    make(tmp_path / "b").save()
    before = (tmp_path / "a" / "manifest.json").read_bytes()
    monkeypatch.setattr(module, "versions", lambda: {"torch": "2"})
    finished, resumed = make(tmp_path / "a"), make(tmp_path / "b")
    assert (tmp_path / "a" / "manifest.json").read_bytes() == before
    for folder in (finished, resumed):
        folder.finish(["good"])
        manifest = read_json(folder.path / "manifest.json")
        assert (manifest["versions"], manifest["later_versions"]) == ({"torch": "1"}, {"torch": "2"})


def test_settings_that_an_older_manifest_lacks(tmp_path: Path) -> None:
    absent = {"config": {"rate": 0.9, "inner": {"k": 9, "new": 5}, "section": {"a": 1}}, "inputs": {"table": "t"}}
    config = {"rate": 0.1, "inner": {"k": 1, "new": 5}, "section": {"a": 1}}
    inputs = {"dataset": "abc", "table": "t"}
    make(tmp_path / "a").finish()
    before = (tmp_path / "a" / "manifest.json").read_bytes()
    make(tmp_path / "a", config=config, inputs=inputs, absent=absent)
    assert (tmp_path / "a" / "manifest.json").read_bytes() == before
    for changed, place in (
        ({"config": config | {"inner": {"k": 1, "new": 6}}}, r"config.inner.new: None there, 6 now"),
        ({"config": config | {"section": {"a": 2}}}, r"config.section: None there"),
        ({"inputs": inputs | {"table": "u"}}, r"inputs.table: None there, 'u' now"),
    ):
        with pytest.raises(ConfigError, match=place):
            make(tmp_path / "a", **({"config": config, "inputs": inputs, "absent": absent} | changed))


def test_settings_that_only_cost_time_may_differ(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "a", config={"rate": 0.1, "inner": {"k": 2}}, free=("inner.k",))
    with pytest.raises(ConfigError, match=r"config.rate"):
        make(tmp_path / "a", config={"rate": 0.2, "inner": {"k": 2}}, free=("inner.k",))


def test_seconds_are_stored_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "a")
    folder.started -= 50
    folder.tick()
    assert read_json(tmp_path / "a" / "manifest.json")["seconds"] == 0
    folder.started -= 20
    folder.tick()
    folder.tick()
    assert 70 <= read_json(tmp_path / "a" / "manifest.json")["seconds"] < 80


def test_a_finished_stage_tries_what_it_lacks_unless_the_image_is_still_broken(tmp_path: Path) -> None:
    records = {
        name: ImageRecord(name, tmp_path / f"{name}.png", (0,)) for name in ("done", "died", "{broken}", "half")
    }
    for name in ("done", "died", "half"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / "{broken}.png").touch()
    folder = make(tmp_path / "a")
    for kind, name in (("cam", "done"), ("rib", "done"), ("rib", "half")):
        (folder.path / kind).mkdir(exist_ok=True)
        (folder.path / kind / f"{name}.npz").touch()
    outputs = ("cam/{}.npz", "rib/{}.npz")
    assert folder.left(records, *outputs) == ["died", "{broken}", "half"]  # at work, all have their turn
    assert folder.failures == {}
    folder.finish()
    again = make(tmp_path / "a")
    assert again.left(records, *outputs) == ["died", "half"]
    assert "0 bytes" in again.failures["{broken}"]


def test_what_a_training_was_begun_without(tmp_path: Path) -> None:
    assert started_without(tmp_path, "has no mask") == set()
    images = {"a": {"status": "failed", "error": "has no mask"}, "b": {"status": "failed", "error": "is cut off"}}
    write_json(tmp_path / "manifest.json", {"images": images})  # as earlier versions wrote it
    assert started_without(tmp_path, "has no mask") == {"a"}
    write_json(tmp_path / "manifest.json", {"images": images, "without": ["c"]})
    assert started_without(tmp_path, "has no mask") == {"c"}


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    def half() -> None:
        with atomic_write(tmp_path / "x.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []
