"""`tag2mask export`: results in the form that others expect, a command for each line of `exports.EXPORTS`."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from tag2mask.exports import EXPORTS


class LateParser(argparse.ArgumentParser):
    """A command whose module is loaded when it is chosen: --help of the others must not wait for torch."""

    module = ""  # that has `add_options` and `export`; "" once it is loaded

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as usual, with the module's options."""
        if self.module:
            export = import_module(self.module)
            self.module = ""
            self.set_defaults(command=export.export, resumes=False)
            export.add_options(self)
        return super().parse_known_args(args, namespace)


def add(commands: Any) -> None:
    """Add `export` and its commands."""
    text = "results in the form that others expect"
    inner = commands.add_parser("export", help=text, description=text).add_subparsers(
        required=True, metavar="COMMAND", parser_class=LateParser
    )
    for name, (module, text) in EXPORTS.items():
        inner.add_parser(name, help=text, description=text[0].upper() + text[1:]).module = module
