"""`tag2mask run` and its steps, each a command of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.cli.common import (
    add_command,
    add_execution_options,
    add_recipe_options,
    data_of,
    execution_of,
    recipe_and_out,
)
from tag2mask.cli.scores import print_scores
from tag2mask.common.errors import ConfigError

if TYPE_CHECKING:
    from tag2mask.pipeline import Chain

STEPS = (
    "train-classifier", "localize", "confident", "train-boundary", "refine", "train-segmenter", "predict", "evaluate",
)  # fmt: skip
STEP_HELP = {
    "train-classifier": "train the image classifier on image-level labels",
    "localize": "compute CAM and RIB maps of the training images",
    "confident": "label the pixels that maps are sure of, for the boundary network (irn)",
    "train-boundary": "train the boundary network on confident labels (irn)",
    "refine": "turn maps into pseudo-masks, and what that needs first",
    "train-segmenter": "train DeepLabV2 on the pseudo-masks (--supervised: on true masks)",
    "predict": "masks of the val images, or of any --images, by a trained segmentation network",
    "evaluate": "score everything in a run's folder that has true masks",
}


def add(commands: Any) -> None:
    """Add `run` and the steps."""
    run = add_command(commands, "run", "the whole chain: tags in, masks, network, scores and a report out", _run)
    add_recipe_options(run)
    add_execution_options(run)
    for step in STEPS:
        command = add_command(commands, step, STEP_HELP[step], _step)
        command.set_defaults(step=step)
        add_recipe_options(command, optional=True)
        add_execution_options(command)
        if step == "train-segmenter":
            command.add_argument("--supervised", action="store_true", help="train on true masks: the upper bound")
        if step == "predict":
            command.add_argument("--supervised", action="store_true", help="by the network trained on true masks")
            command.add_argument("--images", type=Path, help="photos to segment instead: a folder or one file")
            command.add_argument("--masks", type=Path, help="where the masks of --images go")


def _run(options: argparse.Namespace) -> int:
    from tag2mask.pipeline import run
    from tag2mask.reports import write_report

    recipe, out = recipe_and_out(options)
    scores = run(recipe, data_of(options), out, limit=options.limit, execution=execution_of(options))
    print_scores(scores)
    print(f"masks:   {out / 'pseudo_masks' / 'masks'}\nnetwork: {out / 'segmenter'}\nreport:  {write_report(out)}")
    return 0


def _step(options: argparse.Namespace) -> int:
    if options.step == "predict" and options.images is not None:
        return _predict_images(options)
    from tag2mask.pipeline import open_chain

    recipe, out = recipe_and_out(options)
    chain = open_chain(recipe, data_of(options), out, limit=options.limit, execution=execution_of(options))
    run_step(chain, options.step, supervised=getattr(options, "supervised", False))
    print(f"done: {out}")
    return 0


def run_step(chain: Chain, step: str, *, supervised: bool = False) -> None:
    """Run one step of a chain by its command's name."""
    steps: dict[str, Callable[[], object]] = {
        "train-classifier": chain.train_classifier,
        "localize": chain.localize,
        "confident": chain.confident,
        "train-boundary": chain.train_boundary,
        "refine": chain.refine,
        "train-segmenter": lambda: chain.train_segmenter(supervised=supervised),
        "predict": lambda: chain.predict(supervised=supervised),
        "evaluate": lambda: print_scores(chain.evaluate()),
    }
    steps[step]()


def _predict_images(options: argparse.Namespace) -> int:
    from tag2mask.pipeline import predict_photos

    if options.supervised:
        raise ConfigError("predict --supervised is for the val images; leave out --supervised or --images")
    if options.masks is None or options.out is None:
        raise ConfigError("predict --images needs --out RUN (whose network is used) and --masks DIR (for the masks)")
    recipe, out = recipe_and_out(options)
    failures = predict_photos(options.images, out, options.masks, recipe.predict, execution=execution_of(options))
    for name, error in failures.items():
        print(f"! {name}: {error}", file=sys.stderr)
    print(f"masks: {options.masks / 'masks'}" + (f" ({len(failures)} photos could not be used)" if failures else ""))
    return 1 if failures else 0
