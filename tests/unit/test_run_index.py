"""index.json: written image by image, read image by image, the same as written and read whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tag2mask.common.files import JSONError, write_json
from tag2mask.data import Dataset, ImageRecord
from tag2mask.runs.index import Index, IndexedImage, parse_index, read_index, write_index

CLASSES = ("cat", 'a "quoted"\nname', "Hünd")


def parts() -> list[Dataset]:
    train = (
        ImageRecord("a", Path("/set/a.jpg"), (0, 2), "train", Path("/masks/ä.png")),
        ImageRecord('odd "id"', Path("/set/sub/b\udce9.jpg"), (), "train"),  # a name that isn't UTF-8
    )
    val = (ImageRecord("c", Path("/set/c.jpg"), (1,), "val"),)
    return [Dataset("s", CLASSES, train, own_labels={"a": (0,)}), Dataset("s", CLASSES, val)]


def expected() -> dict[str, object]:
    first = {"path": "/set/a.jpg", "labels": ["cat", "Hünd"], "own_labels": ["cat"], "split": "train"}
    second = {"path": "/set/sub/b\udce9.jpg", "labels": [], "split": "train", "mask": None}
    third = {"path": "/set/c.jpg", "labels": [CLASSES[1]], "split": "val", "mask": None}
    images = {"a": first | {"mask": "/masks/ä.png"}, 'odd "id"': second, "c": third}
    lut = [0, 1, 2, 3, *[255] * 252]
    return {"classes": list(CLASSES), "images": images, "mask_lut": lut}


def test_written_as_any_other_file(tmp_path: Path) -> None:
    write_index(tmp_path / "index.json", parts())
    write_json(tmp_path / "whole.json", expected())
    assert (tmp_path / "index.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_without_an_image(tmp_path: Path) -> None:
    write_index(tmp_path / "index.json", [Dataset("s", ("cat",), ())])
    assert json.loads((tmp_path / "index.json").read_text())["images"] == {}
    assert read_index(tmp_path / "index.json").images == {}


def test_read_as_it_comes(tmp_path: Path) -> None:
    write_index(tmp_path / "index.json", parts())
    found = read_index(tmp_path / "index.json")
    whole = parse_index(expected())
    assert (found.classes, found.images) == (whole.classes, whole.images)
    assert np.array_equal(found.mask_lut, whole.mask_lut)
    image = found.images["a"]
    assert (image.id, image.path, image.mask) == ("a", Path("/set/a.jpg"), Path("/masks/ä.png"))
    assert (image.labels, image.own_labels) == (("cat", "Hünd"), ("cat",))
    assert found.images["c"].own_labels == (CLASSES[1],)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"images": 3}', '{"images": {"a": 1}, "classes": "x"}', '{"path": "x"}']
)
def test_another_thing(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    found = read_index(tmp_path / "index.json")
    assert isinstance(found, Index)
    assert found.images in ({}, {"a": IndexedImage("a")})


def test_an_object_that_looks_like_an_image_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"path": 1, "labels": [], "images": {"a": {"path": 5, "labels": 7}}}')
    assert read_index(tmp_path / "index.json") in (Index(), Index(images={"a": IndexedImage("a")}))


def test_no_json(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_bytes(b'{"images": \xff')
    with pytest.raises(JSONError, match="take a whole copy"):
        read_index(tmp_path / "index.json")
