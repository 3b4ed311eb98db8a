"""What a look at masks shows, what the user is told to do next, and the five lines that end a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tag2mask.common.files import read_json
from tag2mask.data import read_mask, write_mask
from tag2mask.reports.closing import write_and_close
from tag2mask.reports.compare import compared, lines
from tag2mask.reports.gather import gather
from tag2mask.reports.look import Look, agreement, look, mask_folders
from tag2mask.reports.next_steps import advice
from tag2mask.runs.index import parse_index
from tiny_run import CLASSES, copy_run, edit


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run that may be changed."""
    return copy_run(finished_run, tmp_path)


def shift(run: Path, folder: str) -> None:
    """Move what all masks of a folder mark by some rows."""
    for path in (run / folder / "masks").glob("*.png"):
        write_mask(path, np.roll(read_mask(path), 5, axis=0))


def fill(run: Path, folder: str, *, but: tuple[str, ...] = ()) -> None:
    """Give every tag of every photo some pixels, but for these classes."""
    labels = parse_index(read_json(run / "index.json")).images
    for path in (run / folder / "masks").glob("*.png"):
        mask = np.zeros((48, 64), np.uint8)
        for place, name in enumerate(labels[path.stem].labels):
            if name not in but:
                mask[12 * place : 12 * place + 12] = CLASSES.index(name) + 1
        write_mask(path, mask)


def told(run: Path, *, review: bool = True) -> list[str]:
    facts = gather(run)
    return [f"{one.text} {one.command}" for one in advice(facts, look(run, facts.index, 0), "RUN", review=review)]


def test_agreement_counts_what_either_marks() -> None:
    one, other = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    assert agreement(one, other) == 1.0
    one[0], other[:2] = 1, 1
    assert agreement(one, other) == 0.5
    other[1] = 255  # unsure says nothing
    assert agreement(one, other) == 1.0
    other[0] = 2
    assert agreement(one, other) == 0.0
    assert agreement(one, np.zeros((2, 2), np.uint8)) == 0.0


def test_a_look_counts_cover_and_lost_tags_and_ranks_doubt(run: Path) -> None:
    fill(run, "pseudo_masks")
    fill(run, "masks", but=("person",))
    facts = gather(run)
    found = look(run, facts.index, 0)
    images = [image for image in facts.index.images.values() if image.split == "train" and image.id in masked(run)]
    tagged = sum("person" in image.labels for image in images)
    assert found.photos == found.available == len(images)
    assert mask_folders(run) == ["pseudo_masks", "pseudo_masks_plain_cam", "masks"]
    assert found.figures["masks"].lost == {"person": tagged}
    assert found.best is found.figures["masks"]
    assert found.figures["pseudo_masks"].lost.total() == 0
    assert found.figures["masks"].cover("cat") == pytest.approx(0.25)
    assert found.figures["masks"].cover("dog") is None
    worst = found.doubts[0]
    assert worst.lost == ("person",)
    assert (
        worst.reason
        == f"no pixel for person; network and pseudo-mask agree on {100 * worst.agreement:.0f} % of what either marks"
    )
    assert [doubt.weight for doubt in found.doubts] == sorted((d.weight for d in found.doubts), reverse=True)
    assert all(doubt.agreement < 1 for doubt in found.doubts)  # others are in no doubt
    assert len(found.differing) == 6
    text = lines(compared(facts, found), facts.classes)
    assert text[1].startswith("* first")
    assert "plain_cam" in text[2]


def masked(run: Path) -> set[str]:
    return {path.stem for path in (run / "masks" / "masks").glob("*.png")}


def test_a_look_is_bounded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = gather(run).index
    monkeypatch.setattr("tag2mask.reports.look.PHOTOS", 3)
    some = look(run, index, 0)
    assert (some.photos, some.available) == (3, 8)
    assert look(run, index, 0) == some
    monkeypatch.setattr("tag2mask.reports.look.PIXELS", 1)
    assert look(run, index, 0).photos == 1


