"""The command line: parsing and printing only."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask import __version__
from tag2mask.common.errors import ConfigError, Tag2MaskError

if TYPE_CHECKING:  # torch takes seconds to import; --help must not
    from tag2mask.pipeline import Chain, Recipe
    from tag2mask.stages.training import Execution

DEFAULT_RECIPE = "photos"
STEPS = ("train-classifier", "localize", "refine", "train-segmenter", "predict", "evaluate")
STEP_HELP = {
    "train-classifier": "train the image classifier on image-level labels",
    "localize": "compute CAM and RIB maps of the training images",
    "refine": "turn maps into pseudo-masks",
    "train-segmenter": "train DeepLabV2 on the pseudo-masks (--supervised: on true masks)",
    "predict": "masks of the val images, or of any --images, by a trained segmentation network",
    "evaluate": "score everything in a run's folder that has true masks",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 (problems were found) or 2 (an error the user can act on)."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options) or 0)
    except Tag2MaskError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tag2mask",
        description="From image-level labels to pixel masks and a trained segmentation network (RIB).",
    )
    parser.add_argument("--version", action="version", version=f"tag2mask {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _command(commands, "run", "the whole chain: tags in, masks, network, scores and a report out", _run)
    _add_recipe(run)
    _add_execution(run)
    for step in STEPS:
        command = _command(commands, step, STEP_HELP[step], _step)
        command.set_defaults(step=step)
        _add_recipe(command, optional=True)
        _add_execution(command)
        if step == "train-segmenter":
            command.add_argument("--supervised", action="store_true", help="train on true masks: the upper bound")
        if step == "predict":
            command.add_argument("--images", type=Path, help="photos to segment instead: a folder or one file")
            command.add_argument("--masks", type=Path, help="where the masks of --images go")
    report = _command(commands, "report", "write the HTML report of a run's folder", _report)
    report.add_argument("run", type=Path, help="the run's folder")
    report.add_argument("--examples", type=int, default=24, help="examples a section (default 24)")
    demo = _command(commands, "demo", "the main job on embedded photos and digits; ends with a report", _demo)
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder (default runs/demo)")
    _add_execution(demo)
    _add_data(commands)
    _add_recipes(commands)
    return parser


def _command(commands: Any, name: str, text: str, function: Callable[[Any], int | None]) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:])
    command.set_defaults(command=function)
    return command


def _add_recipe(command: argparse.ArgumentParser, optional: bool = False) -> None:
    command.add_argument(
        "recipe", nargs="?" if optional else None, default=None,
        help="a recipe's file or name" + (f" (default: that of --out, else {DEFAULT_RECIPE})" if optional else ""),
    )  # fmt: skip
    command.add_argument("--data", type=Path, help="the data set's folder or label file")
    command.add_argument("--out", type=Path, help="the run's folder (default runs/RECIPE)")
    command.add_argument("--limit", type=int, metavar="N", help="train on a class-balanced subset of N images")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe's setting")


def _add_execution(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    command.add_argument("--devices", type=int, default=1, help="how many devices train together (default 1)")
    command.add_argument("--precision", default="32-true", help="of training, as Lightning Fabric names it")
    command.add_argument("--workers", type=int, default=1, help="processes that load images in training (default 1)")
    command.add_argument("--processes", type=int, default=0, help="processes for single images (default: CPU cores)")


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="look a data set through before anything is trained")
    check = _command(data.add_subparsers(required=True, metavar="COMMAND"), "check", "list what is wrong", _check)
    check.add_argument("dir", type=Path, help="the data set's folder or label file")
    check.add_argument("--reader", default="auto", help="auto, csv, folders, voc or coco (default auto)")
    check.add_argument("--classes", help="comma-separated class names; labels outside are reported")
    check.add_argument("--no-decode", action="store_true", help="don't open the images (faster)")
    check.add_argument("--all", action="store_true", help="list every problem, one a line")


def _add_recipes(commands: Any) -> None:
    recipes = commands.add_parser("recipes", help="list, show or validate recipes")
    inner = recipes.add_subparsers(required=True, metavar="COMMAND")
    _command(inner, "ls", "list the recipes that come with tag2mask", _recipes_ls)
    for name, text, function in (
        ("show", "print a recipe as written", _recipes_show),
        ("validate", "check a recipe's keys and types", _recipes_validate),
    ):
        _command(inner, name, text, function).add_argument("recipe", help="a recipe's file or name")


# --- commands ---------------------------------------------------------------------------------------------


def _execution(options: argparse.Namespace) -> Execution:
    from tag2mask.common.memory import keep_freed_memory
    from tag2mask.stages.training import Execution

    keep_freed_memory()
    return Execution(options.device, options.devices, options.precision, options.workers, options.processes)


def _recipe_and_out(options: argparse.Namespace) -> tuple[Recipe, Path]:
    from tag2mask.pipeline import load_recipe

    if options.recipe is None and options.out is not None and (options.out / "recipe.yaml").is_file():
        path = options.out / "recipe.yaml"
    else:
        path = options.recipe or DEFAULT_RECIPE
    recipe = load_recipe(path, options.set)
    return recipe, options.out or Path("runs") / recipe.name


def _data_of(options: argparse.Namespace) -> Path:
    if options.data is None:
        raise ConfigError("--data is missing; give the data set's folder or label file")
    return Path(options.data)


def _run(options: argparse.Namespace) -> int:
    from tag2mask.pipeline import run
    from tag2mask.reports import write_report

    recipe, out = _recipe_and_out(options)
    scores = run(recipe, _data_of(options), out, limit=options.limit, execution=_execution(options))
    print_scores(scores)
    print(f"masks:   {out / 'pseudo_masks' / 'masks'}\nnetwork: {out / 'segmenter'}\nreport:  {write_report(out)}")
    return 0


def _step(options: argparse.Namespace) -> int:
    if options.step == "predict" and options.images is not None:
        return _predict_images(options)
    from tag2mask.pipeline import open_chain

    recipe, out = _recipe_and_out(options)
    chain = open_chain(recipe, _data_of(options), out, limit=options.limit, execution=_execution(options))
    run_step(chain, options.step, supervised=getattr(options, "supervised", False))
    print(f"done: {out}")
    return 0


def run_step(chain: Chain, step: str, *, supervised: bool = False) -> None:
    """Run one step of a chain by its command's name."""
    steps: dict[str, Callable[[], object]] = {
        "train-classifier": chain.train_classifier,
        "localize": chain.localize,
        "refine": chain.refine,
        "train-segmenter": lambda: chain.train_segmenter(supervised=supervised),
        "predict": chain.predict,
        "evaluate": lambda: print_scores(chain.evaluate()),
    }
    steps[step]()


