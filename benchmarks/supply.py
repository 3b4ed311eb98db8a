"""What an installation is made of, and whether the packages that are built from here install and work on their own.

    python benchmarks/supply.py              # every dependency with its licence; pip check
    python benchmarks/supply.py --build      # also: wheel and sdist, each installed in an empty environment

`--build` installs each package with its dependencies (6 GB each, unless they are linked from a cache) and lets it do
the demonstration's photos. Ends with status 1 where packages contradict each other or one doesn't work.
"""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tomllib

REPOSITORY = Path(__file__).resolve().parents[1]
# where it comes from, how many recipes come along, how many pictures the demonstration's photos end in
ASKED = """
from pathlib import Path
import tag2mask
from tag2mask.experiments.demo import showcase
from tag2mask.recipe import recipe_folder
showcase(Path("shown"))
print(tag2mask.__file__)
print(len(list(recipe_folder().glob("*.yaml"))))
print(len(list(Path("shown/showcase").glob("*_mask.jpg"))))
"""
EXTRAS = ("crf", "sal", "onnx", "ray", "demo")


def main() -> int:
    """Parse, look, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", action="store_true", help="build wheel and sdist and install each on its own")
    options = parser.parse_args()
    rows = sorted(licences(own_requirements()))
    print("\n".join(f"| {name} | {version} | {licence} |" for name, version, licence in rows))
    unknown = [name for name, _, licence in rows if licence in ("", "UNKNOWN")]
    print(f"{len(rows)} packages; no licence is told by: {', '.join(unknown) or 'none'}")
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    if "No module named pip" in checked.stderr:
        checked = subprocess.run(["uv", "pip", "check"], capture_output=True, text=True, check=False)
    print(f"pip check: {(checked.stdout + checked.stderr).strip()}")
    return int(bool(checked.returncode or (options.build and not built_packages_work())))


def own_requirements() -> list[str]:
    """What pyproject.toml asks for, extras for users among it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(one for name in EXTRAS for one in project["optional-dependencies"][name])]


def licences(requirements: list[str]) -> Iterator[tuple[str, str, str]]:
    """Name, version and licence of everything that is needed, at any depth, and installed here."""
    seen: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]).lower()
        if name in seen or re.search(r"extra\s*==", requirement):
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another system or Python
        yield found.metadata["Name"], found.version, licence_of(found.metadata)
        waiting += found.requires or ()


def licence_of(about: metadata.PackageMetadata) -> str:
    """A package's licence as it tells it: an SPDX expression, else its classifiers, else its first line on it."""
    told = about.get_all("Classifier") or []
    classified = [text.rpartition(" :: ")[2] for text in told if text.startswith("License ::")]
    text = (about.get("License") or "").strip().splitlines()
    return about.get("License-Expression") or ", ".join(classified) or (text[0][:60] if text else "")


def built_packages_work() -> bool:
    """Build both packages and use each in an environment of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [*_uv(), "build", "--out-dir", str(folder / "dist"), str(REPOSITORY)]
        if subprocess.run(build, check=False).returncode:
            return False
        packages = sorted((folder / "dist").glob("tag2mask*.*"))
        return sum(works(package, folder) for package in packages) == len(packages) == 2


def works(package: Path, folder: Path) -> bool:
    """Whether a package installs in an empty environment, with what it needs, and does the demonstration's photos."""
    home = folder / package.name.replace(".", "_")
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    install = [*_uv(), "pip", "install", "--python", str(python), f"tag2mask[demo] @ {package.as_uri()}"]
    if subprocess.run(install, check=False).returncode:
        print(f"{package.name}: does not install")
        return False
    answer = subprocess.run([str(python), "-I", "-c", ASKED], cwd=folder, capture_output=True, text=True, check=False)
    where, recipes, pictures = (answer.stdout.splitlines() or [""])[-3:] if not answer.returncode else ("", "0", "0")
    print(f"{package.name}: installs; {recipes} recipes, {pictures} pictures of the demonstration, from {where}")
    if answer.returncode:
        print(answer.stderr.strip()[-500:])
    return where.startswith(str(home)) and int(recipes) > 0 and int(pictures) > 0


def _uv() -> list[str]:
    beside = Path(sys.executable).with_name("uv")
    return [str(beside) if beside.exists() else "uv"]


if __name__ == "__main__":
    sys.exit(main())