def test_a_look_passes_over_what_cannot_be_read(run: Path, tmp_path: Path) -> None:
    for path in (run / "masks" / "masks").glob("*.png"):
        path.write_bytes(b"no mask")
    found = look(run, gather(run).index, 0)
    assert found.figures["masks"].tags.total() == 0
    assert found.figures["pseudo_masks"].tags.total() > 0
    assert look(tmp_path / "nothing", gather(run).index, 0) == Look()


def test_what_is_wrong_is_told_first(run: Path) -> None:
    fill(run, "pseudo_masks", but=("cow",))
    fill(run, "masks", but=("cow", "cat"))
    for folder in ("classifier", "supervised"):
        edit(run / folder / "manifest.json", lambda made: made | {"warnings": [], "warning": ""})
    edit(run / "segmenter" / "manifest.json", lambda made: made | {"warning": "the loss rose; try less"})
    said = told(run)
    assert said[0].startswith("Train segmenter: the loss rose; try less.")
    assert "1 photo could not be used: nothing in it" in said[1]
    assert said[2].startswith("The final masks leave ")
    assert said[3].startswith("The pseudo-masks leave 5 of 10 tags")
    assert "(cow 5)" in said[3]
    assert said[3].endswith("tag2mask refine RUN --set refine.walk.threshold=0.22")  # four fifths of 0.27
    assert any(line.endswith("tag2mask review RUN") for line in said)
    assert any(line.endswith("tag2mask export cvat RUN") for line in told(run, review=False))
    assert said[-1].endswith("tag2mask predict --images NEW --out RUN --masks DIR")
    assert any("cat 4" in line and "Fewer than about 50 photos" in line for line in said)
    assert not any("Nothing was scored" in line for line in said)
    (run / "scores.json").unlink()
    assert any("Nothing was scored" in line for line in told(run))
    edit(run / "run.json", lambda info: info | {"finished": False})
    assert told(run)[0].endswith("tag2mask run RUN")


def test_commands_are_quoted(run: Path) -> None:
    spaced = run.rename(run.parent / "leaf spots")
    said = write_and_close(spaced, review=True)
    assert f"tag2mask predict --images NEW --out '{spaced}' --masks DIR" in said[1]
    assert f"tag2mask review '{spaced}'" in said[3]
    page = (spaced / "report.html").read_text("utf-8")
    assert "tag2mask review &#39;leaf spots&#39;</code>" in page
    assert "tag2mask choose &#39;leaf spots&#39; NAME</code>" in page
    assert "tag2mask run leaf" not in page


def test_five_lines_end_a_run(run: Path) -> None:
    fill(run, "pseudo_masks")
    fill(run, "masks")
    (run / "localization" / "manifest.json").unlink()  # which names the photo that could not be read
    for folder in ("classifier", "supervised", "segmenter"):
        edit(run / folder / "manifest.json", lambda made: made | {"images": {}, "warning": "", "warnings": []})
    for path in run.glob("*/manifest.json"):
        edit(path, lambda made: made | {"images": {}})
    said = write_and_close(run, review=False)
    assert [line.split(":")[0] for line in said] == ["masks", "network", "report", "review", "look at"]
    assert f"{run}/masks/masks  (8 PNGs" in said[0]
    assert f"tag2mask predict --images NEW --out {run} --masks DIR" in said[1]
    assert (run / "report.html").is_file()
    assert f"tag2mask export cvat {run}" in said[3]
    assert said[4] == "look at: the report's first pictures"
    shift(run, "pseudo_masks")
    assert "the report's doubtful photos, such as photo" in write_and_close(run, review=False)[4]
    fill(run, "masks", but=("cat",))
    assert "The final masks leave 3 of " in write_and_close(run, review=True)[4]
    assert "tag2mask review" in write_and_close(run, review=True)[3]
    shutil.rmtree(run / "masks")
    assert "/pseudo_masks/masks" in write_and_close(run, review=True)[0]