def _predict_images(options: argparse.Namespace) -> int:
    from tag2mask.pipeline import predict_photos

    if options.masks is None or options.out is None:
        raise ConfigError("predict --images needs --out RUN (whose network is used) and --masks DIR (for the masks)")
    recipe, out = _recipe_and_out(options)
    failures = predict_photos(options.images, out, options.masks, recipe.predict, execution=_execution(options))
    for name, error in failures.items():
        print(f"! {name}: {error}", file=sys.stderr)
    print(f"masks: {options.masks / 'masks'}" + (f" ({len(failures)} photos could not be used)" if failures else ""))
    return 1 if failures else 0


def _report(options: argparse.Namespace) -> int:
    from tag2mask.reports import write_report

    if not options.run.is_dir():
        raise ConfigError(f"{options.run}: no such folder; give the folder of a run")
    print(f"report: {write_report(options.run, examples=options.examples)}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from tag2mask.demo import demo

    report, scores = demo(options.out, execution=_execution(options))
    print_scores(scores)
    print(f"report: {report.resolve()}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from tag2mask.data import check_dataset, read_dataset

    classes = [name.strip() for name in options.classes.split(",")] if options.classes else None
    dataset = read_dataset(options.dir, reader=options.reader, classes=classes)
    report = check_dataset(dataset, decode=not options.no_decode)
    print("\n".join(report.summary()))
    if options.all:
        print("\n".join(str(problem) for problem in report.problems))
    return 0 if report.ok else 1


def _recipes_ls(_: argparse.Namespace) -> int:
    from tag2mask.pipeline import load_recipe, recipe_folder

    for path in sorted(recipe_folder().glob("*.yaml")):
        print(f"{path.stem:<14} {load_recipe(path).description}")
    return 0


def _recipes_show(options: argparse.Namespace) -> int:
    from tag2mask.pipeline import find_recipe

    print(find_recipe(options.recipe).read_text(encoding="utf-8"), end="")
    return 0


def _recipes_validate(options: argparse.Namespace) -> int:
    from tag2mask.pipeline import find_recipe, load_recipe

    path = find_recipe(options.recipe)
    print(f"{path}: fine, it is the recipe '{load_recipe(path).name}'")
    return 0


# --- helpers ----------------------------------------------------------------------------------------------


def print_scores(scores: dict[str, Any]) -> None:
    """Print the score table: figures in percent, on which images, at which threshold chosen how."""
    from rich.console import Console
    from rich.table import Table

    if not scores:
        print("no scores: there are no true masks to score against")
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    classes = list(next(iter(scores.values()))["per_class"])
    table = Table(title="mIoU in percent", title_justify="left")
    for column in ("", "mIoU", *classes, "images", "threshold"):
        table.add_column(column, justify="left" if column == "" else "right", overflow="fold")
    notes: dict[str, str] = {}
    for name, row in scores.items():
        threshold = "" if row["threshold"] is None else f"{row['threshold']:.2f}"
        if row["threshold"] is not None:
            threshold += f" [{notes.setdefault(row['threshold_chosen_on'], chr(ord('a') + len(notes)))}]"
        cells = [
            "-" if value is None else f"{100 * value:.1f}" for value in (row["miou"], *row["per_class"].values())
        ]
        table.add_row(
            TITLES.get(name, name), *cells, f"{row['images']} {row['split']}", threshold.replace("[", r"\[")
        )
    console.print(table)
    for text, letter in notes.items():
        print(f"[{letter}] {text}")


TITLES = {
    "seed_cam": "CAM seed",
    "seed_rib": "RIB seed",
    "pseudo_mask": "pseudo-mask",
    "segmentation_val": "segmentation",
    "supervised_val": "upper bound: trained on true masks",
}

if __name__ == "__main__":
    sys.exit(main())
