"""`tag2mask run` and its steps, each a command of its own."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from tag2mask.cli.choose import print_compared
from tag2mask.cli.common import (
    add_command,
    add_execution_options,
    add_recipe_options,
    data_of,
    execution_of,
    recipe_and_out,
    run_of,
)
from tag2mask.cli.scores import print_scores
from tag2mask.common.commands import command
from tag2mask.common.errors import ConfigError
from tag2mask.runs.folder import is_finished
from tag2mask.stages import STAGES


def add(commands: Any) -> None:
    """Add `run`, a command for each stage, and `evaluate`."""
    run = add_command(commands, "run", "the whole chain: tags in, masks, network, scores and a report out", _run)
    add_recipe_options(run)
    add_execution_options(run)
    stages = {name: text for name, (_, text) in STAGES.items()}
    for name, text in {**stages, "evaluate": "score everything in a run's folder that has true masks"}.items():
        command = add_command(commands, name, text, _step)
        command.set_defaults(step=name, supervised=False, images=None)
        add_recipe_options(command, optional=True)
        add_execution_options(command)
        if name == "refine":
            command.add_argument("--name", default="", help="what --set makes on finished maps of RUN is called so")
        if name == "train-segmenter":
            command.add_argument("--supervised", action="store_true", help="train on true masks: the upper bound")
        if name == "predict":
            command.add_argument("--supervised", action="store_true", help="by the network trained on true masks")
            command.add_argument("--images", type=Path, help="photos to segment instead: a folder or one file")
            command.add_argument("--masks", type=Path, help="where the masks of --images go")
            command.add_argument("--tags", type=Path, help="CSV (image,labels): labels of --images are among these")
            command.add_argument("--confidence", action="store_true", help="also write confidence maps of --images")
            command.add_argument("--onnx", type=Path, metavar="FILE", help="by an exported network, without torch")


def _run(options: argparse.Namespace) -> int:
    from tag2mask.chain import run
    from tag2mask.reports.closing import write_and_close
    from tag2mask.reports.html import has_review

    recipe, out = recipe_and_out(options)
    scores = run(recipe, data_of(options, run_of(options)), out, limit=options.limit, execution=execution_of(options))
    print_scores(scores)
    print("\n".join(write_and_close(out, review=has_review())))
    return 0


def _step(options: argparse.Namespace) -> int:
    if options.images is not None:
        return _predict_images(options)
    if options.step == "predict" and (options.tags or options.onnx):
        raise ConfigError("predict --tags and --onnx are for photos of your own; give them with --images")
    from tag2mask.chain import open_chain

    run = run_of(options)
    if options.step == "refine" and options.set and run is not None and is_finished(run / "pseudo_masks"):
        return _another(options, run)
    recipe, out = recipe_and_out(options)
    chain = open_chain(
        recipe,
        data_of(options, run),
        out,
        limit=options.limit,
        execution=execution_of(options),
        step=options.step,
        upper_bound=options.supervised,
    )
    if options.step == "evaluate":
        print_scores(chain.evaluate())
    else:
        chain.run_stage(options.step, upper_bound=options.supervised)
    print(f"done: {out}")
    return 0


def _another(options: argparse.Namespace, run: Path) -> int:
    """Further pseudo-masks beside the run's own."""
    from tag2mask.chain import open_chain
    from tag2mask.choices import another
    from tag2mask.recipe import load_recipe
    from tag2mask.reports import write_report
    from tag2mask.stages.refine import check

    data = data_of(options, run)
    name, choices = another(run, options.set, options.name)
    recipe = choices.over(load_recipe(run / "recipe.yaml"))
    chain = open_chain(recipe, data, run, limit=options.limit, execution=execution_of(options))
    # before the run knows of it, where it would stand in every later call's way
    if name in choices.refinements:
        check(choices.refinements[name], chain.context.train.classes)
    chain.check_stage("refine")
    choices.save(run)
    chain.run_stage("refine", score=True)
    print_compared(run)
    print(f"report: {write_report(run)} (pseudo-masks compared)\nto use it: {command('choose', run, name)}")
    return 0


def _predict_images(options: argparse.Namespace) -> int:
    if options.supervised:
        raise ConfigError("predict --supervised is for the val images; leave out --supervised or --images")
    if options.onnx is not None:
        return _say_masks(options, _predict_onnx(options))
    if options.masks is None or (options.out or run_of(options)) is None:
        raise ConfigError("predict --images needs --out RUN (whose network is used) and --masks DIR (for the masks)")
    from tag2mask.inference import predict_photos

    recipe, out = recipe_and_out(options)
    config = dataclasses.replace(recipe.predict, confidence=options.confidence or recipe.predict.confidence)
    execution = execution_of(options)
    return _say_masks(
        options, predict_photos(options.images, out, options.masks, config, tags=options.tags, execution=execution)
    )


def _predict_onnx(options: argparse.Namespace) -> dict[str, str]:
    from tag2mask.data.class_files import write_class_files
    from tag2mask.data.photos import photos_dataset
    from tag2mask.onnx_file import OnnxNetwork
    from tag2mask.stages.predict_onnx import predict_onnx

    if options.masks is None:
        raise ConfigError("predict --onnx needs --images PHOTOS and --masks DIR (for the masks)")
    for name in ("recipe", "data", "out", "limit", "set", "ray"):
        if getattr(options, name):
            given = f"'{options.recipe}'" if name == "recipe" else f"--{name}"
            raise ConfigError(f"predict --onnx answers as its file says, without a run: leave out {given}, or --onnx")
    for name, values in {
        "device": ("auto", "cpu"),
        "devices": (1,),
        "precision": ("32-true",),
        "workers": (1,),
    }.items():
        if getattr(options, name) not in values:
            raise ConfigError(f"predict --onnx runs on the CPU's cores, as --processes says: leave out --{name}")
    network = OnnxNetwork(options.onnx, threads=options.processes)
    dataset = photos_dataset(options.images, network.classes, options.tags).read_as(network.reading)
    for problem in dataset.problems:
        print(f"! {problem}")
    failures = predict_onnx(
        dataset, network, options.masks, restrict=options.tags is not None, confidence=options.confidence
    )
    write_class_files(options.masks, network.classes, background=network.background)
    return failures


def _say_masks(options: argparse.Namespace, failures: dict[str, str]) -> int:
    for name, error in failures.items():
        print(f"! {name}: {error}", file=sys.stderr)
    print(f"masks: {options.masks / 'masks'}" + (f" ({len(failures)} photos could not be used)" if failures else ""))
    return 1 if failures else 0
