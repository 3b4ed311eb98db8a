"""The archive for VOC's test server: exact names and bytes, and everything the check must catch."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.cli import main
from tag2mask.common.errors import DataError
from tag2mask.common.files import write_json
from tag2mask.data import VOC_CLASSES, read_mask, write_mask
from tag2mask.exports import voc_server
from tag2mask.exports.voc_server import FOLDER, check_archive, listed_images, voc_values, write_archive

IDS = ("2008_000006", "2008_000011", "2008_000012")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for number, name in enumerate(IDS):
        (home / "JPEGImages").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 10)).save(home / "JPEGImages" / f"{name}.jpg")
        mask = np.zeros((10, 20 + number), np.uint8)
        mask[2:5, 3:9] = 20 - number
        write_mask(tmp_path / "masks" / f"{name}.png", mask)
    (home / "ImageSets" / "Segmentation").mkdir(parents=True)
    (home / "ImageSets" / "Segmentation" / "test.txt").write_text("\n".join(IDS) + "\n")
    return home


def test_names_palette_indices_and_the_same_bytes_again(home: Path, tmp_path: Path) -> None:
    images = listed_images(home.parent, expected=3)
    first = write_archive(tmp_path / "masks", images, tmp_path / "one.tgz").read_bytes()
    assert write_archive(tmp_path / "masks", images, tmp_path / "two.tgz").read_bytes() == first
    assert check_archive(tmp_path / "one.tgz", images) == []
    with tarfile.open(tmp_path / "one.tgz") as archive:
        assert archive.getnames() == [f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in IDS]
        stream = archive.extractfile(archive.getnames()[1])
        assert stream is not None
        picture = Image.open(io.BytesIO(stream.read()))
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.array(picture), read_mask(tmp_path / "masks" / f"{IDS[1]}.png"))


def test_other_orders_of_classes_are_translated(home: Path, tmp_path: Path) -> None:
    table = voc_values(["person", "cat"])
    assert table[:4].tolist() == [0, 15, 8, 255]
    assert voc_values(VOC_CLASSES)[:22].tolist() == [*range(21), 255]
    with pytest.raises(DataError, match="'persn' is not one of VOC's; did you mean 'person'"):
        voc_values(["persn"])
    with pytest.raises(DataError, match=r"2008_000006\.png: holds the value\(s\) 255, outside 0\.\.20"):
        write_archive(tmp_path / "masks", listed_images(home, 3), tmp_path / "x.tgz", table)
    assert not (tmp_path / "x.tgz").exists()


def test_masks_that_do_not_fit_are_named(home: Path, tmp_path: Path) -> None:
    images = listed_images(home, 3)
    write_mask(tmp_path / "masks" / f"{IDS[0]}.png", np.zeros((10, 21)))
    with pytest.raises(DataError, match=r"2008_000006\.png: is 10 x 21 pixels, its photo 10 x 20"):
        write_archive(tmp_path / "masks", images, tmp_path / "x.tgz")
    (tmp_path / "masks" / f"{IDS[0]}.png").unlink()
    with pytest.raises(DataError, match=r"no mask for 1 image\(s\): 2008_000006"):
        write_archive(tmp_path / "masks", images, tmp_path / "x.tgz")


def test_an_archive_that_fails_its_check_is_not_left_behind(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.tgz"
    out.write_bytes(b"an earlier one")
    monkeypatch.setattr(voc_server, "check_archive", lambda *_: ["holds 'notes.txt'"])
    with pytest.raises(DataError, match=r"x\.tgz: not written: holds 'notes\.txt'"):
        write_archive(tmp_path / "masks", listed_images(home, 3), out)
    assert out.read_bytes() == b"an earlier one"
    assert not list(tmp_path.glob(".*"))


def test_a_network_of_other_classes_is_refused_before_it_predicts(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    manifest = {"stage": "train-segmenter", "finished": True, "classes": ["cat", "dgo"]}
    write_json(tmp_path / "run" / "segmenter" / "manifest.json", manifest)
    monkeypatch.setattr("tag2mask.inference.predict_listed", lambda *_, **__: pytest.fail("predicts"))
    arguments = ["export", "voc-server", "--data", str(home), "--expect", "3", "--run", str(tmp_path / "run")]
    assert main(arguments) == 2
    assert "'dgo' is not one of VOC's" in capsys.readouterr().err


def test_lists_that_are_not_the_servers(home: Path) -> None:
    with pytest.raises(DataError, match="lists 3 images, the server expects 1456"):
        listed_images(home)
    (home / "JPEGImages" / f"{IDS[2]}.jpg").unlink()
    with pytest.raises(DataError, match=r"1 image\(s\): 2008_000012 not in JPEGImages"):
        listed_images(home, 3)
    (home / "ImageSets" / "Segmentation" / "test.txt").unlink()
    with pytest.raises(DataError, match=r"VOC2012test\.tar"):
        listed_images(home, 3)


def png(array: np.ndarray, mode: str = "P") -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(array)
    if mode == "P":
        picture.putpalette([0] * 768)
    picture.save(stream, format="PNG")
    return stream.getvalue()


def replaced(archive: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Write the archive again with other members."""
    with tarfile.open(archive) as old:
        members = {m.name: old.extractfile(m).read() for m in old}  # type: ignore[union-attr]
    change(members)
    path = archive.with_name("changed.tgz")
    with tarfile.open(path, "w:gz") as new:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    return path


