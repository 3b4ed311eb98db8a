"""A grid of localization settings on one classifier and one set of images: what each is worth and what it costs.

The paper's ablations, and the price of every shortcut, come from this one table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.common.errors import ConfigError, did_you_mean
from tag2mask.common.files import ids_in, read_object, write_json
from tag2mask.common.memory import keep_freed_memory
from tag2mask.common.progress import track
from tag2mask.config import Lines, build, load_yaml, to_mapping, with_changes
from tag2mask.data import Dataset, LocalizationMaps, load_maps, read_image, read_mask, resize_labels
from tag2mask.engine.cost import counted_flops
from tag2mask.engine.execution import Execution, cpu_threads, resolve_device
from tag2mask.engine.images import process_count
from tag2mask.metrics import ThresholdCurve, bootstrap_difference, class_iou, confusion_matrix, mean_iou
from tag2mask.recipe import Recipe, load_recipe, read_splits, recipe_folder
from tag2mask.refine.methods import METHODS
from tag2mask.refine.pseudo import refined_labels
from tag2mask.refine.threshold import labels_from_maps
from tag2mask.runs.folder import read_manifest
from tag2mask.stages.affinity import filled_in, follow
from tag2mask.stages.localize import LocalizeConfig, Localizer, localize
from tag2mask.stages.refine import resolve_method
from tag2mask.stages.stage import Say
from tag2mask.stages.thresholds import automatic_threshold, unchanged_by_affinity

THRESHOLDS = np.round(np.arange(1, 100) * 0.01, 2)


@dataclass(frozen=True)
class GridRow:
    """One row of the table."""

    name: str
    config: LocalizeConfig
    against: str  # the row that it is compared with


@dataclass(frozen=True)
class Grid:
    """Rows of an ablation; the first is what the others are compared with, unless they say otherwise."""

    name: str
    rows: tuple[GridRow, ...]


def grid_folder() -> Path:
    """Where the grids of this installation lie."""
    return recipe_folder() / "ablations"


def load_grid(path: Path | str, start: LocalizeConfig) -> Grid:
    """Read a grid by path, or by the name of one that comes along.

    A grid is YAML: `base` changes the settings of `start`, and each of `rows` changes `base`; a row's `against`
    names the row that it is compared with (default: the first). ConfigError names file, line and key.
    """
    path = _find_grid(path)
    values, lines = load_yaml(path)
    unknown = [key for key in values if key not in ("name", "base", "rows")]
    if unknown:
        where = lines.get((str(unknown[0]),), 1)
        raise ConfigError(f"{path} line {where}: unknown key '{unknown[0]}'; a grid has name, base and rows")
    if not isinstance(values.get("rows"), dict) or not values["rows"]:
        raise ConfigError(f"{path}: 'rows' is missing; give a mapping from names to settings")
    base = with_changes(to_mapping(start), values.get("base") or {})
    places = _lines_below(lines, ("base",))
    build(LocalizeConfig, base, source=str(path), lines=places)
    rows = [
        _row(str(key), dict(more or {}), base, path, places | _lines_below(lines, ("rows", str(key))))
        for key, more in values["rows"].items()
    ]
    rows = [dataclasses.replace(row, against=row.against or rows[0].name) for row in rows]
    names = [row.name for row in rows]
    for row in rows:
        if row.against not in names:
            raise ConfigError(f"{path}: row '{row.name}': no row '{row.against}'{did_you_mean(row.against, names)}")
    return Grid(str(values.get("name", path.stem)), tuple(rows))


def _find_grid(path: Path | str) -> Path:
    if Path(path).is_file():
        return Path(path)
    known = {file.stem: file for file in grid_folder().glob("*.yaml")}
    if str(path) not in known:
        raise ConfigError(f"{path}: no such grid, neither file nor name{did_you_mean(str(path), known)}")
    return known[str(path)]


def _row(name: str, more: dict[str, Any], base: dict[str, Any], path: Path, lines: Lines) -> GridRow:
    if not name or any(character in name for character in "/\\") or name.startswith("."):
        raise ConfigError(f"{path}: '{name}' can't name a folder; use letters, digits, spaces, - and _")
    against = str(more.pop("against", ""))
    return GridRow(name, build(LocalizeConfig, with_changes(base, more), source=str(path), lines=lines), against)


def _lines_below(lines: Lines, place: tuple[str, ...]) -> Lines:
    """The lines of the settings of one part of a grid, by their keys there; of the part itself, for the rest."""
    return {key[len(place) :]: line for key, line in lines.items() if key[: len(place)] == place}


@dataclass
class Seeds:
    """How the maps of one row score: everything that comparisons need."""

    threshold: float  # best on the true masks of these images
    miou: float
    confusions: np.ndarray  # (N, C, C) at that threshold, one an image


def ablate(
    run: Path,
    data: Path,
    grid: Path | str,
    out: Path | None = None,
    *,
    images: int = 96,
    images_seed: int = 0,
    execution: Execution | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Localize `images` class-balanced training images of a run with every row's settings; return the table.

    `images_seed` decides which images these are, so that a setting chosen on some can be checked on others.

    The classifier is the run's own; partners come from all its training images. Maps, table.json and table.md are
    written to `out` (default RUN/ablation/GRID). Rows that are there already are kept. Where all images have true
    masks, each row has the mIoU of the seed at the threshold that is best on them, and of pseudo-masks made with the
    run's affinity and refinement (without its walk) at a threshold found without masks. Where there are none, rows
    are compared by how little the run's affinity changes their maps. Raises Tag2MaskError.
    """
    recipe = load_recipe(run / "recipe.yaml")
    refinement = resolve_method(recipe.refine).along_edges
    plan = load_grid(grid, recipe.localize)
    train = read_splits(recipe, data, read_object(run / "run.json")["data"]["limited_to"]).train
    chosen = train.positives().limit(images, images_seed)
    _check_comparable(recipe, train, chosen)
    read_manifest(run / "classifier", "train-classifier")
    execution = dataclasses.replace(execution or Execution(), trace=0)
    out = out or run / "ablation" / plan.name
    table: dict[str, Any] = {
        "grid": plan.name,
        "images": len(chosen),
        "images_seed": images_seed,
        "classes": list(train.classes),
        "rows": {},
    }
    seeds: dict[str, Seeds] = {}
    for row in plan.rows:
        say(f"{row.name}: {len(chosen)} images")
        folder = out / row.name
        wanted = [record.id for record in chosen.records]
        localize(train, run / "classifier", folder, row.config, seed=recipe.seed, execution=execution, only=wanted)
        maps = folder / row.config.method
        chosen = _with_maps(chosen, maps, say)
        scored = all(record.mask_path for record in chosen.records)
        if not scored and row is plan.rows[0]:
            say(f"  {train.name}: some of these have no true masks, so rows are compared by the affinity alone")
        against = None if row.against == row.name else plan.rows[[r.name for r in plan.rows].index(row.against)]
        entry = _describe(row, folder, run, train, chosen, recipe.seed)
        if train.background:  # else the strongest class is taken everywhere
            entry |= _without_masks(row, plan.rows[0], out, recipe, refinement, train, chosen, execution)
        if scored:
            seeds[row.name] = score_seeds(chosen, maps)
            entry |= {"miou": seeds[row.name].miou, "threshold": seeds[row.name].threshold}
        if scored and against is not None:
            other = out / against.name / against.config.method
            entry |= _compared(
                against.name, seeds[row.name], seeds.get(against.name), maps, other, chosen, recipe.seed
            )
        table["images"] = len(chosen)
        table["rows"][row.name] = entry
        table["processes"] = process_count(execution.processes, len(chosen))
        write_json(out / "table.json", table)
        say("  " + _line(entry))
    (out / "table.md").write_text(markdown(table), encoding="utf-8")
    return table


