"""`tag2mask hgr`: the toy experiment's instrument on a run's own classifier."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.cli.common import DEVICES, add_command, at_least
from tag2mask.common.errors import ConfigError

if TYPE_CHECKING:
    from tag2mask.experiments.hgr.hgr import HGRResult


def add(commands: Any) -> None:
    """Add `hgr`."""
    hgr = add_command(commands, "hgr", "how far gradients of a run's classifier reach, before and along RIB", _hgr)
    hgr.set_defaults(resumes=False)
    hgr.add_argument("run", type=Path, help="the run's folder; its classifier is read, never changed")
    hgr.add_argument("--data", type=Path, required=True, help="the data set's folder or label file, with masks")
    hgr.add_argument("--out", type=Path, help="where hgr.csv, hgr.json and hgr.svg go (default RUN/hgr)")
    hgr.add_argument("--images", type=at_least(1), default=24, metavar="N", help="class-balanced sample (default 24)")
    hgr.add_argument("--split", default="train", choices=("train", "val"), help="of the images (default train)")
    hgr.add_argument("--steps", type=at_least(1), metavar="K", help="RIB steps (default: the run's)")
    hgr.add_argument("--threshold", type=float, default=0.3, help="share of a map's maximum (default 0.3)")
    hgr.add_argument("--smoothing", type=at_least(1), default=15, help="width of a box in pixels, odd (default 15)")
    hgr.add_argument("--device", default="auto", choices=DEVICES, help="what computes (default auto)")


def _hgr(options: argparse.Namespace) -> int:
    if not options.run.is_dir():
        raise ConfigError(f"{options.run}: no such folder; give the folder of a run")
    from tag2mask.experiments.hgr.hgr import HGRConfig, measure_run
    from tag2mask.experiments.hgr.hgr_files import refuse_other, write_hgr

    config = HGRConfig(options.images, options.split, options.steps, options.threshold, options.smoothing)
    out, data = options.out or options.run / "hgr", options.data.resolve().name
    refuse_other(out, config, data)
    result = measure_run(options.run, options.data, config, device=options.device)
    write_hgr(result, out, data)
    print_hgr(result)
    print(f"figure: {out / 'hgr.svg'}\nnumbers: {out / 'hgr.csv'}")
    return 1 if result.failures else 0


def print_hgr(result: HGRResult) -> None:
    """Print ratios by layer before RIB, those of the logit along its steps, and how they changed."""
    from tag2mask.experiments.hgr.hgr import change
    from tag2mask.experiments.hgr.regions import REGIONS

    for width in dict.fromkeys((result.config.smoothing, 1)):
        _print_table(result, width)
        print("change of the logit's ratio from the first step to the last, pair by pair:")
        for region in REGIONS:
            mean, rose = change(result, "logit", "class", width, region)
            print(
                f"  {region:18}: {100 * mean.mean:+.2f} ± {100 * mean.error:.2f} points, "
                f"rose in {rose} of {mean.pairs}"
            )
    for name, error in result.failures.items():
        print(f"! {name}: {error}", file=sys.stderr)


def _print_table(result: HGRResult, width: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from tag2mask.experiments.hgr.hgr import Mean, means
    from tag2mask.experiments.hgr.regions import REGIONS

    found, last = means(result), result.steps - 1
    readings = [
        (step, layer, scalar) for step in (0, last) for layer in result.layers[:-2] for scalar in ("sum", "norm")
    ]
    readings += [(step, layer, "class") for layer in result.layers[-2:] for step in range(result.steps)]
    title = f"HGR in percent, mean ± standard error, {result.images} images, averaged over {width} x {width} pixels"
    table = Table(title=title, title_justify="left")
    for name in ("layer", "of its", "updates"):
        table.add_column(name)
    for region in REGIONS:
        table.add_column(region, justify="right")
    for step, layer, scalar in readings:
        cells = [found.get((step, layer, scalar, width, region), Mean.of([])) for region in REGIONS]
        if any(cell.pairs for cell in cells):
            table.add_row(layer, scalar, str(step), *(f"{100 * m.mean:.1f} ± {100 * m.error:.1f}" for m in cells))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
