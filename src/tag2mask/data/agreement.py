"""Tags against masks: whether the numbers in the masks are the classes that the images are tagged with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tag2mask.common.seeding import rng_for
from tag2mask.data.classes import lut_of
from tag2mask.data.masks import read_mask
from tag2mask.data.records import IGNORED, VOC_CLASSES, BadFileError, Dataset, ImageRecord, Problem

MASKS = 256  # compared at most, unless all are read anyway
_PIXELS = 1_000_000_000  # after which no further mask is opened
_SOUND = 0.8  # share of the images that must agree with another reading of the values to call it the likely cause
_RARELY = 10  # a reading of the values that leaves one in so many contradictory images is the cause, however few
_SHOWN = 6  # classes in a message


@dataclass
class Agreement:
    """What was compared: the tags and the mask values of each image."""

    dataset: Dataset
    with_mask: int
    rows: list[tuple[ImageRecord, frozenset[int]]] = field(default_factory=list)  # raw values, 255 too

    def add(self, record: ImageRecord, mask: np.ndarray) -> None:
        """Take one mask (H, W) uint8 as it is stored."""
        values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
        self.rows.append((record, frozenset(int(value) for value in values)))

    def disagreeing(self, lut: Sequence[int]) -> list[ImageRecord]:
        """Return the images whose tags are not the classes in their masks, read by `lut`."""
        return [record for record, values in self.rows if set(record.labels) != _present(values, lut)]


def compare(dataset: Dataset, masks: int = MASKS) -> Agreement:
    """Compare tags and masks of up to `masks` images, drawn by their ids; masks that can't be read don't count."""
    records = sorted((r for r in dataset.records if r.mask_path is not None), key=lambda record: record.id)
    agreement = Agreement(dataset, len(records))
    rng_for(0, "tags against masks").shuffle(records)
    pixels = 0
    for record in records[:masks]:
        assert record.mask_path is not None
        try:
            mask = read_mask(record.mask_path)
        except BadFileError:
            continue  # reported where all masks are looked at
        agreement.add(record, mask)
        pixels += mask.size
        if pixels > _PIXELS:
            break
    return agreement


def findings(agreement: Agreement) -> Iterator[Problem]:
    """Say what the comparison showed; a majority of images whose tags and masks contradict each other is fatal."""
    if not agreement.rows:
        return
    yield from _of_background(agreement)
    dataset, lut = agreement.dataset, agreement.dataset.mask_lut.tolist()
    wrong = agreement.disagreeing(lut)
    if not wrong:
        return
    cause = likely_cause(agreement)
    majority = len(wrong) > 1 and (2 * len(wrong) > len(agreement.rows) or cause.left * _RARELY <= len(wrong))
    message = (
        f"tags and masks contradict each other in {len(wrong)} of {_compared(agreement)}, such as "
        f"'{wrong[0].path.name}' ({_by_class(agreement, lut)})"
    )
    remedy = cause.text if majority else "correct the tags, or the masks, of these images"
    yield Problem("tags-masks", dataset.name, "", message, remedy, fatal=majority)


def _compared(agreement: Agreement) -> str:
    count = len(agreement.rows)
    return f"{count} masks" if count == agreement.with_mask else f"{count} masks looked at, of {agreement.with_mask}"


def _by_class(agreement: Agreement, lut: Sequence[int]) -> str:
    """Count, for each class, tags without a pixel and values without a tag."""
    no_pixel: Counter[int] = Counter()
    no_tag: Counter[int] = Counter()
    for record, values in agreement.rows:
        present = _present(values, lut)
        no_pixel.update(set(record.labels) - present)
        no_tag.update(present - set(record.labels))
    parts = []
    for index, name in enumerate(agreement.dataset.classes):
        counts = [f"{no_pixel[index]} tags without a pixel"] if no_pixel[index] else []
        counts += [f"in {no_tag[index]} masks without the tag"] if no_tag[index] else []
        parts += [f"{name}: {', '.join(counts)}"] if counts else []
    return "; ".join(parts[:_SHOWN]) + ("; ..." if len(parts) > _SHOWN else "")


def _present(values: frozenset[int], lut: Sequence[int]) -> set[int]:
    return {lut[value] - 1 for value in values if 0 < lut[value] < IGNORED}


def _of_background(agreement: Agreement) -> Iterator[Problem]:
    dataset, count = agreement.dataset, len(agreement.rows)
    nothing = {value for value, meaning in enumerate(dataset.mask_lut.tolist()) if meaning == 0}
    holding = sum(bool(values & ({0} if not dataset.background else nothing)) for _, values in agreement.rows)
    filled = all(values - {IGNORED} for _, values in agreement.rows)
    if dataset.background and not holding and filled and count > 1:
        message = f"none of the {_compared(agreement)} holds 0, the background"
        remedy = "if every pixel belongs to a class, set data.background: false"
        yield Problem("no-background", dataset.name, "", message, remedy)
    if not dataset.background and holding and dataset.mask_lut[0] == IGNORED:
        message = (
            f"data.background is false, and {holding} of the {_compared(agreement)} hold 0, which names no class"
        )
        remedy = "such pixels are ignored; if masks count from 0, write data.mask_classes: {0: NAME, 1: NAME, ...}"
        yield Problem("background-pixels", dataset.name, "", message, remedy)


@dataclass(frozen=True)
class Cause:
    """Why tags and masks contradict each other, with the remedy, and how many images still do once it is followed."""

    text: str
    left: float = float("inf")


def likely_cause(agreement: Agreement) -> Cause:
    """Return why the masks' numbers are probably not the classes'."""
    dataset = agreement.dataset
    values = frozenset().union(*(values for _, values in agreement.rows))
    if values <= {0, IGNORED} and IGNORED in values:
        return Cause(_of_0_and_255(dataset.classes))
    best = min(_other_readings(agreement, values), key=lambda cause: cause.left, default=Cause(""))
    if len(agreement.rows) - best.left >= _SOUND * len(agreement.rows):
        return best
    strange = sorted(value for value in values if 0 < value < IGNORED and dataset.mask_lut[value] == IGNORED)
    if strange:
        shown = ", ".join(map(str, strange[:8]))
        return Cause(f"value(s) {shown} name no class: say what they are in data.mask_classes")
    return Cause("check the order of the classes (classes.txt or data.mask_classes), and whose masks these are")


def _other_readings(agreement: Agreement, values: frozenset[int]) -> Iterator[Cause]:
    """Yield other meanings of the masks' numbers, each with the images that it leaves contradictory."""
    classes = agreement.dataset.classes
    vocs = dict(enumerate(VOC_CLASSES, start=1))
    if set(classes) <= set(VOC_CLASSES):
        yield Cause("the masks hold VOC's numbers: set data.mask_classes: voc", _left(agreement, vocs))
    order = _other_order(agreement)
    if order is not None and sorted(order) == list(range(1, len(order) + 1)):
        given = _written([order[value] for value in sorted(order)])
        text = f"the masks' numbers are in another order: write classes.txt, or data.mask_classes: [{given}]"
        yield Cause(text, _left(agreement, order))
    elif order is not None:
        given = _written([f"{value}: {order[value]}" for value in sorted(order)])
        yield Cause(f"the masks use other numbers: set data.mask_classes: {{{given}}}", _left(agreement, order))
    if 0 in values:
        zero_based = dict(enumerate(classes)) | ({IGNORED: "background"} if IGNORED in values else {})
        given = _written([f"{value}: {name}" for value, name in zero_based.items()])
        text = f"the masks count the classes from 0: set data.mask_classes: {{{given}}}"
        yield Cause(text, _left(agreement, zero_based))


