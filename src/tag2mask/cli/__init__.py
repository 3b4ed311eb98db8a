"""The command line: parsing and printing only. One module a group of commands, one line in `GROUPS`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from tag2mask import __version__
from tag2mask.cli import ablate, data, demo, export, hgr, recipes, report, results, review, run, toy
from tag2mask.common.errors import Tag2MaskError

GROUPS = (
    run,
    report,
    review,
    data,
    recipes,
    export,
    results,
    ablate,
    demo,
    toy,
    hgr,
)  # in --help's order
_UNFINISHED = re.compile(r"\.([^/\\]+)\.\d+(?:-[0-9a-f]{6})?\.partial")  # names of what is being written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 (problems were found) or 2 (an error the user can act on)."""
    for stream in (sys.stdout, sys.stderr):  # a path that isn't UTF-8 is printed all the same
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options) or 0)
    except Tag2MaskError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "goes on where it stopped" if getattr(options, "resumes", True) else "starts anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a disk that is full, a folder that may not be written
        print(f"error: {_os_text(error)}", file=sys.stderr)
        return 2


def _os_text(error: OSError) -> str:
    """One line of what the system said and about which file; one that isn't whole yet goes by its final name."""
    text = error.strerror or str(error) or type(error).__name__
    if error.filename:
        text += ": " + _UNFINISHED.sub(r"\1", str(error.filename))
    return " ".join(text.split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tag2mask",
        description="From image-level labels to pixel masks and a trained segmentation network (RIB).",
    )
    parser.add_argument("--version", action="version", version=f"tag2mask {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add(commands)
    return parser
