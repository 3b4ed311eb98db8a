"""A recipe is the settings of every stage, read from YAML; its splits are the images that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tag2mask.common.errors import ConfigError, did_you_mean
from tag2mask.config import (
    Free,
    Lines,
    Range,
    SettingError,
    Settings,
    build,
    load_yaml,
    to_mapping,
    where,
    with_changes,
    with_overrides,
)
from tag2mask.data import Dataset, read_dataset
from tag2mask.data.settings import DataConfig
from tag2mask.presets import with_backbone
from tag2mask.stages import all_stages
from tag2mask.stages.affinity import AffinityStageConfig
from tag2mask.stages.evaluate import EvaluateConfig
from tag2mask.stages.localize import LocalizeConfig, kinds_of
from tag2mask.stages.predict import PredictConfig
from tag2mask.stages.refine import RefineConfig
from tag2mask.stages.refinements import expanded
from tag2mask.stages.stage import Stage
from tag2mask.stages.train_classifier import ClassifierConfig
from tag2mask.stages.train_segmenter import SegmenterConfig

LIKE = "like"  # in a recipe: the one that it begins from
VARIANT, VARIANTS, AUTO = "variant", "variants", "auto"
LARGE, SMALL = "large", "small"  # the variants that a trial tells apart


@dataclass(frozen=True)
class Recipe(Settings):
    """Everything that decides a run's results."""

    name: Annotated[str, Free("any text")]
    description: Annotated[str, Free("any text")] = ""
    seed: Annotated[int, Range(ge=0, lt=2**63)] = 0
    # which of the recipe's variants: a name, or "auto" = large or small, told by a short trial
    variant: Annotated[str, Free("looked up among the recipe's variants when it is read")] = ""
    # sizes that short trainings on tags are tried at; the best becomes data.long_side. auto: the least that
    # data.long_side allows and it as it is, where photos are larger than that least. null: it as it is
    sizes: Annotated[
        tuple[int, ...] | Literal["auto"] | None, Range(ge=32, le=65_536, note="pixels", items=(2, 4))
    ] = None
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    classifier: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
    localize: LocalizeConfig = dataclasses.field(default_factory=LocalizeConfig)
    affinity: AffinityStageConfig | None = None  # null: refinements work on the maps as they are
    refine: RefineConfig = dataclasses.field(default_factory=RefineConfig)
    # Further refinements by name, each written as changes over `refine`: scored beside it, never learned from.
    comparisons: dict[str, RefineConfig] = dataclasses.field(default_factory=dict)
    # Refinements that were tried in a run, by name: kept beside `refine` whether they can be scored or not.
    tried: dict[str, RefineConfig] = dataclasses.field(default_factory=dict, metadata={"key": False})
    segmenter: SegmenterConfig = dataclasses.field(default_factory=SegmenterConfig)
    predict: PredictConfig = dataclasses.field(default_factory=PredictConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    supervised: bool = True  # also train on true masks where there are any: the upper bound
    # The chain ends with masks of the training images by the network, restricted to each image's tags: they are
    # usually better than the pseudo-masks that it learned from.
    final_masks: bool = False
    # Further trainings, each on the masks that the network before it gives the training images within their tags.
    rounds: Annotated[int, Range(ge=0, le=10)] = 0
    extra: dict[str, Any] = dataclasses.field(default_factory=dict, metadata={"key": False})  # stages' own sections
    # With variant "auto": what it may become, by name.
    alternatives: dict[str, Recipe] = dataclasses.field(default_factory=dict, metadata={"key": False})

    def check_relations(self) -> None:
        """Raise ConfigError for a refinement of maps that the localization doesn't make, and for sizes in vain."""
        if self.sizes not in (None, AUTO) and self.classifier.long_sides is not None:
            raise SettingError(self, ("classifier.long_side_min", "sizes"), "null, as sizes are to be tried")
        refinements = {"refine": self.refine} | {f"comparisons.{name}": one for name, one in self.comparisons.items()}
        for place, one in refinements.items():
            if one.maps not in kinds_of(self.localize):
                expected = f"{self.localize.method}, the maps of localize.method: {self.localize.method}"
                raise SettingError(self, (f"{place}.maps", "localize.method"), expected)

    def section(self, stage: Stage) -> Any:
        """The settings of a stage that has a section of its own; its defaults where the recipe has none."""
        return self.extra.get(stage.section) or stage.config()


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by path, or by the name of one that comes along; `overrides` are like "classifier.epochs=3".

    `like: NAME` in a recipe begins from another one, which it changes. `backbone: NAME`, in the file or as an
    override, stands for the settings of a preset (presets.py): those of the file give way, other overrides don't.
    `variants` are changes over the recipe by name, of which `variant: NAME` takes one; what a recipe that is `like`
    another says itself, and overrides, come before them. ConfigError names the key, the file, the line and the
    nearest valid key.
    """
    path = find_recipe(path)
    values, lines = _with_base(path)
    own = [text for text in overrides if text.partition("=")[0].strip().partition(".")[0] in (VARIANT, VARIANTS)]
    overrides = [text for text in overrides if text not in own]
    known = bool(values.get(VARIANTS))
    values = with_overrides(values, own, lines)
    variants, name = values.pop(VARIANTS, None) or {}, values.get(VARIANT, "")
    if not known and (own or name == AUTO):
        raise ConfigError(f"{where(str(path), lines, (VARIANT,))}: the recipe has no {VARIANTS} to choose from")
    if not known:
        return _built(values, overrides, str(path), lines)  # a run's own recipe names the one that it took
    _check_variants(name, variants, where(str(path), lines, (VARIANT,)))
    names = list(variants) if name == AUTO else [name] if name else []
    made = {}
    for one in names:
        changed = with_changes(values, variants[one]) | {VARIANT: one}
        here = {place[2:]: line for place, line in lines.items() if place[:2] == (VARIANTS, one)}
        made[one] = _built(changed, overrides, str(path), lines | here)
    if not names:
        return _built(values, overrides, str(path), lines)
    first = made[names[0]]
    return dataclasses.replace(first, variant=AUTO, alternatives=made) if name == AUTO else first


def _check_variants(name: Any, variants: Any, there: str) -> None:
    """Raise ConfigError for variants that are no sections, and for the name of one that isn't among them."""
    if not isinstance(variants, dict) or not all(isinstance(changes, dict) for changes in variants.values()):
        raise ConfigError(f"{there}: {VARIANTS} is {variants!r}; expected changes over the recipe by name")
    if name == AUTO and not {LARGE, SMALL} <= set(variants):
        raise ConfigError(
            f"{there}: {VARIANT} is 'auto', which tells {LARGE} from {SMALL}; name one of the {VARIANTS}"
        )
    if name and name != AUTO and name not in variants:
        known = [AUTO, *variants]
        hint = did_you_mean(str(name), known)
        raise ConfigError(f"{there}: {VARIANT} is {name!r}; expected one of {', '.join(known)}{hint}")


def _built(values: dict[str, Any], overrides: Sequence[str], source: str, lines: Lines) -> Recipe:
    """The recipe of plain values, with a preset's and overrides over them."""
    lines = dict(lines)
    values, overrides = with_backbone(values, overrides, source, lines)
    values = expanded(with_overrides(values, overrides, lines), source, lines)
    sections = {stage.section: stage for stage in all_stages() if stage.section}
    extra: dict[str, Any] = {
        name: build(sections[name].config, values.pop(name), source=source, lines=lines, place=(name,))
        for name in list(values)
        if name in sections
    }
    return dataclasses.replace(build(Recipe, values, source=source, lines=lines), extra=extra)


def _with_base(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], Lines]:
    """The values of a recipe over those of the recipe that it is `like`; the lines are those of its own keys."""
    values, lines = load_yaml(path)
    base = values.pop(LIKE, None)
    if base is None:
        return values, lines
    there = where(str(path), lines, (LIKE,))
    if not isinstance(base, str) or path.resolve() in above:
        raise ConfigError(f"{there}: like is {base!r}; expected the name or file of another recipe")
    beside = path.parent / base
    try:
        found = beside if beside.is_file() else find_recipe(base)
    except ConfigError as error:
        raise ConfigError(f"{there}: like: {error}") from error
    before, _ = _with_base(found, (*above, path.resolve()))
    if isinstance(before.get(VARIANTS), dict):  # what this recipe says itself comes before what a variant says
        said = {key: value for key, value in values.items() if key not in (VARIANT, VARIANTS)}
        before[VARIANTS] = {name: with_changes(changes, said) for name, changes in before[VARIANTS].items()}
    return with_changes(before, values), lines