def _written(parts: Sequence[str]) -> str:
    return ", ".join(parts[:_SHOWN]) + (", ..." if len(parts) > _SHOWN else "")


def _of_0_and_255(classes: Sequence[str]) -> str:
    held = "the masks hold only 0 and 255, and 255 means ignored: "
    if len(classes) == 1:
        return held + f"set data.mask_classes: binary to read 255 as '{classes[0]}'"
    return held + f"save them with the numbers 1..{len(classes)} for the classes"


def _left(agreement: Agreement, values: Mapping[int, str]) -> int:
    """Return how many images still contradict their masks where these have other meanings."""
    return len(agreement.disagreeing(lut_of(values, agreement.dataset.classes)))


def _other_order(agreement: Agreement) -> dict[int, str] | None:
    """Return the class of each value by which photos they come in together; None where two values want one class."""
    classes = agreement.dataset.classes
    seen: Counter[int] = Counter(value for _, values in agreement.rows for value in values)
    tagged: Counter[int] = Counter(label for record, _ in agreement.rows for label in record.labels)
    both = Counter((value, label) for record, values in agreement.rows for value in values for label in record.labels)
    order: dict[int, str] = {}
    for value in sorted(set(seen) - {0, IGNORED}):
        shares = [
            (both[value, label] / (seen[value] + tagged[label] - both[value, label]), label) for label in tagged
        ]
        if not shares:
            return None
        order[value] = classes[max(shares, key=lambda pair: (pair[0], -pair[1]))[1]]
    return order if order and len(set(order.values())) == len(order) else None
