"""`tag2mask new`: what a folder is taken for, what is chosen for it, and that the recipe does as it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.cli import main
from tag2mask.common.errors import ConfigError
from tag2mask.data.findings import before_training
from tag2mask.data.settings import DataConfig, read_set
from tag2mask.draft import draft, free_name
from tag2mask.recipe import load_recipe, read_splits

ROWS = ["cat", "dog", "cat;dog", "", "healthy"]


def write_set(folder: Path, values: dict[str, int], *, zero: int = 0) -> Path:
    """Photos with a table of labels, and masks in which the classes have these numbers."""
    rng = np.random.default_rng(0)
    (folder / "masks").mkdir(parents=True)
    lines = ["image,labels"]
    for number in range(20):
        labels = ROWS[number % 5]
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / f"{number}.png")
        mask = np.full((48, 64), zero, np.uint8)
        for place, name in enumerate(filter(None, labels.split(";"))):
            mask[:, 20 * place : 20 * place + 20] = values.get(name, 3)
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
        lines.append(f"{number}.png,{labels}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def as_drafted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> tuple[str, str]:
    """The recipe's text and what was said."""
    out = tmp_path / "mine.yaml"
    assert main(["new", str(folder), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8"), capsys.readouterr().out


def test_the_choices_stand_in_the_recipe_which_runs_as_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_set(tmp_path / "my pets", {"cat": 1, "dog": 2})
    text, said = as_drafted(folder, tmp_path, capsys)
    assert "is taken for 'csv'" in said
    assert "20 images" in said
    assert f"tag2mask run {tmp_path / 'mine.yaml'} --data '{folder}'" in said
    for expected in (
        "like: photos",
        "reader: csv",
        "classes: [cat, dog, healthy]",
        "negatives: true  # 4 of 20 photos hold none",
        "# negatives: [healthy]",
        "val_fraction: 0.2  # held out",
        "# long_side: [448, 640]  # photos have 64 pixels",
        "variant: auto",
        "# sizes: [640, 896]",
        "under 50 photos, which tags hardly teach: cat, dog, healthy",
    ):
        assert expected in text, expected
    recipe = load_recipe(tmp_path / "mine.yaml")
    (tmp_path / "tried.yaml").write_text(text.replace("# sizes", "sizes"), encoding="utf-8")
    assert load_recipe(tmp_path / "tried.yaml").sizes == (640, 896)
    assert recipe.name == "mine"
    assert recipe.segmenter == load_recipe("photos").segmenter
    splits = read_splits(recipe, folder)
    assert splits.val is not None
    assert splits.train.classes == ("cat", "dog", "healthy")
    assert len(splits.train) + len(splits.val) == 20
    assert not any(problem.fatal for problem in before_training(splits.train, splits.val))


def test_settings_that_the_check_proposes_are_tried(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text, said = as_drafted(write_set(tmp_path / "swapped", {"cat": 2, "dog": 1}), tmp_path, capsys)
    assert "mask_classes: [dog, cat, healthy]  # without it: tags and masks contradict each other in" in text
    assert "0 problem(s)" in said
    recipe = load_recipe(tmp_path / "mine.yaml")
    dataset = read_set(tmp_path / "swapped", recipe.data)
    assert dataset.classes == ("cat", "dog", "healthy")
    assert dataset.mask_lut[:4].tolist() == [0, 2, 1, 3]


def test_a_set_without_background_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_set(tmp_path / "land", {"cat": 1, "dog": 2}, zero=3)
    kept = [number for number in range(20) if number % 5 < 3]
    for number in set(range(20)) - set(kept):
        (folder / f"{number}.png").unlink()
        (folder / "masks" / f"{number}.png").unlink()
    rows = [f"{number}.png,{ROWS[number % 5]};healthy" for number in kept]
    (folder / "labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n", encoding="utf-8")
    text, _ = as_drafted(folder, tmp_path, capsys)
    assert "background: false  # without it: none of the 12 masks holds 0" in text
    assert not load_recipe(tmp_path / "mine.yaml").data.background


def test_nothing_is_overwritten_and_what_stops_a_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_set(tmp_path / "odd", {})
    for path in (folder / "masks").iterdir():
        Image.fromarray(np.full((48, 64), 200, np.uint8)).save(path)
    out = tmp_path / "odd.yaml"
    assert main(["new", str(folder), "--out", str(out), "--no-decode"]) == 1
    assert "! a run would stop at: " in capsys.readouterr().out
    before = out.read_bytes()
    assert main(["new", str(folder), "--out", str(out)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(["new", str(tmp_path / "nowhere")]) == 2


def test_settings_may_be_given_and_what_is_printed_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "it's; odd"
    for number, name in enumerate(("no/1.png", "yes/2.png", "yes/3.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (50 * number, 9, 9)).save(folder / name)
    (folder / "labels.xlsx").touch()
    assert main(["new", str(folder)]) != 0
    assert "say so by --set data.reader=folders" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    given = ["--set", "data.reader=folders", "--set", "data.negatives=['no']", "--set", "data.val_fraction=0.1"]
    assert main(["new", str(folder), "--out", "a b.yaml", *given]) == 0
    said = capsys.readouterr().out.strip().splitlines()[-1]
    assert shlex.split(said.partition("then: ")[2]) == ["tag2mask", "run", "a b.yaml", "--data", str(folder)]
    recipe = load_recipe(tmp_path / "a b.yaml")
    assert (recipe.data.reader, recipe.data.negatives, recipe.data.val_fraction) == ("folders", ("no",), 0.1)
    monkeypatch.chdir(folder)
    assert main(["new", ".", *given[:2]]) == 0
    assert "Drafted by `tag2mask new` for it's; odd:" in capsys.readouterr().out


def test_what_is_said_of_a_class_no_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number, name in enumerate(("0/1.png", "1/2.png", "no/3.png")):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (40, 40), (50 * number, 9, 9)).save(tmp_path / name)
    main(["data", "check", str(tmp_path)])
    options = re.findall(r'or (--set "[^"]+")', capsys.readouterr().out)
    assert len(options) == 1
    main(["data", "check", str(tmp_path), *shlex.split(options[0])])
    assert "negatives (none of the classes): 2 of 3 images" in capsys.readouterr().out


def test_a_check_refuses_a_split_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_set(tmp_path / "set", {"cat": 1, "dog": 2})
    assert main(["data", "check", str(folder), "--set", "data.train_split=foo"]) == 2
    assert "foo" in capsys.readouterr().err


def test_names_of_recipes(tmp_path: Path) -> None:
    assert free_name(tmp_path / "my photos (2)") == "my-photos-2"
    assert free_name(tmp_path / "листья") == "mine"


def test_a_recipe_may_begin_from_another(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("like: photos\nname: a\nclassifier: {epochs: 2}\n")
    (tmp_path / "b.yaml").write_text("like: a.yaml\nname: b\nrefine: {threshold: 0.4}\n")
    recipe, photos = load_recipe(tmp_path / "b.yaml"), load_recipe("photos")
    assert (recipe.name, recipe.classifier.epochs, recipe.refine.threshold) == ("b", 2, 0.4)
    assert recipe.localize == photos.localize
    assert recipe.classifier.tuned == photos.classifier.tuned
    (tmp_path / "a.yaml").write_text("name: a\nlike: b.yaml\n")
    with pytest.raises(ConfigError, match=r"a.yaml line 2: like is 'b.yaml'|b.yaml line 1: like is 'a.yaml'"):
        load_recipe(tmp_path / "b.yaml")
    (tmp_path / "a.yaml").write_text("name: a\nlike: photo\n")
    with pytest.raises(ConfigError, match="did you mean 'photos'"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("name: a\nlike: photos\nclassifier: {epocs: 3}\n")
    with pytest.raises(ConfigError, match=r"a.yaml line 3: unknown setting 'classifier.epocs'"):
        load_recipe(tmp_path / "a.yaml")


def test_every_case_of_the_shared_ones_gives_a_recipe_that_reads_the_same(tmp_path: Path, shared_dir: Path) -> None:
    folder = shared_dir / "leaves"
    if not folder.is_dir():
        pytest.skip(f"no photos at {folder}")
    found = draft(folder, "leaves", decode=False)
    assert found.stops == []
    (tmp_path / "leaves.yaml").write_text(found.recipe, encoding="utf-8")
    recipe = load_recipe(tmp_path / "leaves.yaml")
    assert recipe.data.classes == ("miner", "rust", "phoma", "cercospora")
    plain = read_set(folder, DataConfig(long_side=recipe.data.long_side, val_fraction=0.2))
    assert read_set(folder, recipe.data).digest() == plain.digest()
