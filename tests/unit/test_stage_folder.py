"""A stage's folder is continued only by the same settings and never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import atomic_write, read_json
from tag2mask.stages.folder import StageFolder, read_manifest


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


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    def half() -> None:
        with atomic_write(tmp_path / "x.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []
