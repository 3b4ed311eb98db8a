"""Turns the chosen images into cards: a photo once, and everything else as light layers over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from tag2mask.common.errors import DataError
from tag2mask.common.files import ids_in
from tag2mask.data import decode_image, load_maps, read_mask
from tag2mask.data.maps import numbers
from tag2mask.reports import pictures
from tag2mask.reports.gather import RunFacts
from tag2mask.reports.look import FINAL, OWN, Look, mask_folders
from tag2mask.reports.notes import READ_ERRORS
from tag2mask.reports.pick import choose
from tag2mask.runs.index import IndexedImage

SIZE_LIMIT = 6_000_000  # bytes of all pictures in base64, so that the file stays under 7 MB and opens in a second
CLASSES_SHOWN = 4  # per image: maps of further classes are only part of the strongest-of-all view
FRAMES_SHOWN = 16  # steps per image
ONE_ROW = 7  # panels; more would be too small to see edges in
EDGE_SIDE = 200  # pixels: edges are thin
ALL = "all"
SIDE_BY_SIDE = 6  # refinements on one card
REJECTED = "rejected in the review: no network learns from it, no export has it"
PLACES = ("network", "doubt", "compare", "how")  # parts of the report that have pictures
# Of training images: folder, title, and their row in scores.json.
MASKS = (("pseudo_masks", "Pseudo-mask", "pseudo_mask"), ("masks", "Final mask", "final_mask"))


@dataclass(frozen=True)
class Layer:
    """One picture laid over the photo; `view` is a class index as text or "all", `step` counts from 0."""

    uri: str
    alt: str
    view: str = ""
    step: int = -1


@dataclass
class Panel:
    """One cell of a card. `kind`: "photo", "heat", "steps", "mask" or "wrong"."""

    title: str
    kind: str
    layers: list[Layer] = field(default_factory=list)
    score: float | None = None


@dataclass
class Card:
    """One example: `groups` maps "best", "worst", "random" to the rank in that group."""

    id: str
    groups: dict[str, int]
    labels: tuple[str, ...]
    views: list[tuple[str, str]]
    aspect: float
    photo: str
    panels: list[Panel]
    steps: list[dict[str, float | int]]
    note: str = ""  # why it is shown

    @property
    def columns(self) -> int:
        """Panels in a row: up to seven stand side by side, more are broken into two rows."""
        return len(self.panels) if len(self.panels) <= ONE_ROW else -(-len(self.panels) // 2)

    @property
    def size(self) -> int:
        """Bytes that the card's pictures take in the page."""
        return len(self.photo) + sum(len(layer.uri) for panel in self.panels for layer in panel.layers)


@dataclass
class Section:
    """A part of the gallery, such as the held-out photos with their predictions."""

    key: str
    place: str  # one of PLACES
    title: str
    about: str
    ranked_by: str
    available: int
    traced_first: bool
    filtered: bool = True  # by group and class
    cards: list[Card] = field(default_factory=list)
    left_out: int = 0


