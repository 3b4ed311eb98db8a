"""The server of the page: files of the page, rows, pictures, and decisions that come back (Starlette and uvicorn)."""

from __future__ import annotations

import gzip
import json
import secrets
import socket
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tag2mask.common.errors import ConfigError, DataError, MissingExtraError, Tag2MaskError
from tag2mask.reports.palette import class_colour, heat_gradient, hex_colour
from tag2mask.review import thresholds
from tag2mask.review.alike import Alike
from tag2mask.review.guard import App, Guard
from tag2mask.review.index import Row, build_index
from tag2mask.review.pictures import MASK_SIDES, mask_pixels, photo_jpeg, strongest
from tag2mask.review.store import Conflict, Store, exported
from tag2mask.review.subjects import Subject, open_subjects
from tag2mask.runs.decisions import in_use

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

WEB = Path(__file__).parent / "web"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
KEPT = "private, max-age=31536000, immutable"  # addresses of pictures change with what they show


class Review:
    """One run under review: what is answered to each address, without a word of HTTP."""

    def __init__(self, run: Path) -> None:
        self.subjects = open_subjects(run)
        self.rows = build_index(self.subjects)
        self.store = Store(self.subjects)
        self.alike = Alike(self.subjects)
        self.cover = thresholds.cover_by_class(self.rows, self.subjects.classes)
        self.least = thresholds.least_by_class(self.cover, self.subjects.cut.threshold)

    def about(self) -> dict[str, Any]:
        """What the page shows around its photos."""
        subjects, cut = self.subjects, self.subjects.cut
        colours = [hex_colour(class_colour(index)) for index in range(len(subjects.classes))]
        return {
            "name": subjects.name,
            "folder": str(subjects.run),
            "classes": [{"name": name, "colour": c} for name, c in zip(subjects.classes, colours, strict=True)],
            "heat": heat_gradient(),
            "cut": cut.__dict__,
            "own": subjects.own,
            "refinement": in_use(subjects.run),  # of which lines with scores are that name none
            "cover": self.cover,
        }

    def photos(self) -> list[dict[str, Any]]:
        """A row for each photo."""
        return [self._photo(self.subjects.photos[name], row) for name, row in self.rows.items()]

    def _photo(self, subject: Subject, row: Row) -> dict[str, Any]:
        told = ("size", "cover", "classes", "lost", "agreement", "doubt", "problem", "stamp")
        return {
            "id": subject.id,
            "tags": subject.own,
            "split": subject.split,
            "layers": subject.layers,
            "kinds": subject.kinds,
            "doubted": self.subjects.doubted.get(subject.id, []),
            "lostAt": thresholds.lost_at(row, self.least),
            **{key: row[key] for key in told if key in row},
        }

    def lines(self, since: int) -> dict[str, Any]:
        """The decisions from line `since` on; `of`: how many there are, too few where the log was replaced."""
        found, count = self.store.lines(since)
        return {"lines": found, "of": count}


def make_app(review: Review, token: str, hosts: list[str]) -> App:
    """The application; requests must name the token and one of the hosts. MissingExtraError without the extra."""
    try:
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtraError("starlette", "review", "tag2mask review") from error
    routes: list[tuple[str, str, Callable[[Review, Request, bytes], Response]]] = [
        ("GET", "/", lambda review, request, body: _file("index.html")),
        ("GET", "/web/{name}", lambda review, request, body: _file(request.path_params["name"])),
        ("GET", "/about", lambda review, request, body: _json(review.about())),
        ("GET", "/photos", lambda review, request, body: _json(review.photos())),
        ("GET", "/lines", lambda review, request, body: _json(review.lines(_number(request, "since")))),
        ("POST", "/lines", _take_lines),
        ("GET", "/photo", _photo),
        ("GET", "/mask", _mask),
        ("PUT", "/mask", _save_mask),
        ("DELETE", "/mask", _drop_mask),
        ("GET", "/cut", _cut),
        ("GET", "/alike", _alike),
        ("GET", "/decisions.zip", _export),
    ]
    made = [Route(path, _endpoint(review, function), methods=[method]) for method, path, function in routes]
    return Guard(Starlette(routes=made), token, hosts)


def _endpoint(review: Review, function: Callable[[Review, Request, bytes], Response]) -> Callable[[Request], Any]:
    """Answer in a thread, as pictures take time; what the user can act on comes back as a text."""
    from starlette.concurrency import run_in_threadpool

    async def answer(request: Request) -> Response:
        body = await request.body()
        try:
            return await run_in_threadpool(function, review, request, body)
        except Conflict as conflict:
            return _json({"error": str(conflict)}, 409)
        except Tag2MaskError as error:
            return _json({"error": str(error)}, 422)

    return answer


def _json(value: Any, status: int = 200) -> Response:
    from starlette.responses import Response

    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return _packed(Response, text.encode(), "application/json", {"Cache-Control": "no-store"}, status)


