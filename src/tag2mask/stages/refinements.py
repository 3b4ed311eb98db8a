"""Which refinements a recipe asks for, what each needs first, and where each lies in the run's folder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tag2mask.common.errors import ConfigError
from tag2mask.config import Lines, build, to_mapping, where, with_changes
from tag2mask.stages.refine import RefineConfig, resolve_method, title_of
from tag2mask.stages.train_classifier import ClassifierConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Refinement:
    """One refinement of a run: the recipe's own (`name` "") or one that is only scored."""

    name: str
    config: RefineConfig  # with the boundary network's backbone and weights filled in
    confident: str | None = None  # folder of the confident labels, for irn
    boundary: str | None = None  # folder of the boundary network, for irn

    @property
    def folder(self) -> str:
        """Its folder in the run."""
        return f"pseudo_masks_{self.name}" if self.name else "pseudo_masks"

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


def plan(
    own: RefineConfig, comparisons: Mapping[str, RefineConfig], classifier: ClassifierConfig
) -> list[Refinement]:
    """The recipe's own refinement and the comparisons, with what each needs; the same work gets the same folder.

    Confident labels are shared by refinements of the same maps and settings, boundary networks likewise.
    Raises ConfigError for a name that isn't fit for a file.
    """
    labels: dict[str, str] = {}
    networks: dict[str, str] = {}
    found = []
    for name, asked in {"": own, **comparisons}.items():
        if name:
            check_name(name, "comparisons")
        config = _filled_in(asked, classifier)
        if config.method != "irn":
            found.append(Refinement(name, config))
            continue
        key = f"{config.maps} {to_mapping(config.confident)}"
        confident = _folder(labels, key, "confident", config.maps, name)
        boundary = _folder(networks, f"{key} {to_mapping(config.boundary)}", "boundary", config.maps, name)
        found.append(Refinement(name, config, confident, boundary))
    return found


def _folder(known: dict[str, str], key: str, kind: str, maps: str, name: str) -> str:
    """Folder of this key: kind_MAPS for the first of these maps, kind_MAPS_NAME for those with other settings."""
    if key not in known:
        plain = f"{kind}_{maps}"
        known[key] = f"{plain}_{name}" if plain in known.values() else plain
    return known[key]


def _filled_in(config: RefineConfig, classifier: ClassifierConfig) -> RefineConfig:
    """Fill in what "auto" means here, and the classifier's backbone and weights where the network has none."""
    if config.method == "auto":
        config = resolve_method(config)
    boundary = config.boundary
    backbone = boundary.backbone or classifier.backbone
    weights = boundary.weights
    if weights is None:
        weights = classifier.weights if backbone == classifier.backbone else "auto"
    return dataclasses.replace(config, boundary=dataclasses.replace(boundary, backbone=backbone, weights=weights))


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
