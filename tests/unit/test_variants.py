"""Variants of a recipe: which settings come first, and how a trial on the photos' tags takes one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tag2mask import trial
from tag2mask.chain import open_chain
from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json, write_json
from tag2mask.data import Dataset, ImageRecord
from tag2mask.data.images import LongSide
from tag2mask.data.settings import DataConfig, read_set
from tag2mask.engine.execution import Execution
from tag2mask.networks.erasing import SHARES
from tag2mask.recipe import AUTO, load_recipe, recipe_mapping
from tag2mask.trial import Tried, divided, epochs_of
from tiny_run import write_photos

RECIPE = """
name: two
seed: 1
data: {mask_classes: [cat, cow, person]}
classifier: {backbone: resnet18, weights: none, epochs: 1, batch_size: 4, long_side_min: 48, long_side_max: 48,
             crop_size: 48, tuned: all}
localize: {rib: {preset: fast, scales: [1.0], loss_scales: [1.0]}}
variant: auto
variants:
  large: {classifier: {pooling: ranking, epochs: 2}, refine: {maps: rib, threshold: 0.4}}
  small: {data: {long_side: 40}, classifier: {pooling: maximum}, localize: {method: cam}, refine: {maps: cam}}
"""
EXECUTION = Execution("cpu", workers=0, processes=1)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe's file."""
    path = tmp_path / "two.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_one_is_taken_by_name(recipe: Path) -> None:
    small = load_recipe(recipe, ["variant=small"])
    assert (small.variant, small.classifier.pooling, small.data.long_side) == ("small", "maximum", 40)
    assert small.classifier.epochs == 1  # what a variant doesn't name is the recipe's
    assert not small.alternatives
    assert recipe_mapping(small)["variant"] == "small"


def test_overrides_come_before_a_variant(recipe: Path) -> None:
    assert load_recipe(recipe, ["refine.threshold=0.2", "variant=large"]).refine.threshold == 0.2
    changed = load_recipe(recipe, ["variants.small.classifier.epochs=9"]).alternatives
    assert (changed["small"].classifier.epochs, changed["large"].classifier.epochs) == (9, 2)
    found = load_recipe(recipe, ["classifier.pooling=log-sum-exp"])
    assert {name: one.classifier.pooling for name, one in found.alternatives.items()} == {
        "large": "log-sum-exp",
        "small": "log-sum-exp",
    }