def _packed(
    make: Callable[..., Response], content: bytes, kind: str, headers: dict[str, str], status: int = 200
) -> Response:
    """A response that travels compressed: rows and masks shrink to a tenth."""
    packed = gzip.compress(content, compresslevel=1, mtime=0)
    more = {**headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return make(packed, status_code=status, media_type=kind, headers=more)


def _file(name: str) -> Response:
    from starlette.responses import Response

    path = next((path for path in WEB.iterdir() if path.name == name and path.suffix in TYPES), None)
    if path is None:
        return Response("not found", status_code=404)
    return Response(path.read_bytes(), headers={"Content-Type": TYPES[path.suffix], "Cache-Control": "no-cache"})


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not text.isdecimal() or len(text) > 9:
        raise DataError(f"{name} must be a whole number, not '{text[:20]}'; reload the page")
    return int(text)


def _subject(review: Review, request: Request) -> Subject:
    return review.subjects.photo(request.query_params.get("id", ""))


def _photo(review: Review, request: Request, body: bytes) -> Response:
    from starlette.responses import Response

    jpeg = photo_jpeg(review.subjects, _subject(review, request), _number(request, "side"))
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": KEPT})


def _mask(review: Review, request: Request, body: bytes) -> Response:
    layer = request.query_params.get("layer", "none")
    return _pixels(mask_pixels(review.subjects, _subject(review, request), layer, _number(request, "side")))


def _cut(review: Review, request: Request, body: bytes) -> Response:
    kind = request.query_params.get("kind", "")
    return _pixels(strongest(review.subjects, _subject(review, request), kind, _number(request, "side")))


def _alike(review: Review, request: Request, body: bytes) -> Response:
    height, width = _number(request, "height"), _number(request, "width")
    x, y = _number(request, "x"), _number(request, "y")
    if not (0 <= y < height <= max(MASK_SIDES) and 0 <= x < width <= max(MASK_SIDES)):
        raise DataError(f"no point {x}, {y} of a mask of {width} x {height} pixels; reload the page")
    place = (y + 0.5) / height, (x + 0.5) / width
    values, parting = review.alike.to(_subject(review, request), place, (height, width))
    return _pixels(values, {"X-Parting": f"{parting:.3f}"})


def _pixels(values: np.ndarray, more: Mapping[str, str] | None = None) -> Response:
    """Bytes (..., h, w) with their width and height: a canvas could alter what it reads from a picture."""
    from starlette.responses import Response

    sides = {"X-Height": str(values.shape[-2]), "X-Width": str(values.shape[-1]), "Cache-Control": KEPT}
    sides |= more or {}
    return _packed(Response, values.tobytes(), "application/octet-stream", sides)


def _take_lines(review: Review, request: Request, body: bytes) -> Response:
    try:
        lines = json.loads(body)
    except ValueError as error:
        raise DataError(f"no list of decisions ({error}); reload the page") from error
    if not isinstance(lines, list) or not 0 < len(lines) <= 10_000:
        raise DataError("no list of decisions; reload the page")
    review.store.add(lines)
    return _json(review.lines(_number(request, "since")))


def _save_mask(review: Review, request: Request, body: bytes) -> Response:
    height, width = _number(request, "height"), _number(request, "width")
    if height * width != len(body) or not body:
        raise DataError(f"a mask of {height} x {width} pixels has as many bytes, not {len(body)}; reload the page")
    mask = np.frombuffer(body, np.uint8).reshape(height, width)
    review.store.save_mask(request.query_params.get("id", ""), mask, request.query_params.get("base", ""))
    return _json(review.lines(_number(request, "since")))


def _drop_mask(review: Review, request: Request, body: bytes) -> Response:
    review.store.drop_mask(request.query_params.get("id", ""), request.query_params.get("base", ""))
    return _json(review.lines(_number(request, "since")))


def _export(review: Review, request: Request, body: bytes) -> Response:
    from starlette.responses import Response

    name = 'attachment; filename="decisions.zip"'
    return Response(
        exported(review.subjects.run), media_type="application/zip", headers={"Content-Disposition": name}
    )


def serve(run: Path, *, port: int = 0, browser: bool = True, say: Callable[[str], None] = print) -> None:
    """Serve the page of a run on this machine until Ctrl+C; port 0 takes a free one.

    Raises ConfigError for a port that is taken or a folder that is no run's, MissingExtraError without the extra.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("uvicorn", "review", "tag2mask review") from error
    listening = _listen(port)
    with listening:
        number, token = listening.getsockname()[1], secrets.token_urlsafe(16)
        app = make_app(Review(run), token, [f"127.0.0.1:{number}", f"localhost:{number}"])
        address = f"http://127.0.0.1:{number}/{token}/"
        say(f"review: {address}\n  on this machine only; decisions go to {run / 'review'} at once; Ctrl+C ends it")
        if browser:
            webbrowser.open(address)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen()  # so that a browser that is quicker than the server waits
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigError(f"--port {port}: can't be used ({error}); choose another, or leave it out") from error
    return listening
