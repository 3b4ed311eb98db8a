"""Damaged and malicious files: the fast part of benchmarks/hostile_files.py, and single bombs."""

from __future__ import annotations

import json
import pickle
import zipfile
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import yaml

from tag2mask.common.errors import ConfigError, DataError, Tag2MaskError, WeightsError
from tag2mask.common.files import JSONError, read_object
from tag2mask.common.yaml_files import parse_yaml
from tag2mask.config import load_yaml
from tag2mask.data import LocalizationMaps, load_maps, save_maps
from tag2mask.exports.source import open_source
from tag2mask.networks.weights import read_state
from tag2mask.runs.folder import read_manifest

DEEP = "[" * 100_000 + "]" * 100_000
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
POSIX = pytest.mark.skipif(util.find_spec("resource") is None, reason="counts with the system's timers")


@POSIX
def test_a_few_hundred_of_the_campaign(tmp_path: Path) -> None:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "hostile_files.py"
    spec = util.spec_from_file_location("hostile_files", path)
    assert spec is not None
    assert spec.loader is not None
    campaign = util.module_from_spec(spec)
    __import__("sys").modules["hostile_files"] = campaign  # dataclasses look their module up
    spec.loader.exec_module(campaign)
    found = campaign.campaign(tmp_path, 300, seed=7, hand=False)
    assert dict(found.broken) == {}
    assert found.inputs > 250
    assert sum(found.named.values()) > 50
    assert sum(found.used.values()) > 50


@pytest.mark.parametrize("text", [DEEP, "{", "[1, 2]", "\ufeff{}", "null", '{"a": 1' + "0" * 5000 + "}", "\x00"])
def test_what_is_no_json_object_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(JSONError, match=r"run\.json: .*take a whole copy"):
        read_object(path)["anything"]
    assert issubclass(JSONError, ValueError)  # for those who go on without a file


def test_a_key_that_isnt_there_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"stage": "refine"}')
    value = read_object(tmp_path / "manifest.json")
    with pytest.raises(DataError, match=r"manifest\.json: has no 'config'"):
        value["config"]
    assert value.get("config") is None
    assert type(pickle.loads(pickle.dumps(value))) is dict


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS + "name: *a11\n",
        "name: &x\n  y: *x\n",
        "name: " + "[" * 3_000 + "]" * 3_000,
        "name: !!python/object/apply:os.system ['true']\n",
        "name: [" + "a, " * 50_000 + "]",
        "m0: &m0 {x: 1}\n" + "".join(f"m{i}: &m{i} {{p: *m{i - 1}, q: *m{i - 1}}}\n" for i in range(1, 40)),
    ],
)
def test_yaml_without_end_or_with_objects(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml: not valid YAML"):
        load_yaml(tmp_path / "mine.yaml")


def test_yaml_as_usual() -> None:
    values, node = parse_yaml("base: &b {x: 1}\nmore: [*b, *b]\n")
    assert values == {"base": {"x": 1}, "more": [{"x": 1}, {"x": 1}]}
    assert isinstance(node, yaml.MappingNode)
    assert parse_yaml("") == (None, None)


def stored(path: Path, **changes: np.ndarray) -> Path:
    """A map file with other arrays."""
    save_maps(path, LocalizationMaps(np.zeros(1, np.int64), (32, 32), (1.0,), [np.ones((1, 2, 2), np.float32)]))
    with np.load(path) as maps:
        arrays = dict(maps) | changes
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": np.zeros(300 * 2**20, np.uint8)}, r"unpacks to 3\d+ bytes, at most 268435456"),
        ({"size": np.array([2**30, 2**30])}, "of a photo of 1073741824 x 1073741824 pixels"),
        ({"size": np.array([0, 5])}, "of a photo of 0 x 5"),
        ({"classes": np.array([-1])}, "its classes are none"),
        ({"classes": np.array([1, 2])}, "for 2 classes"),
        ({"sum_0": np.ones((1, 2, 0), np.float16)}, "for 1 classes"),
        ({"scales": np.zeros(0, np.float32)}, "for 1 classes"),
        ({"scales": np.ones(9, np.float32)}, "sum_1"),
    ],
)
def test_maps_that_no_localization_writes(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"maps\.npz: is no whole map file .*{message}"):
        load_maps(stored(tmp_path / "maps.npz", **changes))


def test_weights_that_unpack_to_more_than_they_are(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(2**20))
    with pytest.raises(WeightsError, match=r"w\.pth: unpacks to \d+ bytes, more than the file has"):
        read_state(tmp_path / "w.pth")


def test_a_list_of_photos_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "classes.txt").write_text("cat\n")
    photo = str(tmp_path / "photos" / "a.jpg")
    for image_id, path in (("../../a", photo), ("a/b", photo), ("a", "a.jpg"), ("a", ""), ("a", "/x\0y")):
        states = {"finished": True, "images": {image_id: {"status": "done"}}}
        listed = {"stage": "predict", "photos": {image_id: {"path": path}}}
        (tmp_path / "manifest.json").write_text(json.dumps(states | listed))
        with pytest.raises(DataError, match="its list of photos is damaged"):
            open_source(tmp_path)
    up = {"path": str(tmp_path / "photos" / ".." / ".." / "b.jpg")}
    (tmp_path / "manifest.json").write_text(
        json.dumps(states | {"images": {"a": {"status": "done"}}, "photos": {"a": up}})
    )
    assert [photo.name for photo in open_source(tmp_path).photos] == ["b.jpg"]


def test_a_manifest_of_other_types(tmp_path: Path) -> None:
    for classes in (5, [1], None, {"a": 1}):
        values = {"stage": "predict", "finished": True, "config": {}, "classes": classes}
        (tmp_path / "manifest.json").write_text(json.dumps(values))
        with pytest.raises(DataError, match="its settings or classes are damaged"):
            read_manifest(tmp_path, "predict")


def test_a_word_without_end_is_cut() -> None:
    assert len(str(DataError("a.csv: " + "x" * 9000 + " is no name"))) < 200
    assert str(Tag2MaskError("short")) == "short"