def test_what_a_recipe_says_itself_comes_before_the_variants_of_the_one_that_it_is_like(
    recipe: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("like: two.yaml\nname: own\nrefine: {threshold: 0.3}\nvariant: large\n", encoding="utf-8")
    assert load_recipe(own).refine.threshold == 0.3
    assert load_recipe(own).classifier.epochs == 2
    own.write_text("like: two.yaml\nname: own\nvariants: {small: {classifier: {epochs: 7}}}\n", encoding="utf-8")
    found = load_recipe(own).alternatives["small"].classifier
    assert (found.epochs, found.pooling) == (7, "maximum")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("", ["variant=smal"], "--set variant=smal: variant is 'smal'; expected .*auto, large, small.*'small'"),
        ("", ["variants.small.classifier.epochs=-2"], "--set variants.small.*: classifier.epochs is -2"),
        ("name: x\nvariant: large\n", ["variant=small"], "--set variant=small: the recipe has no variants"),
        ("name: x\nvariant: auto\n", [], "own.yaml line 2: the recipe has no variants"),
        ("like: two.yaml\nname: x\nvariant: tiny\n", [], "own.yaml line 3: variant is 'tiny'"),
        ("like: two.yaml\nname: x\nvariants: {small: 3}\n", [], "variants is .*expected changes over the recipe"),
        (
            "name: x\nvariant: auto\nvariants: {a: {}}\n",
            [],
            "line 2: variant is 'auto', which tells large from small",
        ),
        ("name: x\nvariant: a\nvariants: {a: {classifier: {epocs: 2}}}\n", [], "line 3: unknown setting .*epocs"),
        ("name: x\nvariant: a\nvariants: {a: {classifier: {epochs: -2}}}\n", [], "line 3: classifier.epochs is -2"),
    ],
)
def test_mistakes_are_named(recipe: Path, tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text or RECIPE, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_recipe(own, overrides)


@pytest.mark.parametrize(("bound", "expected"), [(0.0, "large"), (1.01, "small")])
def test_the_trial_decides_and_the_run_keeps_it(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: float, expected: str
) -> None:
    monkeypatch.setattr(trial, "LEFT", bound)
    write_photos(tmp_path / "farm")
    out, loaded, said = tmp_path / "run", load_recipe(recipe), list[str]()
    assert loaded.variant == AUTO
    chain = open_chain(loaded, tmp_path / "farm", out, execution=EXECUTION, say=said.append)
    made = read_json(out / "trial" / "large" / "manifest.json")
    assert (made["config"]["pooling"], made["validation_images"]) == ("average", 3)
    left = made["localization_criterion"]["erased"][0]
    assert 0 < left <= 1
    assert chain.context.recipe == loaded.alternatives[expected]
    assert read_json(out / "run.json")["recipe"]["variant"] == expected
    assert any(f"variant {expected}: " in line and f"{100 * left:.0f} % of a tag's score" in line for line in said)

    weights = out / "trial" / "large" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    again = open_chain(loaded, tmp_path / "farm", out, execution=EXECUTION, say=said.append)
    assert again.context.recipe == chain.context.recipe
    assert weights.stat().st_mtime_ns == before
    own = load_recipe(out / "recipe.yaml")  # as commands that are only given the run's folder read it
    assert recipe_mapping(own) == recipe_mapping(chain.context.recipe)


def test_small_things_are_gone_when_a_twentieth_of_the_photo_is_erased(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trial reads is what the criterion measures: the smallest share first."""
    assert SHARES[0] == 0.05
    looks = {"erased": [0.6, 0.4, 0.3], "criterion": 0.9}
    monkeypatch.setattr(trial, "train_classifier", lambda *_, **__: None)
    monkeypatch.setattr(trial, "read_manifest", lambda *_: {"localization_criterion": looks})
    write_photos(tmp_path / "farm")
    loaded = load_recipe(recipe)
    train = read_set(tmp_path / "farm", loaded.data).select("train")
    for erased, expected in (([0.6, 0.9, 0.9], "small"), ([0.9, 0.4, 0.3], "large"), ([], "large")):
        looks["erased"] = erased
        found = trial.decided(loaded, train, tmp_path / "out", EXECUTION, lambda _: None)
        assert found.variant == expected


def test_a_trial_is_told_by_photos_that_it_did_not_learn(tmp_path: Path) -> None:
    write_photos(tmp_path / "farm")
    train = read_set(tmp_path / "farm", DataConfig(mask_classes=("cat", "cow", "person"))).select("train")
    learned, others = divided(train, 0)
    assert len(learned) == 6
    assert {record.id for record in learned.records} | {record.id for record in others.records} == {
        record.id for record in train.records
    }
    assert not {record.id for record in learned.records} & {record.id for record in others.records}
    one = dataclasses.replace(train, records=train.records[:1])
    assert divided(one, 0) == (one, one)


@pytest.mark.parametrize(
    ("long_side", "words", "more"),
    [
        ((128, 256), "at 128 to 256 pixels", 4.0),  # photos of 64 x 48 pixels are twice as long and twice as high
        (32, "at 32 pixels at most", 0.25),
        (None, "at their own size", 1.0),
    ],
)
def test_a_training_takes_as_much_longer_as_it_sees_more_pixels(
    recipe: Path, tmp_path: Path, long_side: LongSide, words: str, more: float
) -> None:
    write_photos(tmp_path / "farm")
    loaded = load_recipe(recipe)
    train = read_set(tmp_path / "farm", loaded.data).select("train")
    (tmp_path / "log.jsonl").write_text(
        "".join(
            json.dumps({"epoch": k, "step": k, "train_loss": 1.0, "lr": 0.1, "seconds": seconds}) + "\n"
            for k, seconds in ((1, 90.0), (2, 60.0))
        )
    )
    whole = dataclasses.replace(loaded.classifier, epochs=5, long_side_min=None, long_side_max=None)
    taken = dataclasses.replace(loaded, data=dataclasses.replace(loaded.data, long_side=long_side), classifier=whole)
    minutes = trial.expected_minutes(taken, train, train, tmp_path, whole)
    assert minutes == pytest.approx(5 * more)  # an epoch of the trial took a minute
    tuned = dataclasses.replace(whole, tuned="all")
    quicker = dataclasses.replace(taken, classifier=dataclasses.replace(whole, tuned="late"))
    shorter = trial.expected_minutes(quicker, train, train, tmp_path, tuned)
    assert shorter is not None
    assert 5 * more / 2 < shorter < 5 * more  # early features have no gradients
    halved = dataclasses.replace(taken, classifier=dataclasses.replace(whole, stages=(4,)))
    shallow = trial.expected_minutes(halved, train, train, tmp_path, whole)
    assert shallow is not None
    assert shallow < 5 * more / 2  # and half of a step is the last stage's
    joined = dataclasses.replace(taken, classifier=dataclasses.replace(whole, stages=(4, 5)))
    assert trial.expected_minutes(joined, train, train, tmp_path, whole) == pytest.approx(5 * more)
    assert trial.in_words(long_side) == words
    drawn = dataclasses.replace(taken, classifier=dataclasses.replace(whole, long_side_min=32, long_side_max=64))
    assert trial.expected_minutes(drawn, train, train, tmp_path, whole) is None
    assert trial.expected_minutes(taken, train, train, tmp_path / "nothing", whole) is None


@pytest.mark.parametrize(
    ("precisions", "criteria", "best"),
    [
        ((0.738, 0.777, 0.740), (0.05, 0.11, 0.24), 320),  # tags are told about as well: where it looks decides
        ((0.70, 0.777, 0.60), (0.05, 0.11, 0.24), 224),  # the last looks well at what it hardly knows
        ((0.7, 0.7, 0.7), (0.2, 0.2, 0.2), 160),  # the smallest costs least
    ],
)
def test_the_best_size_tells_tags_and_looks_at_things(
    precisions: tuple[float, ...], criteria: tuple[float, ...], best: int
) -> None:
    found = zip((160, 224, 320), precisions, criteria, strict=True)
    assert trial.best_of([Tried(size, told, looks, None) for size, told, looks in found]).long_side == best


@pytest.mark.parametrize("variant", ["auto", "small"])
def test_sizes_are_tried_and_the_run_keeps_the_best(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    monkeypatch.setattr(trial, "LEFT", 1.01)  # small
    write_photos(tmp_path / "farm")
    out, said = tmp_path / "run", list[str]()
    free = ["classifier.long_side_min=null", "classifier.long_side_max=null"]
    loaded = load_recipe(recipe, [f"variant={variant}", "sizes=[48,64]", *free])
    chain = open_chain(loaded, tmp_path / "farm", out, execution=EXECUTION, say=said.append)
    manifests = {size: read_json(out / "trial" / f"size_{size}" / "manifest.json") for size in (48, 64)}
    assert {made["config"]["pooling"] for made in manifests.values()} == {"maximum"}  # the variant's own
    tried = [
        Tried((size, size), made["validation_map"], made["localization_criterion"]["criterion"], None)
        for size, made in manifests.items()
    ]
    size = trial.best_of(tried).long_side
    assert chain.context.recipe.data.long_side == size
    assert {record.long_side for record in chain.context.train.records} == {size}
    assert chain.context.recipe.sizes is None
    told = [line for line in said if "localization criterion" in line]
    assert [f"mAP {one.precision:.3f}" in line for one, line in zip(tried, told, strict=True)] == [True, True]

    weights = out / "trial" / "size_64" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    again = open_chain(loaded, tmp_path / "farm", out, execution=EXECUTION, say=said.append)
    assert again.context.recipe == chain.context.recipe
    assert weights.stat().st_mtime_ns == before
    assert recipe_mapping(load_recipe(out / "recipe.yaml")) == recipe_mapping(chain.context.recipe)


def test_sizes_in_vain_are_refused(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"classifier\.long_side_min is 48; expected null, as sizes are"):
        load_recipe(recipe, ["sizes=[48,64]"])
    assert load_recipe(recipe, ["sizes=auto"]).sizes == AUTO  # leaves open what there is to leave open
    with pytest.raises(ConfigError, match=r"sizes is 'all'; expected .*'auto'"):
        load_recipe(recipe, ["sizes=all"])


FREE = ["variant=small", "sizes=auto", "classifier.long_side_min=null", "classifier.long_side_max=null"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["data.long_side=[48,128]"], ((48, 48), (48, 128))),  # the photos have 64 pixels
        (["data.long_side=[32,40]"], ((32, 32), (32, 40))),
        (["data.long_side=[60,128]"], ()),  # as good as no larger than the least
        (["data.long_side=[96,128]"], ()),  # smaller: they are enlarged
        (["data.long_side=[48,48]"], ()),
        (["data.long_side=48"], ()),  # the size that somebody asks for
        (["data.long_side=null"], ()),
        (["data.long_side=[48,128]", "sizes=null"], ()),
        (["data.long_side=[48,128]", "sizes=[32,40,48]"], ((32, 32), (40, 40), (48, 48))),
        (["data.long_side=[48,128]", "classifier.long_side_min=32", "classifier.long_side_max=48"], ()),
    ],
)
def test_sizes_left_open_are_those_that_the_photos_have(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], expected: tuple[LongSide, ...]
) -> None:
    monkeypatch.setattr(trial, "TELLING", 9)
    write_photos(tmp_path / "farm")
    loaded = load_recipe(recipe, [*FREE, *settings])
    assert trial.sizes_of(loaded, read_set(tmp_path / "farm", loaded.data).select("train")) == expected


@pytest.mark.parametrize(("better", "chosen"), [(48, (48, 48)), (64, (48, 128))])
def test_a_size_left_open_is_chosen_and_kept(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: int, chosen: LongSide
) -> None:
    """Photos larger than the least are tried at that and as they are; the run says so and keeps what it chose."""
    monkeypatch.setattr(trial, "TELLING", 9)
    write_photos(tmp_path / "farm")
    found, said = list[int](), list[str]()

    def best_of(tried: list[Tried]) -> Tried:
        found.extend(int(trial.bounds_of(one.long_side)[1]) for one in tried)
        return tried[better == 64]

    monkeypatch.setattr(trial, "best_of", best_of)
    loaded = load_recipe(recipe, [*FREE, "data.long_side=[48,128]"])
    out = tmp_path / "run"
    chain = open_chain(loaded, tmp_path / "farm", out, execution=EXECUTION, say=said.append)
    assert found == [48, 128]
    assert sorted(path.name for path in (out / "trial").iterdir()) == ["size_48", "size_48_128"]
    assert chain.context.recipe.data.long_side == chosen
    assert chain.context.recipe.sizes is None
    assert any("photos are worked on at 48" in line and "are highest" in line for line in said)
    own = load_recipe(out / "recipe.yaml")
    assert (own.data.long_side, own.sizes) == (chosen, None)


@pytest.mark.parametrize(
    ("photos", "long_side"),
    [(9, (96, 128)), (10, (48, 128))],  # nothing to choose; too few photos to tell
)
def test_where_no_size_is_left_open_none_is_tried(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: int, long_side: tuple[int, int]
) -> None:
    monkeypatch.setattr(trial, "TELLING", photos)
    write_photos(tmp_path / "farm")
    loaded = load_recipe(recipe, [*FREE, f"data.long_side={list(long_side)}"])
    chain = open_chain(loaded, tmp_path / "farm", tmp_path / "run", execution=EXECUTION, say=lambda _: None)
    assert not (tmp_path / "run" / "trial").exists()
    assert (chain.context.recipe.data.long_side, chain.context.recipe.sizes) == (long_side, None)


@pytest.mark.parametrize(("long_side", "said"), [(32, True), ((32, 60), False), (None, False)])
def test_photos_made_much_smaller_are_told_of(tmp_path: Path, long_side: LongSide, said: bool) -> None:
    write_photos(tmp_path / "farm")  # 64 pixels wide
    train = read_set(tmp_path / "farm", DataConfig(mask_classes=("cat", "cow", "person"))).select("train")
    lines = list[str]()
    trial.say_of_larger(train, long_side, lines.append)
    assert [("0.50 of their size" in line, "sizes=[32,45]" in line) for line in lines] == [(True, True)] * said


def test_a_run_killed_in_its_trial_goes_on(recipe: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "farm")
    first, cut, loaded = tmp_path / "first", tmp_path / "cut", load_recipe(recipe)
    whole = open_chain(loaded, tmp_path / "farm", first, execution=EXECUTION, say=lambda _: None)
    (cut / "trial" / "large").mkdir(parents=True)  # as it is before its first file is whole
    chain = open_chain(loaded, tmp_path / "farm", cut, execution=EXECUTION, say=lambda _: None)
    assert chain.context.recipe == whole.context.recipe
    file = Path("trial") / "large" / "weights.safetensors"
    assert (cut / file).read_bytes() == (first / file).read_bytes()


def test_a_folder_with_something_else_is_refused_before_the_trial(recipe: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "farm")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and not a run's folder"):
        open_chain(load_recipe(recipe), tmp_path / "farm", tmp_path / "out", execution=EXECUTION)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_step_that_comes_too_early_is_refused_before_the_trial(recipe: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "farm")
    for step in ("localize", "predict", "evaluate"):
        with pytest.raises(ConfigError, match=r"run .*first"):
            open_chain(load_recipe(recipe), tmp_path / "farm", tmp_path / "out", execution=EXECUTION, step=step)
        assert not (tmp_path / "out").exists()
    open_chain(load_recipe(recipe), tmp_path / "farm", tmp_path / "out", execution=EXECUTION, step="train-classifier")
    assert (tmp_path / "out" / "run.json").is_file()


@pytest.mark.parametrize(("photos", "epochs"), [(160, 3), (107, 5), (53, 10), (1, 24)])
def test_a_small_set_is_gone_over_more_often(tmp_path: Path, photos: int, epochs: int) -> None:
    records = tuple(ImageRecord(str(number), tmp_path / f"{number}.jpg", (0,), "train") for number in range(photos))
    assert epochs_of(Dataset("set", ("spot",), records), tmp_path, trial.ENOUGH) == epochs
    write_json(tmp_path / "manifest.json", {"stage": "train-classifier", "config": {"epochs": 2}})
    begun = epochs_of(Dataset("set", ("spot",), records), tmp_path, trial.ENOUGH)
    assert begun == 2  # a trial that was begun goes on
