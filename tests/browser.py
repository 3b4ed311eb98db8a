"""A review's page in a real browser: server and Chromium for tests and for the documentation's picture."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOKEN = "a-token"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def served(run: Path) -> Iterator[str]:
    """Serve the review of a run; yields the page's address."""
    import uvicorn

    from tag2mask.review.server import Review, make_app

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(make_app(Review(run), TOKEN, [host]), log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://{host}/{TOKEN}/"
        finally:
            server.should_exit = True
            thread.join(10)
