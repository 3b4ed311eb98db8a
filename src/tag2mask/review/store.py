"""The decisions while the page is open: on disk before they are answered for, and told to every window."""

from __future__ import annotations

import io
import json
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.common.errors import DataError
from tag2mask.common.files import digest_file
from tag2mask.common.values import as_dict
from tag2mask.data.images import image_size
from tag2mask.data.masks import read_mask, resize_labels, write_mask
from tag2mask.data.records import IGNORED
from tag2mask.review.maps import within
from tag2mask.review.subjects import Subjects
from tag2mask.runs.decisions import VERDICTS, Decisions, append, in_use, log_path, mask_path, read_lines

OF_PHOTOS = {"id", "verdict", "seen", "tag", "present"}
FIELDS = {*OF_PHOTOS, "threshold", "thresholds", "of"}  # that may come from elsewhere


class Conflict(Exception):
    """Another window has saved this photo's mask since it was opened."""


class Store:
    """The log of a run's decisions and its corrected masks; used by several threads and windows at once."""

    def __init__(self, subjects: Subjects) -> None:
        self.subjects, self.run = subjects, subjects.run
        self._lock = threading.RLock()
        self._lines: list[dict[str, Any]] = []
        self._state = (0, 0)  # of the log's file, as it was read last
        self._heal()

    def lines(self, since: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The lines from number `since` on, whoever wrote them, and how many there are."""
        path = log_path(self.run)
        with self._lock:
            state = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)
            if state != self._state:
                self._lines, self._state = list(read_lines(self.run)), state
            return self._lines[since:], len(self._lines)

    def decisions(self) -> Decisions:
        """Where the decisions stand."""
        found = Decisions(in_use=in_use(self.run))
        for line in self.lines()[0]:
            found.take(line)
        return found

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write decisions that a page sent; DataError for one that can't be, and then none is written."""
        checked = [self._checked(as_dict(line)) for line in lines]
        with self._lock:
            append(self.run, checked)

    def _checked(self, line: dict[str, Any]) -> dict[str, Any]:
        unknown = set(line) - FIELDS
        if unknown or not line:
            raise DataError(
                f"a decision can't say {', '.join(sorted(map(repr, unknown))) or 'nothing'}; reload the page"
            )
        if "threshold" in line:
            scores = [line["threshold"], *as_dict(line.get("thresholds")).values()]
            strange = [name for name in as_dict(line.get("thresholds")) if name not in self.subjects.classes]
            if line.keys() & OF_PHOTOS or strange or not all(score is None or _is_score(score) for score in scores):
                raise DataError(f"a threshold must be 0..1, of a class of the run, not {line}; reload the page")
            return line
        self.subjects.photo(str(line.get("id")))
        wrong = "verdict" in line and line["verdict"] not in VERDICTS
        if line.keys() & {"tag", "present"}:
            wrong |= line.get("tag") not in self.subjects.classes or line.get("present") not in (True, False, None)
        if wrong or not line.keys() & {"verdict", "tag"}:
            raise DataError(f"{line}: is no verdict and no tag of the run; reload the page")
        return line

    def save_mask(self, image_id: str, mask: np.ndarray, base: str) -> None:
        """Keep a corrected mask (h, w) uint8 of a photo; `base` is the digest of the one that it was made from.

        It is brought to the photo's own size. Conflict where another was saved in between, DataError for a mask that
        isn't one of the photo.
        """
        subject = self.subjects.photo(image_id)
        size = image_size(subject.path)
        if not np.isin(np.unique(mask), [*range(len(self.subjects.classes) + 1), IGNORED]).all():
            raise DataError(
                f"{image_id}: a mask holds 0 to {len(self.subjects.classes)} and 255 only; reload the page"
            )
        if mask.shape != within(size, max(mask.shape)):
            raise DataError(f"{image_id}: a mask of {mask.shape} doesn't fit a photo of {size}; reload the page")
        with self._lock:
            self._same(image_id, base)
            path = mask_path(self.run, subject.id)
            write_mask(path, resize_labels(mask, size))
            append(self.run, [{"id": image_id, "mask": digest_file(path)}])

    def drop_mask(self, image_id: str, base: str) -> None:
        """Take a correction back; Conflict as by `save_mask`."""
        subject = self.subjects.photo(image_id)
        with self._lock:
            self._same(image_id, base)
            append(self.run, [{"id": image_id, "mask": ""}])
            mask_path(self.run, subject.id).unlink(missing_ok=True)

    def _same(self, image_id: str, base: str) -> None:
        if self.decisions().masks.get(image_id, "") != base:
            raise Conflict(f"{image_id}: another window has saved its mask since; load it again")

    def _heal(self) -> None:
        """After a crash between a mask and its line: a mask that is there counts, one taken back goes."""
        decisions, told = self.decisions(), {line.get("id") for line in self.lines()[0] if "mask" in line}
        lines = []
        for image_id in self.subjects.photos:
            path = mask_path(self.run, image_id)
            if not path.is_file():
                continue
            if image_id in told and image_id not in decisions.masks:
                path.unlink()
            elif decisions.masks.get(image_id) != (digest := digest_file(path)):
                lines.append({"id": image_id, "mask": digest})
        if lines:
            append(self.run, lines)


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def exported(run: Path) -> bytes:
    """The decisions and corrected masks of a run as a zip file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        lines = list(read_lines(run))
        archive.writestr("decisions.jsonl", "".join(json.dumps(line) + "\n" for line in lines if line))
        for path in sorted((run / "review" / "masks").glob("*.png")):
            archive.write(path, f"masks/{path.name}")
    return stream.getvalue()


def imported(store: Store, path: Path) -> tuple[int, int]:
    """Take decisions in from what `exported` wrote, after those that are there.

    Returns how many lines were taken and how many were left out: of photos or classes that this run doesn't have, and
    masks that don't fit. DataError for another file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read("decisions.jsonl").decode("utf-8")
            masks = {name: archive.read(name) for name in archive.namelist() if name.startswith("masks/")}
            lines = [as_dict(json.loads(line)) for line in text.splitlines() if line]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is no file of decisions ({error}); give one that --export wrote") from error
    results = [_taken(store, line, masks) for line in _settled(lines)]
    return sum(results), results.count(False)


def _settled(lines: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """The decisions without what later ones took back: of masks only the last line of each photo."""
    rows = [dict(line) for line in lines]
    last = {line["id"]: place for place, line in enumerate(rows) if "mask" in line and "id" in line}
    for place, line in enumerate(rows):
        if "mask" not in line or last.get(line.get("id")) == place:
            yield {key: value for key, value in line.items() if key != "time"}


def _taken(store: Store, line: dict[str, Any], masks: Mapping[str, bytes]) -> bool:
    try:
        if "mask" not in line:
            store.add([line])
            return True
        name = str(line.get("id"))
        base = store.decisions().masks.get(name, "")
        if not line["mask"]:
            store.drop_mask(name, base)
        else:
            store.save_mask(name, _read(masks[f"masks/{name}.png"]), base)
    except (DataError, KeyError):
        return False
    return True


def _read(content: bytes) -> np.ndarray:
    with tempfile.NamedTemporaryFile(suffix=".png") as stream:
        stream.write(content)
        stream.flush()
        return read_mask(stream.name)
