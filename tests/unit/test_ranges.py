"""Every setting has a range or a stated reason; a value outside is refused with section, key, place and range."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml

from tag2mask.cli import main
from tag2mask.common.errors import ConfigError
from tag2mask.config import Free, Range, Settings, build, hints_of
from tag2mask.experiments.demo_data import SceneSettings
from tag2mask.experiments.hgr.hgr import HGRConfig
from tag2mask.experiments.toy import ToyConfig
from tag2mask.recipe import Recipe, load_recipe
from tag2mask.refine.crf import CRFParameters
from tag2mask.refine.pamr import PAMRParameters

OTHERS = (ToyConfig, HGRConfig, SceneSettings, CRFParameters, PAMRParameters)


class Field(typing.NamedTuple):
    """One setting."""

    owner: type
    place: tuple[str, ...]  # the path in a recipe; comparisons stand under a name
    hint: Any

    @property
    def notes(self) -> tuple[Any, ...]:
        return typing.get_args(self.hint)[1:] if typing.get_origin(self.hint) is Annotated else ()

    @property
    def range(self) -> Range | None:
        return next((note for note in self.notes if isinstance(note, Range)), None)

    @property
    def is_whole(self) -> bool:
        return "int" in str(typing.get_args(self.hint)[0])


def fields_of(cls: type, place: tuple[str, ...] = ()) -> Iterator[Field]:
    """All settings of a config dataclass and of the sections inside it."""
    for name, hint in hints_of(cls).items():
        inner, here = hint, (*place, name)
        if typing.get_origin(hint) is dict:
            inner, here = typing.get_args(hint)[1], (*here, "other")
        sections = [one for one in typing.get_args(inner) if isinstance(one, type) and dataclasses.is_dataclass(one)]
        inner = sections[0] if sections else inner  # a section, or null
        if dataclasses.is_dataclass(inner):
            yield from fields_of(typing.cast(type, inner), here)
        else:
            yield Field(cls, here, hint)


FIELDS = [*fields_of(Recipe), *(field for cls in OTHERS for field in fields_of(cls))]
RANGED = [field for field in FIELDS if field.range is not None]
NAMES = [f"{field.owner.__name__}-{'.'.join(field.place)}" for field in RANGED]


def just_outside(field: Field) -> list[Any]:
    """The values nearest to a range on either side, then what is no finite number; in a list where it takes lists."""
    span = field.range
    assert span is not None
    step = 1 if field.is_whole else 1e-9 * max(1.0, *(abs(bound or 0) for bound in (span.ge, span.le)))
    numbers: list[Any] = [bound for bound in (span.gt, span.lt) if bound is not None]
    numbers += [] if span.ge is None else [span.ge - step]
    numbers += [] if span.le is None else [span.le + step]
    if not field.is_whole:
        numbers = [*map(float, numbers), math.nan, math.inf, -math.inf]
    if span.items is None:
        return numbers
    fewest, most = span.items
    default = default_of(field)
    inside = next(iter(default)) if default else span.ge or 0
    counts = [count for count in (fewest - 1, most + 1) if count >= 0]
    return [[value] * max(1, fewest) for value in numbers] + [[inside] * count for count in counts]


def default_of(field: Field) -> Any:
    return next(f.default for f in dataclasses.fields(field.owner) if f.name == field.place[-1])


def test_the_walk_reaches_every_section() -> None:
    places = {".".join(field.place) for field in FIELDS}
    assert {
        "seed",
        "data.long_side",
        "localize.rib.tau",
        "refine.boundary.radius",
        "refine.walk.times",
        "refine.saliency.onnx.std",
        "comparisons.other.walk.times",
        "predict.scales",
    } <= places
    assert len(RANGED) > 140
    assert all(issubclass(field.owner, Settings) for field in FIELDS)


def test_every_setting_has_a_range_or_a_reason() -> None:
    without = [
        f"{field.owner.__name__}.{field.place[-1]}"
        for field in FIELDS
        if not (field.hint is bool or typing.get_origin(field.hint) is Literal)
        and field.range is None
        and not any(isinstance(note, Free) and note.reason for note in field.notes)
    ]
    assert without == []


def test_numbers_have_ranges_whatever_the_reason() -> None:
    numbers = [field for field in FIELDS if re.search(r"\b(int|float)\b", str(field.hint)) and field.range is None]
    assert [".".join(field.place) for field in numbers if not re.search("Literal|dict", str(field.hint))] == []
    for field in RANGED:
        assert field.range.ge is not None or field.range.gt is not None, field.place


@pytest.mark.parametrize("field", RANGED, ids=NAMES)
def test_a_value_just_outside_is_refused_in_python(field: Field) -> None:
    required = {"name": "x"} if field.owner is Recipe else {}
    key = field.place[-1]
    values = just_outside(field)
    assert values
    for value in values:
        given = tuple(value) if isinstance(value, list) else value
        with pytest.raises(ConfigError) as error:
            field.owner(**required, **{key: given})
        assert re.match(rf"\w+\.{key} is ", str(error.value))
        assert f" is {value!r}; expected {field.range}" in str(error.value)


@pytest.mark.parametrize("field", [field for field in RANGED if field.owner not in OTHERS])
def test_a_value_just_outside_is_refused_in_a_recipe_with_file_and_line(field: Field, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for value in just_outside(field):
        inner: Any = value
        for key in reversed(field.place):
            inner = {key: inner}
        path.write_text("name: x\n" + yaml.safe_dump(inner))
        line = 1 + len(field.place)
        with pytest.raises(ConfigError) as error:
            load_recipe(path)
        place = f"{path} line {line}: {'.'.join(field.place)} is {value!r}; expected {field.range}"
        assert str(error.value).startswith(place)


@pytest.mark.parametrize("field", [field for field in RANGED if field.owner not in OTHERS])
def test_a_value_just_outside_is_refused_on_the_command_line(field: Field, tmp_path: Path) -> None:
    path, value = tmp_path / "mine.yaml", just_outside(field)[0]
    path.write_text("name: x\n")
    change = f"{'.'.join(field.place)}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"
    with pytest.raises(ConfigError) as error:
        load_recipe(path, [change])
    key = ".".join(field.place)
    assert str(error.value).startswith(f"--set {change}: {key} is {value!r}; expected {field.range}")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "localize:\n  partner_long_side_min: 900",
            3,
            "localize.partner_long_side_min is 900; expected at most partner_long_side_max, 640",
        ),
        (
            "localize:\n  partner_crop_size: 64\n  partner_long_side_max: 100",
            4,
            "localize.partner_long_side_min is 320; expected at most partner_long_side_max, 100",
        ),
        ("classifier: {long_side_max: 8}", 2, "classifier.long_side_min is 320; expected at most long_side_max, 8"),
        ("segmenter:\n  scale_max: 0.1", 3, "segmenter.scale_min is 0.5; expected at most scale_max, 0.1"),
        (
            "segmenter:\n  batch_size: 4\n  accumulate: 5",
            4,
            "segmenter.accumulate is 5; expected at most batch_size, 4",
        ),
        (
            "refine:\n  confident:\n    background: 0.5",
            4,
            "refine.confident.background is 0.5; expected at most foreground, 0.35",
        ),
        (
            "refine:\n  boundary:\n    scale_min: 2",
            4,
            "refine.boundary.scale_min is 2.0; expected at most scale_max, 1.5",
        ),
        (
            "refine:\n  boundary:\n    crop_size: 72",
            4,
            "refine.boundary.crop_size is 72; expected 73 or more pixels with radius 10",
        ),
        (
            "refine:\n  boundary:\n    radius: 64\n    crop_size: 504",
            5,
            "refine.boundary.crop_size is 504; expected 505 or more pixels with radius 64",
        ),
        (
            "refine:\n  method: irn\n  walk:\n    threshold: 0.9\n  unsure: 0.2",
            6,
            "refine.unsure is 0.2; expected below walk.threshold, 0.9, and below 1 - walk.threshold",
        ),
        (
            "refine:\n  method: irn\n  unsure: 0.2\ncomparisons:\n  low:\n    walk:\n      threshold: 0.1",
            8,
            "comparisons.low.unsure is 0.2; expected below walk.threshold, 0.1",
        ),
        ("localize:\n  method: cam", 3, "refine.maps is 'rib'; expected cam, the maps of localize.method: cam"),
        (
            "localize: {method: cam}\nrefine: {maps: cam}\ncomparisons:\n  other:\n    maps: rib",
            6,
            "comparisons.other.maps is 'rib'; expected cam, the maps of localize.method: cam",
        ),
        (
            "localize:\n  rib:\n    loss_scales: [1.0, 3.0]",
            4,
            "localize.rib.loss_scales is [1.0, 3.0]; expected some of scales, [1.0, 0.5, 1.5, 2.0]",
        ),
        (
            "localize:\n  rib:\n    first_map: false\n    steps: 1",
            5,
            "localize.rib.steps is 1; expected 2 or more with first_map: false",
        ),
    ],
)
def test_settings_at_odds_name_the_first_that_is_written(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: x\n{text}\n")
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path} line {line}: {message}")


def test_the_place_is_that_of_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nlocalize:\n  partner_long_side_min: 200\n  rib: {steps: 4, tau: 0.3}\n")
    for change, place, message in (
        (
            "localize.partner_long_side_max=100",
            f"{path} line 3",
            "localize.partner_long_side_min is 200; expected at",
        ),
        ("localize={partner_long_side_min: 900}", None, "localize.partner_long_side_min is 900; expected at most"),
        ("localize.rib={tau: 3}", None, "localize.rib.tau is 3.0; expected above 0, at most 1"),
        ("localize.rib.tua=0.3", None, "unknown setting 'localize.rib.tua'; did you mean 'tau'"),
        ("classifier.epochs=few", None, "classifier.epochs is 'few'; expected a whole number"),
    ):
        with pytest.raises(ConfigError) as error:
            load_recipe(path, [change])
        assert str(error.value).startswith(f"{place or f'--set {change}'}: {message}")
    # a preset on the command line replaces the file's section, so nothing in it is to blame
    assert load_recipe(path, ["localize.rib.preset=coco"]).localize.rib.tau == 0.5


def test_the_known_holes_are_refused_before_the_data_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for change in ("localize.partner_long_side_min=900", "refine.walk.times=20"):
        command = ["run", "photos", "--data", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]
        assert main([*command, "--set", change]) == 2
        key, value = change.split("=")
        assert f"--set {change}: {key} is {value}; expected " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_types_are_checked_in_python_too() -> None:
    with pytest.raises(ConfigError, match=r"^toy.epochs is 2.5; expected a whole number$"):
        ToyConfig(epochs=2.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^hgr.split is 'test'; expected one of 'train', 'val'$"):
        HGRConfig(split="test")  # type: ignore[arg-type]
    assert ToyConfig(learning_rate=1).learning_rate == 1
    assert HGRConfig(steps=None).steps is None


def test_ranges_in_words() -> None:
    assert str(Range(ge=1)) == "1 or more"
    assert str(Range(gt=0, lt=1, note="of the peak")) == "above 0, below 1 of the peak"
    assert str(Range(ge=1, le=9, items=(3, 3))) == "a list of 3 numbers, each 1 or more, at most 9"
    assert str(Range(gt=0, items=(1, 4))) == "a list of 1 to 4 numbers, each above 0"
    assert not Range(ge=0).holds(math.inf)
    assert not Range(ge=0).holds(math.nan)
    assert Range(ge=0).holds(10**400)


def test_a_place_without_a_line_is_its_section_and_without_a_file_its_source() -> None:
    @dataclasses.dataclass(frozen=True)
    class Tiny(Settings):
        count: Annotated[int, Range(ge=1)] = 1

    with pytest.raises(ConfigError, match=r"^there line 7: tiny.count is 0; expected 1 or more$"):
        build(Tiny, {"count": 0}, source="there", lines={("tiny",): 7}, place=("tiny",))
    with pytest.raises(ConfigError, match=r"^settings: count is 0; expected 1 or more$"):
        build(Tiny, {"count": 0})