def build_sections(facts: RunFacts, found: Look, examples: int, seed: int) -> list[Section]:
    """Build the sections in the order of KINDS, reading one example at a time, within SIZE_LIMIT bytes."""
    kinds = [(kind, ids) for kind in KINDS if (ids := kind.ids(facts, found))]
    sections = []
    room = SIZE_LIMIT
    for number, (kind, ids) in enumerate(kinds):
        section, chosen = _drawn(kind, ids, facts, examples, seed)
        room -= _fill(section, facts, chosen, kind.card, room // (len(kinds) - number))
        reasons = {doubt.id: doubt.reason for doubt in found.doubts} if kind.key == "doubt" else {}
        for card in section.cards:
            card.note = REJECTED if card.id in facts.rejected else reasons.get(card.id, "")
        sections.append(section)
    return sections


def _drawn(
    kind: Kind, ids: list[str], facts: RunFacts, examples: int, seed: int
) -> tuple[Section, dict[str, dict[str, int]]]:
    """An empty section, and what it is to show: id -> {group: rank}."""
    ranked_by = next((key for key in kind.ranked_by if facts.per_image.get(key)), "")
    traced = ids_in(facts.folder / "localization" / "traces", ".npz") if kind.key == "train" else set()
    about = (kind.key, kind.place, kind.title, kind.about, ranked_by, len(ids))
    if not kind.drawn:
        return Section(*about, traced_first=False, filtered=False), {
            i: {"order": n} for n, i in enumerate(ids[:examples])
        }
    labels = {name: facts.index.images[name].labels if name in facts.index.images else () for name in ids}
    chosen = choose(labels, facts.per_image.get(ranked_by, {}), examples, seed, kind.key, first=traced)
    return Section(*about, traced_first=bool(traced)), chosen


def _fill(
    section: Section,
    facts: RunFacts,
    chosen: dict[str, dict[str, int]],
    make: Callable[[RunFacts, IndexedImage, dict[str, int]], Card],
    room: int,
) -> int:
    """Add cards rank by rank over the groups until `room` bytes are used; return the bytes used."""
    used = 0
    order = sorted(chosen, key=lambda name: min(chosen[name].values()))
    for name in order:
        image = facts.index.images.get(name) or IndexedImage(name)
        card = make(facts, image, chosen[name])
        if used + card.size > room:
            section.left_out += 1
            continue
        used += card.size
        section.cards.append(card)
    return used


def _train_ids(facts: RunFacts, _: Look) -> list[str]:
    folders = (("localization/cam", ".npz"), ("localization/rib", ".npz"), ("pseudo_masks/masks", ".png"))
    return sorted({name for folder, suffix in folders for name in ids_in(facts.folder / folder, suffix)})


def _final_ids(facts: RunFacts, _: Look) -> list[str]:
    return sorted(ids_in(facts.folder / FINAL / "masks", ".png"))


def _doubtful_ids(_: RunFacts, found: Look) -> list[str]:
    return [doubt.id for doubt in found.doubts]


def _differing_ids(_: RunFacts, found: Look) -> list[str]:
    return list(found.differing)


def _val_ids(facts: RunFacts, _: Look) -> list[str]:
    folders = ("predictions/masks", "supervised_predictions/masks")
    names = {name for folder in folders for name in ids_in(facts.folder / folder, ".png")}
    held_out = {name for name in names if name in facts.index.images and facts.index.images[name].split != "train"}
    return sorted(held_out or names)


def _train_card(facts: RunFacts, image: IndexedImage, groups: dict[str, int]) -> Card:
    card = _start(facts, image, groups)
    for key, title in (("cam", "CAM"), ("rib", "RIB")):
        if (facts.folder / "localization" / key).is_dir():
            panel = _heat_panel(facts, image, key, title)
            card.panels.append(panel)
    steps, card.steps = _steps_panel(facts, image)
    if card.steps:  # between CAM, its first frame, and RIB, its last
        card.panels.insert(-1 if card.panels[-1].title == "RIB" else len(card.panels), steps)
    card.panels += _refinement_panels(facts, image)
    for folder, title, score in MASKS:
        if (facts.folder / folder / "masks").is_dir():
            card.panels.append(_mask_panel(facts, image, folder, title, score)[0])
    _add_truth(facts, image, card)
    _name_views(facts, card)
    return card


def _name_views(facts: RunFacts, card: Card) -> None:
    """Name what can be chosen on the card: the classes that it has maps of, and all together."""
    shown = {layer.view for panel in card.panels for layer in panel.layers if layer.view}
    named = [(str(i), name) for i, name in enumerate(facts.classes) if str(i) in shown]
    card.views = [(ALL, "all"), *named] if ALL in shown and len(named) > 1 else named[:1]


def _final_card(facts: RunFacts, image: IndexedImage, groups: dict[str, int]) -> Card:
    card = _start(facts, image, groups)
    panel, final = _mask_panel(facts, image, FINAL, "Final mask", "final_mask")
    card.panels.append(panel)
    _add_differences(facts, image, card, final)
    return card


def _doubtful_card(facts: RunFacts, image: IndexedImage, groups: dict[str, int]) -> Card:
    card = _start(facts, image, groups)
    kind = _maps_of_masks(facts)
    if kind:
        card.panels.append(_heat_panel(facts, image, kind, kind.upper()))
        _name_views(facts, card)
    for folder, title, score in MASKS:
        if (facts.folder / folder / "masks").is_dir():
            card.panels.append(_mask_panel(facts, image, folder, title, score)[0])
    return card


def _maps_of_masks(facts: RunFacts) -> str:
    """The maps that the pseudo-masks were made of, else the last that there are; "" without any."""
    own = next((stage.manifest.config.get("maps") for stage in facts.stages if stage.step.folder == OWN), None)
    kinds = [own, "rib", "cam"]
    return next((str(kind) for kind in kinds if kind and (facts.folder / "localization" / str(kind)).is_dir()), "")


def _compared_card(facts: RunFacts, image: IndexedImage, groups: dict[str, int]) -> Card:
    card = _start(facts, image, groups)
    for folder in [name for name in mask_folders(facts.folder) if name != FINAL][:SIDE_BY_SIDE]:
        name = facts.chosen if folder == OWN else folder.removeprefix(f"{OWN}_")
        score = folder.replace(OWN, "pseudo_mask", 1)
        card.panels.append(_mask_panel(facts, image, folder, name, score)[0])
    return card


def _val_card(facts: RunFacts, image: IndexedImage, groups: dict[str, int]) -> Card:
    card = _start(facts, image, groups)
    prediction = None
    if (facts.folder / "predictions" / "masks").is_dir():
        panel, prediction = _mask_panel(facts, image, "predictions", "Prediction", "segmentation_val")
        card.panels.append(panel)
    _add_differences(facts, image, card, prediction)
    if (facts.folder / "supervised_predictions" / "masks").is_dir():
        panel, _ = _mask_panel(facts, image, "supervised_predictions", "Upper bound", "supervised_val")
        card.panels.append(panel)
    return card


def _add_differences(facts: RunFacts, image: IndexedImage, card: Card, mask: np.ndarray | None) -> None:
    """Add the true mask, where there is one, and where the last mask, `mask`, differs from it."""
    before = card.panels[-1].title
    truth = _add_truth(facts, image, card)
    if card.panels[-1].title == "Truth" and before != "Photo":
        panel = Panel("Differences", "wrong")
        card.panels.append(panel)
        if mask is not None and truth is not None and mask.shape == truth.shape:
            wrong = pictures.differences(mask, truth)
            alt = f"{100 * wrong.mean():.0f} percent of the pixels differ from the truth"
            panel.layers = [Layer(pictures.difference_uri(wrong), alt)]


def _start(facts: RunFacts, image: IndexedImage, groups: dict[str, int]) -> Card:
    photo, aspect = "", 4 / 3
    path = image.path
    if path is None:
        facts.notes.broken.append(f"photo of {image.id}: not listed in index.json")
    else:
        pixels = facts.notes.attempt(f"photo of {image.id}", path, partial(decode_image, reading=facts.reading))
        if pixels is not None:
            aspect = pixels.shape[1] / pixels.shape[0]
            photo = pictures.photo_uri(pixels)
    return Card(image.id, groups, image.labels, [], aspect, photo, [Panel("Photo", "photo")], [])


def _heat_panel(facts: RunFacts, image: IndexedImage, key: str, title: str) -> Panel:
    panel = Panel(title, "heat", score=facts.per_image.get(f"seed_{key}", {}).get(image.id))
    path = facts.folder / "localization" / key / f"{image.id}.npz"
    if not path.is_file():
        return panel

    def read(path: Path) -> list[Layer]:
        maps = load_maps(path)
        views = _views(facts.classes, maps.classes, maps.at_stride4())
        return [Layer(pictures.heat_uri(heat), f"{title} of {name}", view) for view, name, heat in views]

    panel.layers = facts.notes.attempt(f"localization/{key}/{path.name}", path, read) or []
    return panel


def _views(names: Sequence[str], classes: np.ndarray, maps: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield (view, class name, map (h, w)) per class, and first the strongest of all if there are several.

    `maps` is (n, h, w) in 0..1, `classes` (n,) holds 0-based class indices.
    """
    if len(classes) > 1:
        yield ALL, "all tags", maps.max(axis=0)
    for index, heat in list(zip(classes.tolist(), maps, strict=True))[:CLASSES_SHOWN]:
        yield str(int(index)), names[index] if 0 <= index < len(names) else f"class {index}", heat


def _refinement_panels(facts: RunFacts, image: IndexedImage) -> list[Panel]:
    """Between seed and pseudo-mask: confident labels, edges, walk and saliency, as far as they were kept."""
    panels = []
    if facts.labels_from and (facts.folder / facts.labels_from / "masks").is_dir():
        panels.append(_mask_panel(facts, image, facts.labels_from, "Confident labels", "")[0])
    path = facts.folder / "pseudo_masks" / "steps" / f"{image.id}.npz"
    if path.is_file():
        read = facts.notes.attempt(f"pseudo_masks/steps/{path.name}", path, lambda path: _read_steps(facts, path))
        panels += read or []
    return panels


def _read_steps(facts: RunFacts, path: Path) -> list[Panel]:
    """Panels of edges (h, w), walked maps (n, h, w) and saliency (h, w), those that the file has."""
    panels = []
    with np.load(path, allow_pickle=False) as steps:
        if "edge" in steps:
            uri = pictures.heat_uri(numbers(steps, "edge").astype(np.float32), EDGE_SIDE)
            panels.append(Panel("Edges", "heat", [Layer(uri, "Edges by the boundary network")]))
        if "walked" in steps:
            walked = numbers(steps, "walked").astype(np.float32)
            views = _views(facts.classes, numbers(steps, "classes"), walked)
            layers = [Layer(pictures.heat_uri(heat), f"Walked map of {name}", view) for view, name, heat in views]
            panels.append(Panel("Random walk", "heat", layers))
        if "saliency" in steps:
            uri = pictures.heat_uri(numbers(steps, "saliency").astype(np.float32))
            panels.append(Panel("Saliency", "heat", [Layer(uri, "Saliency")]))
    return panels


def _steps_panel(facts: RunFacts, image: IndexedImage) -> tuple[Panel, list[dict[str, float | int]]]:
    panel = Panel("RIB, step by step", "steps")
    path = facts.folder / "localization" / "traces" / f"{image.id}.npz"
    if not path.is_file():
        return panel, []
    found = facts.notes.attempt(f"localization/traces/{path.name}", path, lambda path: _read_trace(facts, path))
    panel.layers, steps = found or ([], [])
    return panel, steps


def _read_trace(facts: RunFacts, path: Path) -> tuple[list[Layer], list[dict[str, float | int]]]:
    try:
        classes, stack, by_step = _load_trace(path)
    except READ_ERRORS as error:
        raise DataError(f"{path}: is no whole trace file; run the localization again") from error
    if stack.ndim != 4 or not stack.size or stack.shape[1] != len(classes):
        raise DataError(f"{path}: maps {stack.shape} for {len(classes)} classes; expected (S, n, h, w)")
    count = len(stack)
    kept = sorted({round(k) for k in np.linspace(0, count - 1, min(count, FRAMES_SHOWN))})
    layers, steps = [], []
    for frame, step in enumerate(kept):
        for view, name, heat in _views(facts.classes, classes, stack[step]):
            uri = pictures.heat_uri(heat, pictures.FRAME_SIDE)
            layers.append(Layer(uri, f"RIB map of {name} after step {step}", view, frame))
        readout = {key: float(values[step]) for key, values in by_step.items() if step < len(values)}
        finite = {key: round(value, 4) for key, value in readout.items() if np.isfinite(value)}
        steps.append({"step": step, "last": count - 1, **finite})
    return layers, steps


def _load_trace(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Read classes (n,), the running sum of the maps (S, n, h, w) in 0..1, and numbers per step (S,)."""
    with np.load(path, allow_pickle=False) as trace:
        stack = numbers(trace, "accumulated" if "accumulated" in trace else "maps").astype(np.float32)
        known = [key for key in ("loss", "target_logit", "covered") if key in trace]
        by_step = {key: numbers(trace, key).astype(np.float64).reshape(-1) for key in known}
        return numbers(trace, "classes"), stack, by_step


def _mask_panel(
    facts: RunFacts, image: IndexedImage, folder: str, title: str, score: str
) -> tuple[Panel, np.ndarray | None]:
    panel = Panel(title, "mask", score=facts.per_image.get(score, {}).get(image.id))
    path = facts.folder / folder / "masks" / f"{image.id}.png"
    if not path.is_file():
        return panel, None
    mask = facts.notes.attempt(f"{folder}/masks/{path.name}", path, read_mask)
    if mask is not None:
        panel.layers = [_mask_layer(facts, mask, title)]
    return panel, mask


def _add_truth(facts: RunFacts, image: IndexedImage, card: Card) -> np.ndarray | None:
    """Add the true mask where masks are known at all; an empty panel where this image has none."""
    if not any(other.mask for other in facts.index.images.values()):
        return None
    panel = Panel("Truth", "mask")
    card.panels.append(panel)
    path = image.mask
    if path is None:
        return None
    truth = facts.notes.attempt(f"true mask of {image.id}", path, lambda path: read_mask(path, facts.index.mask_lut))
    if truth is not None:
        panel.layers = [_mask_layer(facts, truth, "True mask")]
    return truth


def _mask_layer(facts: RunFacts, mask: np.ndarray, title: str) -> Layer:
    values = [int(value) for value in np.unique(mask) if value not in (0, pictures.IGNORED)]
    names = [facts.classes[v - 1] if v <= len(facts.classes) else f"class {v - 1}" for v in values]
    return Layer(pictures.mask_uri(mask), f"{title}: {', '.join(names) or 'background only'}")


@dataclass(frozen=True)
class Kind:
    """What a section of the gallery shows: which images, ranked by which of their scores, on what card."""

    key: str
    place: str  # one of PLACES
    title: str
    about: str
    ids: Callable[[RunFacts, Look], list[str]]
    card: Callable[[RunFacts, IndexedImage, dict[str, int]], Card]
    ranked_by: tuple[str, ...] = ()  # rows of scores.json; the first that there is
    drawn: bool = True  # best, worst and random; else the first ones, in their order


KINDS = (
    Kind(
        "val",
        "network",
        "Held-out photos",
        "Photos that no network was trained on, and no tag is given: what to expect on new ones.",
        _val_ids,
        _val_card,
        ("segmentation_val", "supervised_val"),
    ),
    Kind(
        "final",
        "network",
        "Your tagged photos",
        "The network's answer among each photo's own tags, filled up or joined with its pseudo-mask: to take away.",
        _final_ids,
        _final_card,
        ("final_mask",),
    ),
    Kind(
        "doubt",
        "doubt",
        "The most doubtful masks",
        "Tags without a pixel first, then those on which the network and the masks it learned from agree least.",
        _doubtful_ids,
        _doubtful_card,
        drawn=False,
    ),
    Kind(
        "compare",
        "compare",
        "Where they differ most",
        "The same photos by each of the pseudo-masks.",
        _differing_ids,
        _compared_card,
        drawn=False,
    ),
    Kind(
        "train",
        "how",
        "From the tag to the mask",
        "From the tag alone: where the classifier looks, what RIB adds, and the mask the segmenter learns from.",
        _train_ids,
        _train_card,
        ("seed_rib", "pseudo_mask", "seed_cam"),
    ),
)
