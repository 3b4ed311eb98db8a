"""`tag2mask data`: look a data set through before anything is trained; check and index the published ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tag2mask.cli.common import add_command, at_least, data_settings
from tag2mask.common.errors import ConfigError


def add(commands: Any) -> None:
    """Add `data` and its commands."""
    data = commands.add_parser("data", help="look a data set through before anything is trained")
    inner = data.add_subparsers(required=True, metavar="COMMAND")
    check = add_command(inner, "check", "list what is wrong", _check)
    check.add_argument("dir", type=Path, help="the data set's folder or label file")
    check.add_argument("--reader", default="auto", help="auto, csv, folders, voc, coco, ... (default auto)")
    check.add_argument("--classes", help="comma-separated class names; labels outside are reported")
    check.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="a setting of a recipe's data section, such as data.mask_classes=binary",
    )
    check.add_argument("--no-decode", action="store_true", help="don't open the images (faster)")
    check.add_argument("--all", action="store_true", help="list every problem, one a line")
    prepare = add_command(
        inner, "prepare", "check and index VOC 2012 or COCO 2014 (COCO: render its masks)", _prepare
    )
    prepare.add_argument("kind", choices=("voc2012", "coco2014"))
    prepare.add_argument("root", type=Path, help="the unpacked archive's folder (with --download: where it goes)")
    prepare.add_argument(
        "--out", type=Path, help="where the index goes (default: the folder tag2mask beside the images)"
    )
    prepare.add_argument("--download", action="store_true", help="fetch the official archives first, with resume")
    prepare.add_argument("--mirror", metavar="URL", help="fetch files of the same names from this address instead")
    prepare.add_argument("--allow-bad", action="store_true", help="go on without files that can't be used")
    prepare.add_argument("--labels", type=Path, help="voc2012: a CSV image,labels for images without XML")
    prepare.add_argument(
        "--trainaug",
        type=Path,
        action="append",
        default=[],
        metavar="LIST",
        help="voc2012: list of more training images (may be given again)",
    )
    prepare.add_argument(
        "--aug-masks", action="store_true", help="voc2012: use SegmentationClassAug as true masks too"
    )
    prepare.add_argument("--processes", type=at_least(0), default=0, help="coco2014: processes (default: CPU cores)")


def _check(options: argparse.Namespace) -> int:
    from tag2mask.config import build
    from tag2mask.data import check_dataset
    from tag2mask.data.settings import DataConfig, read_set

    section: dict[str, Any] = {"reader": options.reader}
    if options.classes:
        section["classes"] = [name.strip() for name in options.classes.split(",")]
    settings = data_settings(options.overrides, section)
    config = build(DataConfig, settings, source="--set", place=("data",))
    dataset = read_set(options.dir, config)
    for split, usual in ((config.train_split, DataConfig.train_split), (config.val_split, DataConfig.val_split)):
        if split != usual:
            dataset.select(split)  # an error where no image has it, as a run says
    report = check_dataset(dataset, decode=not options.no_decode)
    print("\n".join(report.summary()))
    if options.all:
        print("\n".join(str(problem) for problem in report.problems))
    return 0 if report.ok else 1


def _prepare(options: argparse.Namespace) -> int:
    from tag2mask.data.prepare import download, prepare_coco, prepare_voc

    if options.mirror and not options.download:
        raise ConfigError("--mirror says where to download from; add --download")
    if options.download:
        download(options.kind, options.root, mirror=options.mirror)
    if options.kind == "voc2012":
        prepared = prepare_voc(
            options.root,
            options.out,
            labels=options.labels,
            trainaug=options.trainaug,
            aug_masks=options.aug_masks,
            allow_bad=options.allow_bad,
        )
    else:
        prepared = prepare_coco(options.root, options.out, allow_bad=options.allow_bad, processes=options.processes)
    print("\n".join([*prepared.lines, *prepared.by_kind()]))
    print(f"index: {prepared.folder}")
    return 0
