"""Further pseudo-masks on finished maps, beside the first ones; choosing one, and what follows it."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from tag2mask import choices
from tag2mask.chain import open_chain
from tag2mask.choices import another, as_chosen, choose, name_of, read_choices
from tag2mask.cli import main
from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json, write_json
from tag2mask.data import read_mask
from tag2mask.engine.execution import Execution
from tag2mask.recipe import load_recipe
from tag2mask.runs.decisions import append
from tag2mask.runs.lock import alone_in
from tiny_run import copy_run

HERE = Execution("cpu", workers=0, processes=1)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run that may be changed, whose boundary network needs no weights of another folder."""
    return copy_run(finished_run, tmp_path, networks=True)


def masks_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "masks").glob("*.png")}


def covered(folder: Path) -> int:
    return sum(int(np.count_nonzero(read_mask(path) % 255)) for path in (folder / "masks").glob("*.png"))


def refine_with(run: Path, *overrides: str) -> str:
    name, found = another(run, overrides)
    recipe = found.over(load_recipe(run / "recipe.yaml"))
    chain = open_chain(recipe, run.parent / "farm", run, execution=HERE, say=lambda _: None)
    found.save(run)
    chain.run_stage("refine")
    return name


def test_a_wrong_refinement_leaves_no_trace(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", str(run.parent / "farm"), "--set", "refine.method=none"]
    assert main(["refine", str(run), *options, "--set", "refine.thresholds={cwo: 0.3}"]) == 2
    assert "no class 'cwo'; did you mean 'cow'" in capsys.readouterr().err
    assert not (run / "choices.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr("tag2mask.refine.methods.crf_available", lambda: False)
        assert main(["refine", str(run), *options[:2], "--set", "refine.method=crf"]) == 2
    assert "tag2mask[crf]" in capsys.readouterr().err
    assert not (run / "choices.json").exists()
    assert main(["refine", str(run), *options, "--set", "refine.thresholds={cow: 0.3}"]) == 0


def test_another_threshold_lies_beside_the_first_and_can_be_chosen(run: Path, finished_run: Path) -> None:
    first, network = masks_of(run / "pseudo_masks"), (run / "segmenter" / "manifest.json").read_bytes()
    name = refine_with(run, "refine.walk.threshold=0.05", "refine.unsure=0.01")
    assert name == "walk-threshold-0-05_unsure-0-01"
    assert masks_of(run / "pseudo_masks") == first  # nothing is overwritten
    second = masks_of(run / f"pseudo_masks_{name}")
    assert second.keys() == first.keys()
    assert covered(run / f"pseudo_masks_{name}") > covered(run / "pseudo_masks")

    assert choose(run, name) == ["segmenter", "masks", "predictions"]
    assert masks_of(run / "pseudo_masks") == second
    assert masks_of(run / "pseudo_masks_first") == first
    assert (run / "of_first" / "segmenter" / "manifest.json").read_bytes() == network
    assert not (run / "segmenter").exists()
    assert (run / "supervised").is_dir()  # learned from true masks
    assert set(read_json(run / "scores.json")) == {"seed_cam", "seed_rib", "supervised_val"}
    assert load_recipe(run / "recipe.yaml").refine.walk.threshold == 0.05

    # both its own recipe and the one it was begun with go on with the choice
    for recipe in (run / "recipe.yaml", finished_run.parent / "tiny.yaml"):
        chain = open_chain(load_recipe(recipe), run.parent / "farm", run, execution=HERE, say=lambda _: None)
        planned = {entry.folder: entry for entry in chain.plan}
        assert planned["pseudo_masks"].config.walk.threshold == 0.05
        assert f"pseudo_masks_{name}" not in planned
        assert planned["pseudo_masks_first"].config.walk.threshold == 0.27
        assert planned["segmenter"].reads == {"masks": "pseudo_masks"}

    assert choose(run, "first") == []  # the later stages were never made from the other one
    assert masks_of(run / "pseudo_masks") == first
    assert (run / "segmenter" / "manifest.json").read_bytes() == network
    assert not (run / "of_first" / "segmenter").exists()
    assert masks_of(run / f"pseudo_masks_{name}") == second
    assert choose(run, "first") == []


def test_one_of_the_recipes_comparisons_can_be_chosen(run: Path) -> None:
    plain, first = masks_of(run / "pseudo_masks_plain_cam"), masks_of(run / "pseudo_masks")
    choose(run, "plain_cam")
    assert masks_of(run / "pseudo_masks") == plain
    assert masks_of(run / "pseudo_masks_first") == first
    recipe = as_chosen(load_recipe(run / "recipe.yaml"), run)
    assert (recipe.refine.maps, list(recipe.comparisons), list(recipe.tried)) == ("cam", [], ["first"])
    name, found = another(run, ["refine.threshold=0.6"])
    assert (name, found.refinements[name].maps) == ("threshold-0-6", "cam")  # changes over what is chosen by now
    assert found.refinements[name].threshold_chosen_on == "given by hand"


def go_on(run: Path) -> list[str]:
    said: list[str] = []
    recipe = load_recipe(run / "recipe.yaml")
    open_chain(recipe, run.parent / "farm", run, execution=HERE, say=said.append).run()
    return said


def cut_of(folder: Path) -> float:
    return float(read_json(folder / "manifest.json")["config"]["threshold"])


def test_a_score_by_eye_stays_with_the_pseudo_masks_that_it_was_chosen_on(run: Path) -> None:
    plain = refine_with(run, "refine.method=none", "refine.threshold=0.3")
    choose(run, plain)
    append(run, [{"threshold": 0.4, "thresholds": {}}])
    assert any("a threshold chosen by eye" in line for line in go_on(run))
    assert cut_of(run / "pseudo_masks") == 0.4
    for overrides, score in ((["refine.method=pamr"], 0.4), (["refine.threshold=0.3"], 0.3)):
        name, found = another(run, overrides)
        assert found.refinements[name].threshold == score  # changes over what is in use
    assert another(run, ["refine.threshold=0.4"])[0] == plain

    other = refine_with(run, "refine.threshold=0.35")
    choose(run, other)
    assert not any("decided otherwise" in line for line in go_on(run))
    assert cut_of(run / "pseudo_masks") == 0.35
    assert cut_of(run / f"pseudo_masks_{plain}") == 0.4
    append(run, [{"threshold": 0.45, "thresholds": {}}])
    go_on(run)
    assert cut_of(run / "pseudo_masks") == 0.45
    assert cut_of(run / f"pseudo_masks_{plain}") == 0.4

    for name, score in ((plain, 0.4), (other, 0.45), (plain, 0.4)):
        choose(run, name)
        assert not any("decided otherwise" in line for line in go_on(run))
        assert cut_of(run / "pseudo_masks") == score
    append(run, [{"threshold": None, "thresholds": {}}])
    go_on(run)
    assert cut_of(run / "pseudo_masks") == 0.3
    choose(run, other)
    choose(run, plain)
    go_on(run)
    assert cut_of(run / "pseudo_masks") == 0.3


def test_what_was_set_aside_gives_way_to_a_review_too(run: Path) -> None:
    name = refine_with(run, "refine.walk.threshold=0.15")
    choose(run, name)
    go_on(run)
    rejected = sorted(masks_of(run / "pseudo_masks"))[0].removesuffix(".png")
    append(run, [{"id": rejected, "verdict": "rejected"}])
    go_on(run)
    assert not (run / "of_first").exists()
    assert (run / "earlier" / "1" / "of_first" / "segmenter" / "weights.safetensors").is_file()
    first = masks_of(run / "pseudo_masks_first")
    choose(run, "first")
    go_on(run)
    assert masks_of(run / "pseudo_masks") == first
    assert rejected not in read_json(run / "segmenter" / "manifest.json")["images"]
    choose(run, name)
    assert not any("decided otherwise" in line for line in go_on(run))


def test_a_choice_that_was_cut_short_is_completed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, first = masks_of(run / "pseudo_masks_plain_cam"), masks_of(run / "pseudo_masks")
    renamed: list[str] = []
    rename = Path.rename

    def killed(source: Path, target: Path) -> Path:
        if len(renamed) == 4:
            raise KeyboardInterrupt
        renamed.append(source.name)
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        choose(run, "plain_cam")
    assert renamed[-1] == "pseudo_masks"
    assert not (run / "pseudo_masks").exists()
    monkeypatch.undo()
    recipe = as_chosen(load_recipe(run / "recipe.yaml"), run)
    assert recipe.refine.maps == "cam"
    assert masks_of(run / "pseudo_masks") == plain
    assert masks_of(run / "pseudo_masks_first") == first
    assert read_choices(run, recipe).moves == ()


def test_another_recipe_is_still_refused(run: Path) -> None:
    choose(run, "plain_cam")
    recipe = load_recipe(run / "recipe.yaml", ["refine.threshold=0.77"])
    with pytest.raises(ConfigError, match="made with other settings"):
        open_chain(recipe, run.parent / "farm", run, execution=HERE, say=lambda _: None)


def test_what_cannot_be(run: Path) -> None:
    for overrides, name, words in (
        (["classifier.epochs=9"], "", "only settings of refine change"),
        (["refine.unsure=0.04"], "plain_cam", "choose another --name"),
        (["refine.unsure=0.04"], "a/b", "can't name a folder"),
        (["refine.unsure=0.9"], "", "refine.unsure is 0.9"),
    ):
        with pytest.raises(ConfigError, match=words):
            another(run, overrides, name)
    assert another(run, ["refine.threshold=0.9"])[0] == "first"  # which irn doesn't use
    with pytest.raises(ConfigError, match="no pseudo-masks 'plan_cam'; did you mean 'plain_cam'"):
        choose(run, "plan_cam")
    assert not (run / choices.FILE).exists()


def test_names() -> None:
    assert name_of(["refine.threshold=0.3"]) == "threshold-0-3"
    assert name_of(["refine.maps=cam", "refine.method=none"]) == "maps-cam_method-none"
    assert len(name_of(["refine.threshold_chosen_on=" + 60 * "x"])) <= 40
    assert name_of(["refine"]) == "other"


def test_the_commands(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["refine", str(run), "--set", "refine.unsure=0.2", "--name", "wide", "--processes", "1"]) == 0
    shown = capsys.readouterr().out
    assert f"tag2mask choose {run} wide" in shown
    assert "report:" in shown
    assert main(["choose", str(run)]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("first", "wide", "plain_cam"))
    assert main(["choose", str(run), "wide"]) == 0
    assert f"tag2mask run {run}" in capsys.readouterr().out
    assert main(["refine", str(run), "--out", str(run)]) == 2
    assert "give the run's folder once" in capsys.readouterr().err


def test_no_true_masks_no_matter(run: Path) -> None:
    """What was tried by hand stays where nothing can be scored; a recipe's comparisons don't."""
    name, found = another(run, ["refine.unsure=0.2"], "wide")
    recipe = found.over(load_recipe(run / "recipe.yaml"))
    chain = open_chain(recipe, run.parent / "farm", run, execution=HERE, say=lambda _: None)
    records = tuple(dataclasses.replace(record, mask_path=None) for record in chain.context.train.records)
    context = dataclasses.replace(
        chain.context, train=dataclasses.replace(chain.context.train, records=records), val=None
    )
    folders = {
        entry.folder
        for stage in {entry.stage.name: entry.stage for entry in chain.plan}.values()
        for entry in stage.entries(context)
    }
    assert f"pseudo_masks_{name}" in folders
    assert "pseudo_masks_plain_cam" not in folders


def test_a_comparison_that_is_asked_for_is_made_without_true_masks(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tag2mask.stages.refinements.has_masks", lambda dataset: False)
    plain = masks_of(run / "pseudo_masks_plain_cam")
    shutil.rmtree(run / "pseudo_masks_plain_cam")
    with pytest.raises(ConfigError, match="--set with its settings"):
        choose(run, "plain_cam")
    assert refine_with(run, "refine.maps=cam", "refine.method=none") == "plain_cam"
    assert masks_of(run / "pseudo_masks_plain_cam") == plain
    choose(run, "plain_cam")
    assert masks_of(run / "pseudo_masks") == plain


@pytest.mark.parametrize(
    "changes",
    [
        {"moves": [["pseudo_masks", "../elsewhere"]]},
        {"moves": [["/etc", "pseudo_masks"]]},
        {"moves": ["pseudo_masks"]},
        {"refinements": {}},
        {"refinements": []},
        {"chosen": "nobody"},
        {"chosen": 3},
    ],
)
def test_choices_from_elsewhere_lead_nowhere(run: Path, changes: dict[str, object]) -> None:
    recipe = load_recipe(run / "recipe.yaml")
    read_choices(run, recipe).save(run)
    write_json(run / "choices.json", read_json(run / "choices.json") | changes)
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(ConfigError, match=r"choices\.json: is damaged"):
        as_chosen(recipe, run)
    assert sorted(path.name for path in run.iterdir()) == before


def test_nothing_is_chosen_while_the_run_is_at_work(run: Path) -> None:
    name = refine_with(run, "refine.walk.threshold=0.15")
    taken: list[str] = []

    def other() -> None:
        try:
            choose(run, name)
        except ConfigError as error:
            taken.append(str(error))

    with alone_in(run):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(taken) == 1
    assert "is at work in it" in taken[0]
    assert not (run / "of_first").exists()
