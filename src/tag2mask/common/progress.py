"""Progress of long work: a live bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
PLAIN_INTERVAL = 30.0  # seconds between plain lines


def rate_text(per_second: float) -> str:
    """Items a second, or seconds an item."""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def track(iterable: Iterable[T], *, total: int, description: str, done: int = 0) -> Iterator[T]:
    """Yield from `iterable`, showing how many of `total` are done, the rate and the time left.

    `done` items were finished by an earlier run: they count as done but not towards the rate.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from tag2mask.common.bar import bar

        with bar(console) as progress:
            task = progress.add_task(description, total=total, completed=done)
            for item in iterable:
                yield item
                progress.advance(task)
        return
    yield from _track_plain(iterable, total, description, done)


def _track_plain(iterable: Iterable[T], total: int, description: str, done: int) -> Iterator[T]:
    start = last = time.monotonic()
    first = done
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL and done < total:
            rate = (done - first) / (now - start)
            left = (total - done) / rate
            print(
                f"{description}: {done}/{total}, {rate_text(rate)}, {left / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
            last = now
    if done > first:
        seconds = max(time.monotonic() - start, 1e-9)
        text = f"{description}: {done}/{total} in {seconds:.0f} s, {rate_text((done - first) / seconds)}"
        print(text, file=sys.stderr, flush=True)
