"""`tag2mask export`: results in the form that others expect."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tag2mask.cli.common import add_command, add_execution_options, execution_of
from tag2mask.common.errors import ConfigError


def add(commands: Any) -> None:
    """Add `export` and its commands."""
    inner = commands.add_parser("export", help="results in the form that others expect").add_subparsers(
        required=True, metavar="COMMAND"
    )
    text = "the archive for the PASCAL VOC 2012 test server, checked; predicts the test images where needed"
    server = add_command(inner, "voc-server", text, _voc_server)
    server.add_argument("--data", type=Path, required=True, help="VOC 2012 with the test archive unpacked into it")
    server.add_argument("--run", type=Path, help="the run whose network predicts the test images")
    server.add_argument(
        "--masks", type=Path, help="instead: a folder with ID.png of every test image, in VOC's numbers"
    )
    server.add_argument("--out", type=Path, default=Path("results.tgz"), help="the archive (default results.tgz)")
    server.add_argument("--check-only", type=Path, metavar="ARCHIVE", help="only check an archive that is there")
    server.add_argument(
        "--expect", type=int, default=1456, metavar="N", help="images in the test list (default 1456)"
    )
    add_execution_options(server)
    text = "the segmentation network as an ONNX file for any runtime, checked against torch"
    onnx = add_command(inner, "onnx", text, _onnx)
    onnx.add_argument("run", type=Path, help="the run whose network is written")
    onnx.add_argument("--to", type=Path, metavar="FILE", help="the file (default RUN/segmenter/network.onnx)")
    onnx.add_argument("--images", type=Path, help="photos to check it on (default: some of the run's own)")


def _onnx(options: argparse.Namespace) -> int:
    from tag2mask.inference import export_onnx

    out = options.to or options.run / "segmenter" / "network.onnx"
    parity = export_onnx(options.run, out, options.images)
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB; against torch on {parity.images} photos: largest difference of "
        f"logits {parity.largest:.1e}, labels equal on {100 * parity.equal:.3f} % of the pixels"
    )
    return 0


def _voc_server(options: argparse.Namespace) -> int:
    from tag2mask.exports.voc_server import check_archive, listed_images, voc_values, write_archive

    images = listed_images(options.data, options.expect)
    if options.check_only is not None:
        problems = check_archive(options.check_only, images)
        for problem in problems[:20]:
            print(f"! {problem}", file=sys.stderr)
        print(
            f"{options.check_only}: " + (f"{len(problems)} problem(s)" if problems else f"fine, {len(images)} masks")
        )
        return 1 if problems else 0
    if (options.run is None) == (options.masks is None):
        raise ConfigError("export voc-server needs either --run RUN or --masks DIR")
    masks, values = options.masks, None
    if options.run is not None:
        from tag2mask.inference import predict_listed
        from tag2mask.run.folder import read_manifest

        # before the images are predicted: other classes than VOC's can't be submitted
        values = voc_values(read_manifest(options.run / "segmenter", "train-segmenter").get("classes", ()))
        out = options.run / "test_predictions"
        predict_listed(images, options.run, out, execution=execution_of(options))
        masks = out / "masks"
    print(f"{write_archive(masks, images, options.out, values)}: {len(images)} masks, checked; nothing was uploaded")
    return 0
