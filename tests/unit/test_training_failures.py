"""What ends a training from outside, or diverges: one line with the remedy, and the same command goes on."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch
from test_training import SETTINGS, load, train
from torch import Tensor
from torch.utils.data import get_worker_info

from tag2mask.common.errors import ConfigError, DataError


def dying(epoch: int, index: int) -> tuple[Tensor, Tensor]:
    if get_worker_info() is not None and epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return load(epoch, index)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_loader_that_is_killed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"images was killed .*--shm-size.*--workers 0") as caught:
        train(tmp_path / "killed", load_sample=dying, workers=1)
    assert "\n" not in str(caught.value)
    resumed, folder = train(tmp_path / "killed", load_sample=dying, workers=0)
    whole, _ = train(tmp_path / "whole")
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert set(folder.failures) == {"image3"}


def without_memory(epoch: int, index: int) -> tuple[Tensor, Tensor]:
    if epoch == 1:
        raise MemoryError
    return load(epoch, index)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_memory(workers: int, tmp_path: Path) -> None:
    remedy = r"out of memory; the same command goes on.*batch_size, crop_size or a larger accumulate"
    with pytest.raises(ConfigError, match=remedy) as caught:
        train(tmp_path, load_sample=without_memory, workers=workers)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "checkpoint.pt").is_file()


def broken(epoch: int, index: int) -> tuple[Tensor, Tensor]:
    raise DataError("image: broken")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_loading_process_is_one_line(workers: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^training: none of the images can be read; run data check$"):
        train(tmp_path, load_sample=broken, workers=workers)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    """The last update of an epoch is followed by no loss that could show it."""
    once = {"epochs": 1, "batch_size": 10, "momentum": 0.0, "new_layers_multiplier": 1.0}
    huge = dataclasses.replace(SETTINGS, learning_rate=3e38, **once)
    with pytest.raises(ConfigError, match=r"lower learning_rate than 3e\+38, in another --out"):
        train(tmp_path, settings=huge)
    assert not (tmp_path / "checkpoint.pt").exists()
