"""What `from tag2mask import ...` gives, in a process that has loaded everything else too."""

from __future__ import annotations

import subprocess
import sys

import tag2mask


def test_public_names_are_functions_and_classes_whatever_was_loaded_before() -> None:
    code = (
        "import importlib, pkgutil, tag2mask\n"
        "for found in pkgutil.iter_modules(tag2mask.__path__): importlib.import_module(f'tag2mask.{found.name}')\n"
        "from tag2mask.chain import run\n"
        "assert tag2mask.run is run\n"
        "assert all(callable(getattr(tag2mask, name)) for name in tag2mask.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run" in tag2mask.__all__
