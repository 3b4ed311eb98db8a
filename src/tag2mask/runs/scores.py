"""A run's scores: which rows there are, how one is stored, and how it is read, called and put into words.

Terminal, report and results page all take their rows from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tag2mask.common.files import read_object, write_json
from tag2mask.common.values import as_count, as_dict, as_list, as_number, as_numbers, as_text

SEEDS, PSEUDO_MASKS = "class maps (seed)", "pseudo-masks"  # tasks: what rows must share to be compared
FROM_TAGS, FROM_MASKS = "segmentation from image labels", "segmentation from true masks"
# How much of its photo a class covers, as a share of the pixels that count: each name up to its bound.
SIZES = {"small": 0.01, "medium": 0.1, "large": 1.0}
BEST_ON_TRUTH = "best on the true masks of these images (an oracle's choice, as the papers report seeds)"
LEVEL = 0.95  # of the bootstrap interval


@dataclass(frozen=True)
class Row:
    """One kind of row in scores.json; a family's rows are KEY_NAME, one for each comparison."""

    key: str
    title: str
    about: str  # what it is, in a few words
    task: str
    strength: float = 1.0  # opacity of its bar: the further down the chain, the fuller
    family: bool = False  # rows of this key and a name are refinements that are only scored
    network: str = ""  # the folder of the network that made it
    upper_bound: bool = False  # true masks were learned from
    always: bool = True  # every scored run has it


ROWS = [  # in the order of the chain
    Row("seed_cam", "CAM seed", "class activation maps, thresholded", SEEDS, 0.35),
    Row("seed_rib", "RIB seed", "maps summed over the RIB steps, thresholded", SEEDS, 0.55),
    Row(
        "seed_cam_affinity",
        "CAM + affinity",
        "CAM averaged over what looks alike, thresholded",
        SEEDS,
        0.4,
        always=False,
    ),
    Row(
        "seed_rib_affinity",
        "RIB + affinity",
        "RIB averaged over what looks alike, thresholded",
        SEEDS,
        0.6,
        always=False,
    ),
    *(
        Row(
            f"seed_{maps}_walk",
            f"{maps.upper()} + walk",
            f"{maps.upper()} walked between boundaries, thresholded",
            SEEDS,
            strength,
            family=True,
            always=False,
        )
        for maps, strength in (("cam", 0.45), ("rib", 0.65))
    ),
    Row(
        "pseudo_mask", "pseudo-mask", "refined seeds: what the segmenter learns from", PSEUDO_MASKS, 0.75, family=True
    ),
    Row(
        "round_mask",
        "mask of a round",
        "the answers, among each image's own tags, that the next network learned from",
        PSEUDO_MASKS,
        0.8,
        family=True,
        always=False,
    ),
    Row(
        "final_mask",
        "final mask",
        "the network's answer among each image's own tags, filled up or joined with its pseudo-mask",
        PSEUDO_MASKS,
        0.9,
        network="segmenter",
        always=False,
    ),
    Row(
        "segmentation_val",
        "segmentation",
        "network trained on the pseudo-masks, from tags only",
        FROM_TAGS,
        network="segmenter",
    ),
    Row(
        "supervised_val",
        "upper bound",
        "same network trained on true masks; not reachable from tags",
        FROM_MASKS,
        network="supervised",
        upper_bound=True,
    ),
]


def kind_of(key: str) -> Row:
    """The kind of a row by its key in scores.json; a key that is in no table stands for itself."""
    for row in ROWS:
        if key == row.key or (row.family and key.startswith(f"{row.key}_")):
            return row
    return Row(key, key.replace("_", " "), "", key)


def place_of(key: str) -> int:
    """Where a row stands in the order of the chain; unknown ones come last."""
    kind = kind_of(key)
    return ROWS.index(kind) if kind in ROWS else len(ROWS)


@dataclass(frozen=True)
class ScoreRow:
    """One row of scores.json as its readers use it; IoU values are 0..1."""

    key: str
    kind: Row
    miou: float
    per_class: dict[str, float]
    images: int | None
    split: str
    threshold: float | None
    chosen_on: str
    curve: list[tuple[float, float]] = field(default_factory=list)  # (threshold, mIoU)
    interval: tuple[float, float] | None = None  # 95 % bootstrap interval over the images
    made_by: str = ""  # what refined a pseudo-mask, e.g. "RIB+IRN"
    saliency: str = ""  # where it came from, "" without
    by_size: dict[str, tuple[float, int]] = field(default_factory=dict)  # IoU of what is there, and how often it is
    count_ignored: bool = False  # as in the reference's slip on COCO
    remarks: tuple[str, ...] = ()  # what has to be said besides the threshold

    @property
    def title(self) -> str:
        """What the row is called: "CAM seed", "pseudo-mask RIB+IRN"."""
        return f"{self.kind.title} {self._name}".strip() if self.kind.family else self.kind.title

    @property
    def short_title(self) -> str:
        """The same where there is little room: comparisons by what makes them differ."""
        return self._name if self.comparison else self.kind.title

    @property
    def _name(self) -> str:
        return self.made_by or self.key.removeprefix(self.kind.key).strip("_")

    @property
    def about(self) -> str:
        """What the row is, in a few words."""
        return "refined otherwise; only scored" if self.comparison else self.kind.about

    @property
    def comparison(self) -> bool:
        """Whether it is a refinement that is only scored."""
        return self.key != self.kind.key

    @property
    def on_truth(self) -> bool:
        """Whether the threshold was chosen on true masks, which a user with tags only does not have."""
        return chosen_on_truth(self.chosen_on)

    @property
    def interval_text(self) -> str:
        """The bootstrap interval in percent as "48.9-52.3", "" without one."""
        return "" if self.interval is None else "-".join(f"{100 * end:.1f}" for end in self.interval)

    @property
    def threshold_text(self) -> str:
        """The threshold with two decimals, or a third one where it has it; "" without one."""
        return "" if self.threshold is None else f"{self.threshold:.3f}".removesuffix("0")

    def describe(self) -> str:
        """One line: the figure, on which images, at which threshold chosen how."""
        interval = f" ({100 * LEVEL:.0f} %: {self.interval_text})" if self.interval else ""
        text = f"mIoU {100 * self.miou:.1f}{interval} on {self.images} {self.split} images"
        if self.threshold is not None:
            text += f", threshold {self.threshold_text}, {self.chosen_on}"
        return ", ".join([text, *self.remarks])


