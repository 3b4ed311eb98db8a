"""YAML from anywhere: plain values only, of a bounded size however often its parts are repeated."""

from __future__ import annotations

from typing import Any

import yaml

MOST_TEXT = 128 * 1024  # characters; PyYAML reads some 20,000 a second
MOST_VALUES = 100_000  # once what an alias stands for is written out


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """Return the plain values of a YAML text and its nodes, which know their lines.

    Raises yaml.YAMLError or ValueError for anything else: tags of Python objects, aliases that repeat without end,
    keys that a mapping has twice, more than can be a recipe or a list of names.
    """
    if len(text) > MOST_TEXT:
        raise ValueError(f"it has {len(text)} characters, at most {MOST_TEXT} are read")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None, None
        if _size(node, {}) > MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {MOST_VALUES} values")
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_document(node), node
        finally:
            loader.dispose()
    except RecursionError:
        raise ValueError("too many values lie in each other") from None


def as_written(node: yaml.Node | None, key: str) -> Any:
    """Return the texts, or texts by key, below a key of a mapping as they are written: no is "no", 007 "007".

    None for anything else.
    """
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    found = next((value for name, value in pairs if name.value == key), None)
    if isinstance(found, yaml.SequenceNode):
        return [item.value for item in found.value] if _are_texts(found.value) else None
    if isinstance(found, yaml.MappingNode) and _are_texts([part for pair in found.value for part in pair]):
        return {name.value: item.value for name, item in found.value}
    return None


def _are_texts(nodes: list[yaml.Node]) -> bool:
    return all(isinstance(node, yaml.ScalarNode) and not node.tag.endswith(":merge") for node in nodes)


def _refuse_repeated(mapping: yaml.MappingNode) -> None:
    """Raise ValueError for a key that is written twice, of which YAML would take the last; << may be."""
    first: dict[tuple[str, str], yaml.Node] = {}
    for key, _ in mapping.value:
        if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
            before = first.setdefault((key.tag, key.value), key)
            if before is not key:
                lines = key.start_mark.line + 1, before.start_mark.line + 1
                raise ValueError(f"line {lines[0]}: '{key.value}' is there already, in line {lines[1]}; keep one")


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Number of values below a node with aliases written out; endless where it holds itself."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = float("inf")
    if isinstance(node, yaml.MappingNode):
        _refuse_repeated(node)
        size = sum(_size(key, known) + _size(value, known) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        size = sum(_size(value, known) for value in node.value)
    else:
        size = 1
    known[id(node)] = 1 + size
    return 1 + size