def _check_comparable(recipe: Recipe, train: Dataset, chosen: Dataset) -> None:
    """ConfigError where rows could be compared neither by true masks nor without them."""
    if (recipe.affinity is None or not train.background) and not all(r.mask_path for r in chosen.records):
        raise ConfigError(
            f"{train.name}: some of the images have no true masks, and without them rows are compared by the run's "
            "affinity and cut against a background; add masks, or take a run with 'affinity: {}' and a background"
        )


def _with_maps(chosen: Dataset, maps: Path, say: Say) -> Dataset:
    """The images that have maps; ConfigError where none has. Others can't be read, which the manifest says."""
    there = ids_in(maps, ".npz")
    kept = tuple(record for record in chosen.records if record.id in there)
    if not kept:
        raise ConfigError(f"{maps}: no image could be localized; see {maps.parent / 'manifest.json'}")
    if len(kept) < len(chosen):
        say(f"  {len(chosen) - len(kept)} image(s) can't be read and are left out: {maps.parent / 'manifest.json'}")
    return dataclasses.replace(chosen, records=kept)


def score_seeds(dataset: Dataset, maps: Path) -> Seeds:
    """Score `maps`/ID.npz at the threshold that is best on the true masks of these images."""
    labels = len(dataset.classes) + 1
    curve = ThresholdCurve(labels, THRESHOLDS)

    def each() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Maps, classes and truth, read again for each pass: memory doesn't grow with the set."""
        for record in dataset.records:
            assert record.mask_path is not None
            loaded = load_maps(maps / f"{record.id}.npz")
            yield loaded.full(), loaded.classes, read_mask(record.mask_path, dataset.mask_lut)

    for found, classes, truth in track(each(), total=len(dataset), description="score"):
        curve.update(found, classes, truth)
    threshold, miou = curve.compute().best()
    confusions = [confusion_matrix(labels_from_maps(m, classes, threshold), t, labels) for m, classes, t in each()]
    return Seeds(threshold, miou, np.stack(confusions))


