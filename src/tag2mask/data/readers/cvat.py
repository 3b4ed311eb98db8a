"""CVAT's "CVAT for images 1.1": one annotations.xml with the tags and shapes of every image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from tag2mask.data.readers.found import IMAGE_FOLDERS, Folders, Found, Query, Row, check_complete
from tag2mask.data.readers.located import Located
from tag2mask.data.readers.mask_files import give_masks
from tag2mask.data.records import BadFileError
from tag2mask.data.words import nfc, split_name

LOOKS_FOR = "annotations.xml (CVAT for images 1.1)"
NAME = "annotations.xml"
_SHAPES = frozenset({"tag", "box", "polygon", "polyline", "points", "mask", "ellipse", "cuboid", "skeleton"})


@dataclass
class Annotations:
    """What an annotations.xml lists."""

    images: list[tuple[str, str, list[str]]] = field(default_factory=list)  # name, subset, labels
    labels: list[str] = field(default_factory=list)  # of the task, in its order


def matches(root: Path) -> bool:
    """Tell whether `root` is or holds such a file."""
    path = root if root.is_file() else root / NAME
    if path.suffix.lower() != ".xml" or not path.is_file():
        return False
    with path.open("rb") as stream:
        return b"<annotations" in stream.read(4096)


def read(root: Path, query: Query) -> Found:
    """Read the labels of every image's tags and shapes; an image without any is a negative."""
    path = root if root.is_file() else root / NAME
    listed = parse(path)
    home = path.parent
    found = Found(
        home.name,
        known=tuple(dict.fromkeys(listed.labels)) or None,
        known_from=f"the labels of {path.name}",
    )
    folders = Folders(home)
    located = Located.find(folders, (name for name, _, _ in listed.images), IMAGE_FOLDERS)
    located.say(found, path.name)
    for number, (name, subset, labels) in enumerate(listed.images):
        actual, place = located.names[name], f"image {number}"
        if actual is None:
            message = f"image '{name}' {located.why.get(name, 'is not on disk')}"
            found.report("missing-image", path.name, place, message, "add the file or delete its entry")
            continue
        row = Row(folders.root / actual, actual, list(dict.fromkeys(labels)), split_name(subset) or "")
        row.file, row.at, row.negative = path.name, place, not labels
        found.rows.append(row)
    check_complete(found, path.name)
    give_masks(found, folders, found.rows)
    return found


def parse(path: Path) -> Annotations:
    """Read the file element by element; BadFileError for a document type, entities, video, and damaged XML."""
    result = Annotations()
    stack: list[str] = []
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise BadFileError(path, "declares a document type or entities", "delete the <!DOCTYPE ...> part")

    def start(tag: str, attributes: dict[str, str]) -> None:
        stack.append(tag)
        if tag == "track":
            raise BadFileError(path, "holds tracks of a video", "export it as 'CVAT for images 1.1'")
        if stack[1:] == ["image"]:
            result.images.append((attributes.get("name", ""), attributes.get("subset", ""), []))
        elif len(stack) == 3 and stack[1] == "image" and tag in _SHAPES and attributes.get("label"):
            result.images[-1][2].append(nfc(attributes["label"].strip()))
        elif stack[-2:] == ["label", "name"] and "meta" in stack:
            result.labels.append("")

    def text(data: str) -> None:
        if stack[-2:] == ["label", "name"] and "meta" in stack:
            result.labels[-1] += nfc(data.strip())

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop() and None
    parser.CharacterDataHandler = text
    try:
        with path.open("rb") as stream:
            parser.ParseFile(stream)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise BadFileError(path, f"is not valid XML ({error})", "export it again") from error
    return result