def recipe_mapping(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, as recipe.yaml and run.json have it."""
    return {**to_mapping(recipe), **{name: to_mapping(config) for name, config in recipe.extra.items()}}


def recipe_folder() -> Path:
    """Where the recipes of this installation lie: inside the package, or at the root of a clone."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"


def find_recipe(name: Path | str) -> Path:
    """Return the path of a recipe given by path or by name; ConfigError with the nearest known name."""
    if Path(name).is_file():
        return Path(name)
    known = {path.stem: path for path in recipe_folder().glob("*.yaml")}
    if str(name) in known:
        return known[str(name)]
    raise ConfigError(f"{name}: no such recipe file or name{did_you_mean(Path(name).stem, known)}")


def is_recipe(name: Path | str) -> bool:
    """Whether `name` is a recipe's file, or the name of one that comes along."""
    return Path(name).is_file() or str(name) in {path.stem for path in recipe_folder().glob("*.yaml")}


@dataclass(frozen=True)
class Splits:
    """The images that a run learns from and the held-out ones."""

    train: Dataset
    val: Dataset | None
    limited_to: int | None
    unassigned: int = 0  # images that belong to no split although others do: they are in neither


def read_splits(recipe: Recipe, root: Path, limit: int | None = None) -> Splits:
    """Read the data set of a recipe and take its splits; without split names all images are for training.

    So are those without one where only held-out images are named. Where both kinds are, they are left out.
    """
    dataset = recipe.data.applied(read_dataset(root, **recipe.data.how_to_read()), recipe.seed)
    splits = {record.split for record in dataset.records}
    train_split, val_split = recipe.data.train_split, recipe.data.val_split
    rest_trains = "" in splits and "train" not in splits and train_split == DataConfig.train_split
    unassigned = sum(not record.split for record in dataset.records) if not rest_trains else 0
    if rest_trains and splits == {""}:
        train, unassigned = dataset, 0
    else:
        train = dataset.select("" if rest_trains else train_split)
    # a set may do without the usual val; whoever names another split means one that is there
    held_out = val_split in splits - {""} or val_split != DataConfig.val_split
    val = dataset.select(val_split) if held_out else None
    if limit is not None:
        train = train.limit(limit, recipe.seed)
    if val is not None and recipe.data.val_limit is not None:
        val = val.limit(recipe.data.val_limit, recipe.seed)
    return Splits(train, val, limit, unassigned)
