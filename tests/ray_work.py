"""Work for the tests of a Ray cluster, in a module that workers import in no time."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tag2mask.common.errors import DataError, MissingExtraError


class Work:
    """Appends its process id to the image's file; image1 is broken, image3 kills its worker once, image4 always."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __call__(self, image_id: str) -> None:
        if image_id == "image1":
            raise DataError("image1.jpg: broken")
        if image_id == "image3" and not (self.out / "died").exists():
            (self.out / "died").touch()
            os._exit(9)
        if image_id == "image4":
            os._exit(9)
        with (self.out / image_id).open("a") as stream:
            stream.write(f"{os.getpid()}\n")


class WhichGPU:
    """Writes into each image's file which GPU its worker sees, and how many images it did together.

    The first waits until a second worker is at work, so that none does all of them while another still starts.
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    def __call__(self, image_id: str) -> None:
        self.together((image_id,))

    def together(self, image_ids: tuple[str, ...]) -> None:
        (self.out / f"at work {os.getpid()}").touch()
        until = time.monotonic() + 60
        while len(list(self.out.glob("at work *"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        for image_id in image_ids:
            text = f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.getpid()} {len(image_ids)}"
            (self.out / image_id).write_text(text)


class NoWork:
    """Can't be built."""

    def __init__(self) -> None:
        raise MissingExtraError("pydensecrf2", "crf", "refine.method: crf")
