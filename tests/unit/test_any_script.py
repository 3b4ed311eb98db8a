"""Work over processes from any kind of program: without a guard, piped in, in a thread, in a child, in a notebook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tag2mask

TESTS = Path(__file__).parents[1]
SOURCES = Path(tag2mask.__file__).parents[1]
HEAD = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(SOURCES)!r}]
print("began")
from pathlib import Path
from script_work import Touch
from tag2mask.engine.images import run_images
from tag2mask.runs.folder import StageFolder

def work(name, make=Touch, processes=2):
    out = Path(name)
    folder = StageFolder(out, "refine", config={{}}, seed=0, inputs={{}})
    run_images(["a", "b", "c"], make, (out,), folder, processes=processes, total=3, description="work")
    print(sorted(path.name for path in out.iterdir()), folder.failures)
"""
ALL = "['a', 'b', 'c', 'manifest.json'] {}"


def run_script(text: str, folder: Path, *, piped: bool = False, guard: bool = False) -> subprocess.CompletedProcess:
    """Run HEAD and `text`, as a file or piped into python."""
    script = HEAD + ("if __name__ == '__main__':\n    " + text.replace("\n", "\n    ") if guard else text) + "\n"
    (folder / "mine.py").write_text(script)
    command = [sys.executable, "-"] if piped else [sys.executable, "mine.py"]
    given = script if piped else None
    return subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("how", [{}, {"piped": True}, {"guard": True}])
def test_a_script_runs_once(how: dict[str, bool], tmp_path: Path) -> None:
    done = run_script("work('out')", tmp_path, **how)
    assert done.returncode == 0, done.stderr
    began = 3 if how.get("guard") else 1  # a script with a guard is read by each worker, as Python does it
    assert done.stdout.count("began") == began  # workers may write into one another's lines
    assert done.stdout.splitlines()[-1].endswith(ALL)


def test_a_thread_and_an_exec_and_a_process_that_may_have_no_children(tmp_path: Path) -> None:
    text = """
import multiprocessing, threading
thread = threading.Thread(target=work, args=("thread",))
thread.start(); thread.join()
exec("work('exec')", {"work": work, "__name__": "notebook"})
with multiprocessing.get_context("fork").Pool(1) as pool:
    pool.apply(work, ("pool", Touch, 0))
sys.stdout.flush()
"""
    done = run_script(text, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(ALL) == 3
    assert "Traceback" not in done.stderr


def test_work_that_only_the_script_has_is_refused_before_any(tmp_path: Path) -> None:
    done = run_script("class Mine(Touch): pass\nwork('out', Mine)", tmp_path)
    assert done.returncode == 1
    assert "ConfigError: the work is defined in the script itself" in done.stderr.splitlines()[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]
    done = run_script("class Mine(Touch): pass\nwork('one', Mine, 1)", tmp_path)
    assert ALL in done.stdout


def test_a_call_beside_the_guard_is_named(tmp_path: Path) -> None:
    done = run_script("work('out')\nif __name__ == '__main__':\n    print('main')", tmp_path)
    assert done.returncode == 1
    assert "ConfigError: worker processes ended before they began" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "a").exists()