def map_correlation(dataset: Dataset, first: Path, second: Path, classes: Collection[int] | None = None) -> float:
    """Mean Pearson correlation of two sets of full-size maps over images and classes; constant maps are left out.

    `classes` are those that are compared; default: all of an image's.
    """
    values = []
    for record in dataset.records:
        one, two = (load_maps(folder / f"{record.id}.npz") for folder in (first, second))
        for index, a, b in zip(one.classes.tolist(), one.full(), two.full(), strict=True):
            if (classes is None or index in classes) and a.std() > 0 and b.std() > 0:
                values.append(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]))
    return float(np.mean(values)) if values else float("nan")


def flops_of_image(
    run: Path, train: Dataset, folder: Path, record_id: str, config: LocalizeConfig, seed: int
) -> float:
    """Floating-point operations of one image of the row in `folder`, with its partners in the cache."""
    keep_freed_memory()
    record = next(record for record in train.records if record.id == record_id)
    image = read_image(record)
    with cpu_threads(1):
        worker = Localizer(train, run / "classifier", folder, config, seed)
        worker.maps_of(image, record)  # whatever is computed once for the set is not this image's cost
        return counted_flops(lambda: worker.maps_of(image, record))


def _without_masks(
    row: GridRow,
    first: GridRow,
    out: Path,
    recipe: Recipe,
    method: str,
    train: Dataset,
    chosen: Dataset,
    execution: Execution,
) -> dict[str, Any]:
    """The automatic threshold of a row, what of its maps stays through the affinity, and the mIoU, with true masks.

    All rows are cut where they cover as much as the plain CAM of the `first`, so that they can be compared.
    """
    affinity = filled_in(recipe.affinity, recipe.classifier)
    places = {name: out / name for name in (row.name, first.name)}
    if affinity is not None:
        for name, place in places.items():
            follow(train, place, place / "affinity", affinity, execution=execution)
            places[name] = place / "affinity"
    device = str(resolve_device(execution.device if METHODS[method].on_device else "cpu"))

    def labels_at(photo: np.ndarray, own: LocalizationMaps, score: float) -> np.ndarray:
        return refined_labels(photo, own.full(), own.classes, score, method, device)

    records = {record.id: record for record in chosen.records}
    power = recipe.refine.threshold_power
    maps, cam = places[row.name] / row.config.method, places[first.name] / "cam"
    score, found = automatic_threshold(
        out / row.name / "cam",
        maps,
        records,
        recipe.seed,
        labels_at,
        None if affinity is None else places[row.name] / "cam",
        recipe.classifier.pooled().parting_power if power == "auto" else power,
    )
    entry: dict[str, Any] = {"method": method, "found_threshold": score, "threshold_found": found}
    if affinity is not None:
        plain = out / row.name / row.config.method
        entry["unchanged"] = unchanged_by_affinity(cam, plain, maps, list(records), recipe.seed)
    if not all(record.mask_path for record in chosen.records):
        return entry
    total = np.zeros((len(chosen.classes) + 1,) * 2, np.int64)
    for record in track(chosen.records, total=len(chosen), description="pseudo-masks"):
        assert record.mask_path is not None
        photo, truth = read_image(record), read_mask(record.mask_path, chosen.mask_lut)
        labels = labels_at(photo, load_maps(maps / f"{record.id}.npz").at_size(photo.shape[:2]), score)
        total += confusion_matrix(resize_labels(labels, truth.shape), truth, len(total))
    return entry | {"pseudo_miou": float(mean_iou(class_iou(total)))}


