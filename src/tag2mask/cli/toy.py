"""`tag2mask toy`: the paper's toy experiment."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.cli.common import add_command, at_least
from tag2mask.common.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from tag2mask.experiments.toy import ToyResult

ENDINGS = ("sigmoid", "softmax", "tanh", "relu", "none")


def add(commands: Any) -> None:
    """Add `toy`."""
    toy = add_command(commands, "toy", "the paper's toy experiment: where do gradients stop?", _toy)
    toy.set_defaults(resumes=False)
    toy.add_argument("--out", type=Path, default=Path("runs/toy"), help="folder of figure and numbers")
    toy.add_argument("--seeds", type=at_least(1), default=5, metavar="N", help="seeds 0 to N - 1 (default 5)")
    toy.add_argument(
        "--last",
        nargs="+",
        choices=ENDINGS,
        default=["sigmoid", "softmax"],
        help="last activations to train through, the first one is drawn (default sigmoid softmax)",
    )
    toy.add_argument("--digits", default="sklearn", help="sklearn (default), or the folder of MNIST's four files")
    toy.add_argument("--epochs", type=at_least(1), help="training epochs (default 6)")
    toy.add_argument("--quick", action="store_true", help="tiny: shows that everything works, not what is found")
    toy.add_argument("--processes", type=at_least(0), default=0, help="processes (default: CPU cores)")


def _toy(options: argparse.Namespace) -> int:
    from tag2mask.experiments.toy import ToyConfig, run_toy
    from tag2mask.experiments.toy.config import QUICK
    from tag2mask.experiments.toy.figure import write_figure
    from tag2mask.experiments.toy.summary import refuse_other, write_numbers

    if options.processes < 0:
        raise ConfigError(f"--processes {options.processes}: give 0 or more")
    config = QUICK if options.quick else ToyConfig()
    if options.epochs is not None:
        config = dataclasses.replace(config, epochs=options.epochs)
    seeds, last = range(options.seeds), list(dict.fromkeys(options.last))
    refuse_other(options.out, seeds, last, config, options.digits)
    result = run_toy(seeds, last, config, digits=options.digits, processes=options.processes)
    write_numbers(result, options.out)
    write_figure(result, options.out / "toy.svg")
    print_toy(result)
    print(f"figure: {options.out / 'toy.svg'}\nnumbers: {options.out / 'toy.csv'}")
    return 0


def print_toy(result: ToyResult) -> None:
    """Print ratios by stage, the comparison at the last stage, what it depends on, and the checks."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 150)
    for last in result.endings:
        _print_stages(console, result, last)
    _print_comparison(console, result)
    _print_sensitivity(console, result)
    _print_checks(console, result)


def _print_stages(console: Console, result: ToyResult, last: str) -> None:
    from tag2mask.experiments.toy.data import REGIONS
    from tag2mask.experiments.toy.summary import curve, last_drop

    header = ["region", *(f"G{stage}" for stage in range(1, 7)), "G6 - G5"]
    rows = [
        [region, *map(str, curve(result, last, "trained", region)), last_drop(result, last, region).signed]
        for region in REGIONS
    ]
    _print_table(console, f"HGR, trained through {last}: mean ± sd over {len(result.seeds)} seeds", header, rows)


def _print_comparison(console: Console, result: ToyResult) -> None:
    from tag2mask.experiments.toy.data import REGIONS
    from tag2mask.experiments.toy.experiment import WEIGHTS
    from tag2mask.experiments.toy.summary import Spread, at_last_stage, changes

    rows = []
    for last in result.endings:
        for weights, text in WEIGHTS.items():
            values = [str(Spread.of(at_last_stage(result, last, weights, region))) for region in REGIONS]
            change = "" if weights == "trained" else changes(result, last, weights).signed
            rows.append([last, text, *values, change])
    header = ["last", "network", *REGIONS, "change of non-discr."]
    _print_table(console, "HGR at the last stage, G6", header, rows)


def _print_sensitivity(console: Console, result: ToyResult) -> None:
    from tag2mask.experiments.toy.summary import Spread, at_last_stage, curve

    thresholds = (result.config.threshold, *result.config.other_thresholds)
    rows = []
    for last in result.endings:
        for threshold in sorted(thresholds):
            g5 = curve(result, last, "trained", "non-discriminative", threshold=threshold)[4]
            norm = curve(result, last, "trained", "non-discriminative", scalar="norm", threshold=threshold)[4]
            values = [
                at_last_stage(result, last, name, threshold=threshold)
                for name in ("trained", "without", "without-gndrp")
            ]
            rows.append([last, f"{threshold:g}", str(g5), str(norm), *(str(Spread.of(each)) for each in values)])
    header = ["last", "threshold", "G5 sum", "G5 norm", "G6 trained", "G6 tuned without", "G6 and GNDRP"]
    _print_table(console, "Non-discriminative region, by threshold and by what stage 5 is reduced to", header, rows)


def _print_checks(console: Console, result: ToyResult) -> None:
    from tag2mask.experiments.toy.data import REGIONS
    from tag2mask.experiments.toy.summary import Spread, at_last_stage, checks

    rows = []
    for last in result.endings:
        found = checks(result, last)
        damped = [
            "" if last == "none" else str(Spread.of(at_last_stage(result, last, "trained", region, scale="steepest")))
            for region in list(REGIONS)[:2]
        ]
        rows.append(
            [
                last,
                str(found["accuracy"]),
                str(found["accuracy_without"]),
                f"{found['mark_effect'].mean:+.3f}",
                f"{found['median_slope'].mean:.1e}",
                str(found["flat_share"]),
                *damped,
            ]
        )
    header = [
        "last",
        "accuracy",
        "… tuned without",
        "mark effect",
        "median slope",
        "flat share",
        "damped discr.",
        "damped non-discr.",
    ]
    _print_table(console, "Checks (docs/bottleneck.md explains each)", header, rows)


def _print_table(console: Console, title: str, header: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 or name == "network" else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
