"""A run that is killed again and again until it finishes: what it leaves equals that of an uninterrupted run.

    python benchmarks/kill_campaign.py [--kills 50] [--at-files] [--processes 1] [--workers 0] [--ray local]

Makes a few tiny photos, runs the whole chain (IRN and the segmentation network too) once without and then again and
again with SIGKILL to the process group at random moments, until enough kills were survived. With `--at-files` the
moments are not of time: a run dies before a file is opened for writing, renamed, removed or a folder is made, drawn
from all that the uninterrupted run does; it is forked, so that it needn't import anything again. After each round
both folders hold the same files, byte for byte, times and the machine aside, nothing half-written is left, and no
process of the run lives on. Ends with status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
Run = Callable[[list[str], Path, "float | None", "Counter[str]"], int]
ALONE = 40.0  # seconds that orphans may take to notice that their parent is gone


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kills", type=int, default=50, help="how many, over as many rounds as it takes (default 50)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--ray", help="local, or an address")
    parser.add_argument("--at-files", action="store_true", help="kill before a change on disk, in forked runs")
    parser.add_argument("--folder", type=Path, help="where it works (default: a temporary folder)")
    parser.add_argument("--recipe", type=Path, help="another recipe than the tests' tiny one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        return campaign(options, options.folder or Path(name))


def campaign(options: argparse.Namespace, folder: Path) -> int:
    """Make the data, run, kill, compare; returns the exit status."""
    recipe = prepare(folder, options.recipe)
    started = time.monotonic()
    command = command_of(options, folder, recipe)
    run = forked if options.at_files else run_once
    done = options.at_files and (folder / "whole.count").exists()  # of an earlier campaign in this folder
    whole = 0 if done else run([*command, "--out", str(folder / "whole")], folder / "whole.log", None, Counter())
    length = time.monotonic() - started
    moments = int((folder / "whole.count").read_text()) if options.at_files else length
    if whole != 0:
        print(f"the uninterrupted run ended with {whole}; see {folder / 'whole.log'}")
        return 1
    from tag2mask.runs.compare import contents, differences

    files = len(contents(folder / "whole"))
    unit = "changes on disk" if options.at_files else "s"
    print(f"uninterrupted: {moments:.0f} {unit}, {files} files", flush=True)
    rng, kills, rounds, wrong = random.Random(options.seed), 0, 0, []
    stages: Counter[str] = Counter()
    while kills < options.kills:
        rounds += 1
        out = folder / f"round{rounds}"
        survived = one_round(run, command, out, rng, moments, options.kills - kills, stages)
        kills += survived
        found = differences(folder / "whole", out) + leftovers(out)
        wrong += [f"round {rounds}: {line}" for line in found]
        print(f"round {rounds}: {survived} kills, {'the same' if not found else found[:5]}", flush=True)
        shutil.rmtree(out)
    print(f"{kills} kills in {rounds} rounds, {len(wrong)} differences; killed in: {dict(stages.most_common())}")
    return 1 if wrong else 0


def prepare(folder: Path, recipe: Path | None) -> Path:
    """Write photos and the recipe."""
    sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "tests")]
    import tiny_run

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "farm").exists():
        tiny_run.write_photos(folder / "farm")
    path = folder / "tiny.yaml"
    path.write_text(tiny_run.RECIPE if recipe is None else recipe.read_text("utf-8"), encoding="utf-8")
    return path


def command_of(options: argparse.Namespace, folder: Path, recipe: Path) -> list[str]:
    """The run's command, without --out."""
    wide = [f"--processes={options.processes}", f"--workers={options.workers}", f"--devices={options.devices}"]
    more = [] if options.ray is None else [f"--ray={options.ray}"]
    base = [sys.executable, "-m", "tag2mask.cli", "run", str(recipe), "--data", str(folder / "farm")]
    return [*base, "--device", "cpu", *wide, *more]


def run_once(command: list[str], log: Path, after: float | None, stages: Counter[str]) -> int:
    """Run the command; kill its process group `after` seconds. Returns its exit status, -9 where it was killed."""
    mark = f"KILL_CAMPAIGN={os.getpid()}-{time.monotonic_ns()}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src")]), mark.split("=")[0]: mark}
    with open(log, "ab") as stream:
        stream.write(b"--- again\n")
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, start_new_session=True, env=environment, cwd=log.parent
        )
        try:
            return process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            stages[stage_of(log)] += 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            refuse_orphans(mark)
            return -signal.SIGKILL


def forked(command: list[str], log: Path, after: float | None, stages: Counter[str]) -> int:
    """As `run_once`, in a fork of this process that kills itself before its change on disk number `after`."""
    from tag2mask import cli

    process = os.fork()
    if process == 0:
        os.setsid()
        speak_to(log)
        print("--- again", flush=True)
        changes = kill_before(after)
        status = cli.main(command[3:])
        sys.stdout.flush()
        log.with_suffix(".count").write_text(str(changes[0]))
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status == -signal.SIGKILL:
        stages[stage_of(log)] += 1
    return status


def speak_to(log: Path) -> None:
    """Let everything that this process says from now on go to a file."""
    stream = open(log, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (for the rest of the process)
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = stream


def kill_before(after: float | None) -> list[int]:
    """Kill this process' group before its change on disk number `after`; returns where they are counted."""
    changes = [0]

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"):
            changes[0] += 1
            if after is not None and changes[0] >= after:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(look)
    return changes


def refuse_orphans(mark: str) -> None:
    """Wait for processes that carry the mark in their environment to end; raise where one lives on."""
    deadline = time.monotonic() + ALONE
    while True:
        alive = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if carries(pid, mark)]
        if not alive:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes outlive the run that was killed: {alive}")
        time.sleep(0.5)


def carries(pid: str, mark: str) -> bool:
    """Whether a process has the mark in its environment, and isn't a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return state != "Z" and mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def stage_of(log: Path) -> str:
    """What the run said last that it was doing."""
    text = log.read_text("utf-8", "replace").rsplit("--- again", 1)[-1]
    said = re.findall(r"^\d+/\d+ (.*)$", text, re.MULTILINE)
    return said[-1] if said else "start"


def one_round(
    run: Run, command: list[str], out: Path, rng: random.Random, length: float, most: int, stages: Counter[str]
) -> int:
    """Run with kills until the run is finished; returns how many it survived."""
    kills = 0
    while True:
        # many soon after the start, which has much to do before it goes on; some much later
        after = 1 + rng.uniform(0, length * rng.choice((0.01, 0.05, 0.15, 0.6))) if kills < most else None
        status = run([*command, "--out", str(out)], out.with_suffix(".log"), after, stages)
        if status == 0:
            return kills
        if status != -signal.SIGKILL:
            raise RuntimeError(f"a run that was killed doesn't go on: status {status}; see {out.with_suffix('.log')}")
        kills += 1


def leftovers(out: Path) -> list[str]:
    """Half-written files that nobody took away."""
    return [f"left: {path.relative_to(out)}" for path in out.rglob("*") if ".partial" in path.name]


if __name__ == "__main__":
    sys.exit(main())
