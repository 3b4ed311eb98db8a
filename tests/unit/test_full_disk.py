"""A disk without room, folders that can't be written to, drives that are gone: one line, nothing half-written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.cli import main
from tag2mask.common.errors import ConfigError, DataError, GoneError
from tag2mask.common.files import FULL, atomic_write, remove_leftovers, write_json
from tag2mask.data.images import decode_image
from tag2mask.data.maps import LocalizationMaps, save_maps
from tag2mask.data.masks import write_mask
from tag2mask.data.prepare.common import out_folder
from tag2mask.engine import ray_cluster
from tag2mask.engine.images import attempt
from tag2mask.engine.loop import EpochDataset
from tag2mask.networks.weights import save_module
from tag2mask.runs.folder import StageFolder

resource = pytest.importorskip("resource")
NOISE = np.random.default_rng(0)


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may become larger than `size` bytes meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _checkpoint(path: Path) -> None:
    with atomic_write(path) as temporary:
        torch.save({"weight": torch.zeros(100_000)}, temporary)


def _maps(path: Path) -> None:
    sums = [NOISE.random((1, 64, 64)).astype(np.float32)]
    save_maps(path, LocalizationMaps(np.zeros(1, np.int64), (256, 256), (1.0,), sums))


WRITERS: dict[str, Callable[[Path], None]] = {
    "checkpoint.pt": _checkpoint,
    "weights.safetensors": lambda path: save_module(torch.nn.Linear(300, 300), path),
    "maps.npz": _maps,
    "mask.png": lambda path: write_mask(path, NOISE.integers(0, 255, (128, 128))),
    "manifest.json": lambda path: write_json(path, {"images": list(range(10_000))}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_half_written_is_taken_for_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    with room(4000), pytest.raises(OSError) as caught:  # noqa: PT011
        WRITERS[name](path)
    assert caught.value.errno in (*FULL, errno.EIO)
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]

    def stop(_: object) -> int:
        raise caught.value

    monkeypatch.setattr("tag2mask.cli.recipes._recipes_ls", stop)
    assert main(["recipes", "ls"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "give the same command again: what is finished is kept" in error
    WRITERS[name](path)  # once there is room
    assert path.stat().st_size > 4000


def test_a_photo_whose_folder_is_gone_isnt_a_broken_photo(tmp_path: Path) -> None:
    photo = tmp_path / "drive" / "a.png"
    with pytest.raises(GoneError, match=r"drive: is not there \(any more\); once it is back"):
        decode_image(photo)
    photo.parent.mkdir()
    with pytest.raises(DataError, match=r"a\.png: does not exist"):
        decode_image(photo)


def test_a_drive_that_is_gone_ends_the_work_instead_of_failing_every_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(photo)

    def stale(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("PIL.Image.open", stale)
    with pytest.raises(GoneError, match=r"can't be read \(Stale file handle\)"):
        attempt(lambda _: decode_image(photo) and None, "a")
    data = EpochDataset(lambda epoch, index: decode_image(photo), ["a"], 255)  # type: ignore[arg-type,return-value]
    with pytest.raises(GoneError):
        data[0, 0]


def test_preparing_data_that_can_only_be_read_names_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)
    with pytest.raises(ConfigError, match=r"can't be written to; say where the index goes instead: --out DIR"):
        out_folder(tmp_path, None)
    (tmp_path / "out").mkdir()
    assert out_folder(tmp_path, tmp_path / "out" / "index") == tmp_path / "out" / "index"


def test_leftovers_of_a_killed_process_are_no_results(tmp_path: Path) -> None:
    for name in (".run.77-a0b1c2.partial.json", "masks/.a.b.77-a0b1c2.partial.png", "masks/.x.1-abcdef.partial"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    (tmp_path / "masks").rename(tmp_path / "kept")
    with pytest.raises(ConfigError, match="not empty"):
        StageFolder(tmp_path, "refine", config={}, seed=0, inputs={})
    (tmp_path / "manifest.json").write_text('{"stage": "refine", "config": {}, "seed": 0, "inputs": {}}')
    StageFolder(tmp_path, "refine", config={}, seed=0, inputs={})
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["manifest.json"]
    assert list((tmp_path / "kept").iterdir()) == []


def test_what_a_killed_cluster_left_is_a_leftover_too(tmp_path: Path) -> None:
    with ray_cluster._token(tmp_path) as path:
        assert path.is_file()
        remove_leftovers(tmp_path)
        assert not path.exists()


def test_a_folder_with_nothing_but_leftovers_is_empty(tmp_path: Path) -> None:
    (tmp_path / ".manifest.77-a0b1c2.partial.json").write_text("half")
    StageFolder(tmp_path, "refine", config={}, seed=0, inputs={})
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o700, 0o600), (0o775, 0o664)])
def test_weights_can_be_read_by_whoever_may_read_their_folder(tmp_path: Path, folder: int, file: int) -> None:
    place = tmp_path / "classifier"
    place.mkdir()
    place.chmod(folder)
    save_module(torch.nn.Linear(2, 2), place / "weights.safetensors")
    assert (place / "weights.safetensors").stat().st_mode & 0o777 == file