def _describe(row: GridRow, folder: Path, run: Path, train: Dataset, chosen: Dataset, seed: int) -> dict[str, Any]:
    manifest = read_manifest(folder, "localize")
    cached = folder / "cost.json"
    if not cached.is_file():
        config = dataclasses.replace(row.config, rib=row.config.rib.replace(learning_rate=manifest["learning_rate"]))
        write_json(cached, {"flops": flops_of_image(run, train, folder, chosen.records[0].id, config, seed)})
    return {
        "gflops": read_object(cached)["flops"] / 1e9,
        "seconds": manifest["seconds"] / len(chosen),
        "learning_rate": manifest["learning_rate"],
    }


def _compared(
    name: str, own: Seeds, other: Seeds | None, maps: Path, other_maps: Path, chosen: Dataset, seed: int
) -> dict[str, Any]:
    if other is None:
        raise ConfigError(f"a row is compared with '{name}', which comes after it; put '{name}' first")
    low, high = bootstrap_difference(own.confusions, other.confusions, seed)
    return {
        "against": name,
        "difference": own.miou - other.miou,
        "difference_interval": [float(low), float(high)],
        "correlation": map_correlation(chosen, maps, other_maps),
    }


def _line(entry: Mapping[str, Any]) -> str:
    text = f"{entry['gflops']:.0f} GFLOP an image"
    if "miou" in entry:
        text = f"mIoU {100 * entry['miou']:.1f} at {entry['threshold']:.2f}, {text}"
    if "unchanged" in entry:
        text += f"; the affinity leaves {100 * entry['unchanged']:.2f} % as it is"
    if "pseudo_miou" in entry:
        text += f"; pseudo-masks {100 * entry['pseudo_miou']:.1f} at {entry['found_threshold']:.2f}, found"
    if "against" in entry:
        low, high = entry["difference_interval"]
        text += (
            f"; {100 * entry['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] to {entry['against']}, "
            f"correlation {entry['correlation']:.3f}"
        )
    return text


def markdown(table: Mapping[str, Any]) -> str:
    """The table as Markdown, with what its figures are."""
    rows = table["rows"]
    lines = [f"{table['images']} class-balanced training images, {table.get('processes', 1)} process(es)."]
    if any("miou" in entry for entry in rows.values()):
        lines[0] += (
            " Seeds: mIoU in percent, each row at the background threshold that is best on these images' true masks; "
            "in brackets the 95% interval of the difference over images."
        )
    methods = {entry["method"] for entry in rows.values() if "method" in entry}
    if methods:
        lines[0] += (
            f" Pseudo-masks: the run's affinity, if any, and {' or '.join(sorted(methods))}, at a threshold found "
            "without masks. Unchanged: the share, in percent, of what maps or maps by affinity mark that both do."
        )
    columns = {
        "seed mIoU": _percent("miou"),
        "best threshold": _plain("threshold"),
        "difference": _difference,
        "to": lambda entry: str(entry.get("against", "")),
        "map correlation": _plain("correlation", 3),
        "unchanged by affinity": _percent("unchanged", 2),
        "found threshold": _plain("found_threshold"),
        "pseudo-mask mIoU": _percent("pseudo_miou"),
        "GFLOP an image": _plain("gflops", 0),
        "s an image": _plain("seconds"),
    }
    cells = {name: [name, *(column(entry) for column in columns.values())] for name, entry in rows.items()}
    used = [0, *(at for at in range(1, len(columns) + 1) if any(row[at] for row in cells.values()))]
    head = ["", *columns]
    lines += ["", "| " + " | ".join(head[at] for at in used) + " |", "|---" * len(used) + "|"]
    lines += ["| " + " | ".join(row[at] for at in used) + " |" for row in cells.values()]
    best = max(((entry["unchanged"], name) for name, entry in rows.items() if "unchanged" in entry), default=None)
    if best is not None:
        lines += ["", f"The affinity changes the maps of '{best[1]}' least."]
    return "\n".join(lines) + "\n"


Column = Callable[[Mapping[str, Any]], str]


def _percent(key: str, digits: int = 1) -> Column:
    return lambda entry: f"{100 * entry[key]:.{digits}f}" if key in entry else ""


def _plain(key: str, digits: int = 2) -> Column:
    return lambda entry: f"{entry[key]:.{digits}f}" if key in entry else ""


def _difference(entry: Mapping[str, Any]) -> str:
    if "difference" not in entry:
        return ""
    low, high = entry["difference_interval"]
    return f"{100 * entry['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
