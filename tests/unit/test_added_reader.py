"""A format of one's own is one reader and one line in READERS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.cli import main
from tag2mask.data.readers import READERS, Reader
from tag2mask.data.readers.found import Found, Query, Row
from tag2mask.recipe import load_recipe, read_splits


def read_initials(root: Path, query: Query) -> Found:
    """Photos whose file name begins with their tag's initial."""
    names = {"c": "cat", "d": "dog"}
    rows = [Row(path, path.name, [names[path.name[0]]]) for path in sorted(root.glob("*.png"))]
    return Found("initials", rows)


def test_a_new_format_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for number, name in enumerate(("c1", "c2", "d1", "d2")):
        Image.fromarray(np.full((32, 32, 3), 50 * number, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "initials.txt").touch()
    reader = Reader(lambda root: (root / "initials.txt").is_file(), read_initials, "initials.txt")
    monkeypatch.setitem(READERS, "initials", reader)
    recipe = load_recipe("photos", ["data.reader=initials", "data.val_fraction=0"])
    splits = read_splits(recipe, tmp_path)
    assert splits.train.classes == ("cat", "dog")
    assert [record.labels for record in splits.train.records] == [(0,), (0,), (1,), (1,)]
    main(["data", "check", str(tmp_path), "--reader", "initials"])
    assert "cat" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path), "--reader", "initial"]) == 2
    assert "initials" in capsys.readouterr().err