FIRST = f"{FOLDER}/{IDS[0]}.png"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop(FIRST), r"lacks 1 image\(s\): 2008_000006"),
        (lambda m: m.update({f"{FOLDER}/2007_000001.png": m[FIRST]}), "'2007_000001.png', which is not a test image"),
        (lambda m: m.update({"notes.txt": b"x"}), "holds 'notes.txt'; expected only"),
        (lambda m: m.update({f"../{FIRST}": m[FIRST]}), r"holds '\.\./results"),
        (lambda m: m.update({FIRST: png(np.zeros((10, 20), np.uint8), "L")}), "PNG of mode L"),
        (lambda m: m.update({FIRST: png(np.zeros((10, 20, 3), np.uint8), "RGB")}), "PNG of mode RGB"),
        (lambda m: m.update({FIRST: png(np.zeros((20, 10), np.uint8))}), "is 20 x 10 pixels, its photo 10 x 20"),
        (lambda m: m.update({FIRST: png(np.full((10, 20), 21, np.uint8))}), r"value\(s\) 21, outside 0\.\.20"),
        (lambda m: m.update({FIRST: m[FIRST][:-30]}), "is not a whole PNG"),
    ],
)
def test_the_check_finds(home: Path, tmp_path: Path, change: Callable, words: str) -> None:
    images = listed_images(home, 3)
    archive = replaced(write_archive(tmp_path / "masks", images, tmp_path / "x.tgz"), change)
    problems = check_archive(archive, images)
    assert len(problems) == 1
    assert re.search(words, problems[0])


def test_command_line(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "results.tgz"
    common = ["export", "voc-server", "--data", str(home), "--expect", "3"]
    assert main([*common, "--masks", str(tmp_path / "masks"), "--out", str(out)]) == 0
    assert "3 masks, checked" in capsys.readouterr().out
    whole = out.read_bytes()
    assert main([*common, "--masks", str(tmp_path / "masks"), "--out", str(out)]) == 2
    assert "results.tgz: is there already, and nothing is overwritten" in capsys.readouterr().err
    assert out.read_bytes() == whole
    assert main([*common, "--check-only", str(out)]) == 0
    assert main([*common, "--check-only", str(replaced(out, lambda m: m.pop(FIRST)))]) == 1
    assert "lacks 1 image(s)" in capsys.readouterr().err
    (tmp_path / "no.tgz").write_bytes(b"x")
    assert main([*common, "--check-only", str(tmp_path / "no.tgz")]) == 2
    assert main(common) == 2
    assert "either --run RUN or --masks DIR" in capsys.readouterr().err
