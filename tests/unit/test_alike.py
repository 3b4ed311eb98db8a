"""What looks like a clicked point: cosines of frozen features over a photo, as the review's wand asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import review_world as world
from tag2mask.common.errors import DataError
from tag2mask.review.alike import KEPT, Alike, cosines
from tag2mask.review.subjects import Subjects, open_subjects


@pytest.fixture
def subjects(tmp_path: Path) -> Subjects:
    """The photos of a small run."""
    return open_subjects(world.make_run(tmp_path))


def test_a_square_is_like_itself_and_unlike_what_is_around(subjects: Subjects) -> None:
    name = "photo 0000"
    rows, columns = world.square(0, 0)
    middle = (rows.start + 15, columns.start + 13)
    place = (middle[0] + 0.5) / world.SIZE[0], (middle[1] + 0.5) / world.SIZE[1]
    found, parting = Alike(subjects).to(subjects.photos[name], place, world.SIZE)
    assert found.shape == world.SIZE
    assert found.dtype == np.uint8
    inside = found[rows.start + 8 : rows.stop - 8, columns.start + 8 : columns.stop - 8]
    assert inside.min() > 255 * parting
    assert np.median(found[:, columns.stop + 12 :]) < 255 * parting
    again, same = Alike(subjects).to(subjects.photos[name], place, (2 * world.SIZE[0], 2 * world.SIZE[1]))
    assert again.shape == (2 * world.SIZE[0], 2 * world.SIZE[1])
    assert abs(same - parting) < 0.1
    assert abs(int(again[2 * middle[0], 2 * middle[1]]) - int(found[middle])) < 12


def test_a_photo_is_looked_at_once(subjects: Subjects, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    read = Subjects.pixels
    monkeypatch.setattr(Subjects, "pixels", lambda own, of, side: decoded.append(of.id) or read(own, of, side))
    alike, names = Alike(subjects), sorted(subjects.photos)[: KEPT + 1]
    for name in [names[0], names[0], *names[1:], names[1], names[0]]:
        alike.to(subjects.photos[name], (0.5, 0.5), (6, 8))
    assert decoded == [*names, names[0]]


def test_cosines_lie_where_the_grid_lies() -> None:
    grid, seen = (2, 4), (20, 60)  # over 32 x 64 pixels
    looks = np.zeros((8, 2), np.float32)
    looks[:, 0], looks[5] = 1, (0, 1)
    found = cosines(looks, grid, seen, (0.9, 0.4), (20, 60))  # in row 1 (18 of 32), column 1 (24 of 64)
    assert found.max() == found[:, 16:32].max() == 1
    assert not found[:4].any()
    assert not found[:, 44:].any()
    assert cosines(looks[[0] * 8], grid, seen, (0.1, 0.1), (5, 5)).min() == 1  # everything is alike
    with pytest.raises(DataError, match="outside"):
        cosines(looks, grid, seen, (1.0, 0.5), (5, 5))