def sizes_of(rows: Iterable[ScoreRow]) -> list[str]:
    """The sizes that rows are scored by, from small to large; none where all that is there is of one size."""
    found = dict.fromkeys(name for row in rows for name in row.by_size)
    return [name for name in SIZES if name in found] if len(found) > 1 else []


def size_in_words(name: str) -> str:
    """The range of a size in percent of a photo."""
    bounds = {size: f"{100 * bound:g}" for size, bound in SIZES.items()}
    names = list(SIZES)
    place = names.index(name)
    if place == 0:
        return f"up to {bounds[name]} %"
    below = bounds[names[place - 1]]
    return f"over {below} %" if place == len(names) - 1 else f"{below} to {bounds[name]} %"


def chosen_on_truth(text: str) -> bool:
    """Whether a description of how a threshold was chosen says that true masks were used."""
    text = text.casefold()
    if re.search(r"\b(no|not|without|never)\b[^.;]*\b(truth|masks?)\b", text):
        return False
    return bool(re.search(r"truth|true mask|oracle|\bgt\b", text))


def threshold_marks(rows: Iterable[ScoreRow]) -> dict[str, str]:
    """The ways in which thresholds were chosen, each with a letter that points to it from a table."""
    texts = dict.fromkeys(row.chosen_on for row in rows if row.threshold is not None and row.chosen_on)
    return {text: letter(number) for number, text in enumerate(texts)}


def letter(number: int) -> str:
    """The mark of the note `number`, counted from 0: "a" to "z", then "aa", "ab" and so on."""
    before, place = divmod(number, 26)
    return (letter(before - 1) if before else "") + "abcdefghijklmnopqrstuvwxyz"[place]


@dataclass
class Score:
    """A row as scoring makes it, and the mIoU of each image."""

    row: dict[str, Any]
    per_image: dict[str, float]


def store_score(run: Path, key: str, score: Score) -> None:
    """Add one row to `run`/scores.json and its images to scores_per_image.json."""
    for file, value in (("scores.json", score.row), ("scores_per_image.json", score.per_image)):
        path = run / file
        everything = read_object(path) if path.is_file() else {}
        everything[key] = value
        write_json(path, everything)


def stored_scores(run: Path) -> dict[str, Any]:
    """The rows of `run`/scores.json as they are stored, in the order of the chain."""
    path = run / "scores.json"
    found = read_object(path) if path.is_file() else {}
    return {key: found[key] for key in sorted(found, key=place_of)}


def rows_of(stored: Mapping[str, Any]) -> list[ScoreRow]:
    """The rows of a scores.json, in the order of the chain; those without a figure are left out."""
    rows = (read_row(key, stored[key]) for key in sorted(stored, key=place_of))
    return [row for row in rows if row is not None]


def not_scored(rows: Iterable[ScoreRow]) -> list[str]:
    """Titles of the rows of a whole chain that are not among `rows`."""
    keys = {row.key for row in rows}
    return [kind.title for kind in ROWS if kind.always and kind.key not in keys]


def read_row(key: str, stored: Any) -> ScoreRow | None:
    """One stored row; None where it has no mIoU. Whatever else is missing or of the wrong type is taken as absent."""
    entry = as_dict(stored)
    miou = as_number(entry.get("miou"))
    if miou is None:
        return None
    low, high = (as_number(as_dict(entry.get("interval")).get(end)) for end in ("low", "high"))
    return ScoreRow(
        key,
        kind_of(key),
        miou,
        as_numbers(entry.get("per_class")),
        as_count(entry.get("images")),
        as_text(entry.get("split")),
        as_number(entry.get("threshold")),
        as_text(entry.get("threshold_chosen_on")),
        sorted(_points(entry.get("curve"))),
        None if low is None or high is None else (low, high),
        as_text(entry.get("title")),
        as_text(entry.get("saliency")),
        dict(_sizes(entry.get("by_size"))),
        bool(entry.get("count_ignored")),
        tuple(_remarks(entry)),
    )


def _remarks(entry: Mapping[str, Any]) -> Iterable[str]:
    coverage, decided = as_number(entry.get("coverage")), as_number(entry.get("miou_decided"))
    if entry.get("saliency"):
        yield f"saliency {entry['saliency']}"
    if entry.get("count_ignored"):
        yield "ignored pixels counted, as in the reference's slip on COCO"
    if coverage is not None:
        text = f"{100 * coverage:.1f} % of the pixels decided, the rest scored as background"
        yield text if decided is None else f"{text} (mIoU over the decided ones alone: {100 * decided:.1f})"


def _sizes(value: Any) -> Iterable[tuple[str, tuple[float, int]]]:
    for name, entry in as_dict(value).items():
        iou, count = as_number(as_dict(entry).get("iou")), as_count(as_dict(entry).get("count"))
        if iou is not None and count is not None:
            yield name, (iou, count)


def _points(value: Any) -> Iterable[tuple[float, float]]:
    for pair in as_list(value):
        x, y = map(as_number, pair) if isinstance(pair, list) and len(pair) == 2 else (None, None)
        if x is not None and y is not None:
            yield x, y
