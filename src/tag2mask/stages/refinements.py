"""Which refinements a recipe asks for, what each needs first, and where each lies in the run's folder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.common.errors import ConfigError, MissingExtraError
from tag2mask.config import Lines, build, to_mapping, where, with_changes
from tag2mask.stages.confident import as_made
from tag2mask.stages.refine import RefineConfig, check, title_of
from tag2mask.stages.stage import Context, has_masks
from tag2mask.stages.train_classifier import ClassifierConfig

if TYPE_CHECKING:
    from tag2mask.recipe import Recipe

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Refinement:
    """One refinement of a run: the recipe's own (`name` "") or one that is only scored."""

    name: str
    config: RefineConfig  # with the boundary network's backbone and weights filled in
    confident: str | None = None  # folder of the confident labels, for irn and irn+...
    boundary: str | None = None  # folder of the boundary network, for irn and irn+...
    walk: str | None = None  # folder of the walked maps, for irn+...

    def as_made(self, out: Path) -> Refinement:
        """The same with what its method "auto" means in the run's folder `out`."""
        method = as_made(out / self.folder, "method", self.config.method)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, method=method))

    @property
    def folder(self) -> str:
        """Its folder in the run."""
        return folder_of(self.name)

    @property
    def score(self) -> str:
        """Its row in scores.json."""
        return f"pseudo_mask_{self.name}" if self.name else "pseudo_mask"

    @property
    def title(self) -> str:
        """What it is called in tables: "RIB+IRN", and its name where that says more."""
        title = title_of(self.config)
        same = re.sub(r"[_-]", "+", self.name).casefold() == title.casefold()
        return title if same or not self.name else f"{title} ({self.name})"


def folder_of(name: str) -> str:
    """The folder of a refinement in the run; "" for the one that later stages follow."""
    return f"pseudo_masks_{name}" if name else "pseudo_masks"


def aside_of(name: str) -> str:
    """The folder of what was made from a refinement that later stages follow no more."""
    return f"of_{name}"


def plan(
    own: RefineConfig, comparisons: Mapping[str, RefineConfig], classifier: ClassifierConfig
) -> list[Refinement]:
    """The recipe's own refinement and the comparisons, with what each needs; the same work gets the same folder.

    Confident labels are shared by refinements of the same maps and settings, boundary networks likewise.
    Raises ConfigError for a name that isn't fit for a file.
    """
    labels: dict[str, str] = {}
    networks: dict[str, str] = {}
    walks: dict[str, str] = {}
    found = []
    for name, asked in {"": own, **comparisons}.items():
        if name:
            check_name(name, "comparisons")
        config = completed(asked, classifier)
        if not config.by_irn:
            found.append(Refinement(name, config))
            continue
        key = f"{config.maps} {to_mapping(config.confident)}"
        confident = _folder(labels, key, "confident", config.maps, name)
        key = f"{key} {to_mapping(config.boundary)}"
        boundary = _folder(networks, key, "boundary", config.maps, name)
        walk = None
        if config.method != "irn":
            walk = _folder(walks, f"{key} {config.walk.used()}", "walk", config.maps, name)
        found.append(Refinement(name, config, confident, boundary, walk))
    return found


def refinements_of(context: Context) -> list[Refinement]:
    """The refinements of a run; comparisons that can't run here and weren't begun elsewhere are left out."""
    return [one.as_made(context.out) for one in _asked(context) if not _is_left_out(one, context)]


def left_out(context: Context) -> Iterable[str]:
    """Which comparisons can't run on this machine, and why."""
    for one in _asked(context):
        if _is_left_out(one, context):
            yield f"comparison {one.title} is left out: {_lacking(one, context)}"


def networks_of(recipe: Recipe) -> dict[str, tuple[str | None, ...]]:
    """The folders of confident labels, boundary network and walked maps of each refinement, by its name."""
    found = plan(recipe.refine, {**recipe.comparisons, **recipe.tried}, recipe.classifier)
    return {one.name: (one.confident, one.boundary, one.walk) for one in found}


def _asked(context: Context) -> list[Refinement]:
    """All refinements; a recipe's comparisons are for scores, so they need true masks, those tried by hand don't."""
    recipe = context.recipe
    scored = recipe.comparisons if has_masks(context.train) else {}
    return plan(recipe.refine, {**scored, **recipe.tried}, recipe.classifier)


def _is_left_out(one: Refinement, context: Context) -> bool:
    return bool(one.name and _lacking(one, context)) and not (context.out / one.folder).is_dir()


def _lacking(one: Refinement, context: Context) -> str:
    try:
        check(one.config, context.train.classes)
    except MissingExtraError as error:
        return str(error)
    return ""


def distinct(refinements: Sequence[Refinement], kind: str) -> list[Refinement]:
    """The first refinement of each folder of `kind` ("confident", "boundary" or "walk")."""
    first: dict[str, Refinement] = {}
    for refinement in refinements:
        folder = getattr(refinement, kind)
        if folder is not None:
            first.setdefault(folder, refinement)
    return list(first.values())


def spoken(name: str) -> str:
    """The rest of a folder's name for the reader: "rib" becomes "RIB", "cam_irn" "CAM irn"."""
    return " ".join(word.upper() if word in ("cam", "rib", "irn", "crf") else word for word in name.split("_"))


def _folder(known: dict[str, str], key: str, kind: str, maps: str, name: str) -> str:
    """Folder of this key: kind_MAPS for the first of these maps, kind_MAPS_NAME for those with other settings."""
    if key not in known:
        plain = f"{kind}_{maps}"
        known[key] = f"{plain}_{name}" if plain in known.values() else plain
    return known[key]


def completed(config: RefineConfig, classifier: ClassifierConfig) -> RefineConfig:
    """Fill in what goes by the classifier: the boundary network's backbone and weights, the threshold's power."""
    boundary = config.boundary
    backbone = boundary.backbone or classifier.backbone
    weights = boundary.weights
    if weights is None:
        weights = classifier.weights if backbone == classifier.backbone else "auto"
    power = config.threshold_power if config.threshold_power != "auto" else classifier.pooled().parting_power
    boundary = dataclasses.replace(boundary, backbone=backbone, weights=weights)
    return dataclasses.replace(config, boundary=boundary, threshold_power=power)


def check_name(name: str, where: str) -> None:
    """Raise ConfigError unless `name` can be part of a folder's name everywhere."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{where}: '{name}' can't name a folder; use up to 40 letters, digits, '_' and '-'")


def expanded(values: dict[str, Any], source: str, lines: Lines) -> dict[str, Any]:
    """Turn each entry of `comparisons`, changes over the recipe's `refine`, into whole settings.

    A mistake in `refine` itself is reported there, before it could appear in every comparison.
    """
    comparisons, base = values.get("comparisons"), values.get("refine", {})
    if comparisons is None:
        return {key: value for key, value in values.items() if key != "comparisons"}
    if not isinstance(comparisons, Mapping) or not isinstance(base, Mapping):
        return values  # the types are reported where all types are
    build(RefineConfig, base, source=source, lines=lines, place=("refine",))
    whole = {}
    for name, changes in comparisons.items():
        check_name(str(name), f"{where(source, lines, ('comparisons', str(name)))}: comparisons")
        whole[str(name)] = with_changes(base, changes) if isinstance(changes, Mapping) else changes
    return values | {"comparisons": whole}
