"""`tag2mask recipes`: list, show or validate recipes."""

from __future__ import annotations

import argparse
from typing import Any

from tag2mask.cli.common import add_command


def add(commands: Any) -> None:
    """Add `recipes` and its commands."""
    recipes = commands.add_parser("recipes", help="list, show or validate recipes")
    inner = recipes.add_subparsers(required=True, metavar="COMMAND")
    add_command(inner, "ls", "list the recipes that come with tag2mask", _recipes_ls)
    for name, text, function in (
        ("show", "print a recipe as written", _recipes_show),
        ("validate", "check a recipe's keys, types and ranges", _recipes_validate),
    ):
        add_command(inner, name, text, function).add_argument("recipe", help="a recipe's file or name")


def _recipes_ls(_: argparse.Namespace) -> int:
    from tag2mask.recipe import load_recipe, recipe_folder

    for path in sorted(recipe_folder().glob("*.yaml")):
        print(f"{path.stem:<14} {load_recipe(path).description}")
    return 0


def _recipes_show(options: argparse.Namespace) -> int:
    from tag2mask.recipe import find_recipe

    print(find_recipe(options.recipe).read_text(encoding="utf-8"), end="")
    return 0


def _recipes_validate(options: argparse.Namespace) -> int:
    from tag2mask.recipe import find_recipe, load_recipe

    path = find_recipe(options.recipe)
    print(f"{path}: fine, it is the recipe '{load_recipe(path).name}'")
    return 0
