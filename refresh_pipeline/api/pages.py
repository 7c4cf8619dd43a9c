"""The dashboard's files: one page at every address of it, and what that page loads. The browser draws the rest.

Files are looked up by their name among those that the package ships; nothing is ever joined to a path.
"""

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from fastapi import APIRouter, Request
from starlette.responses import Response

from refresh_pipeline.api.answers import Body, answer
from refresh_pipeline.api.encoding import tag_of
from refresh_pipeline.api.problems import Problem, ProblemError

router = APIRouter(include_in_schema=False)

PAGES = (
    "/",
    "/series",
    "/series/{rest:path}",
    "/signals",
    "/gaps",
    "/runs",
    "/runs/{rest}",
    "/files",
    "/sources",
    "/sources/{rest:path}",
    "/alerts",
    "/settings",
    "/docs",
)
# No script and no style but our files, no other host, no frame. The chart's prices are drawn on a canvas.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}
INDEX = "index.html"


@cache
def static_files() -> dict[str, Body]:
    """Every file of the dashboard by its name below `/static/`."""
    return dict(_walk(files("refresh_pipeline.api").joinpath("static"), PurePosixPath()))


def _walk(folder: Traversable, below: PurePosixPath) -> list[tuple[str, Body]]:
    bodies: list[tuple[str, Body]] = []
    for entry in folder.iterdir():
        name = below / entry.name
        if entry.is_dir():
            bodies += _walk(entry, name)
        elif name.suffix in MEDIA_TYPES:
            content = entry.read_bytes()
            bodies.append((str(name), Body(content, MEDIA_TYPES[name.suffix], tag_of(content))))
    return bodies


@router.get("/static/{name:path}")
async def static_file(request: Request, name: str) -> Response:
    """A file of the dashboard."""
    body = static_files().get(name)
    if body is None:
        raise ProblemError(Problem.unknown_route, f"/static/{name}: the dashboard has no such file")
    return answer(request, body)


async def page(request: Request) -> Response:
    """The page of the dashboard: its script shows what the address names."""
    body = static_files()[INDEX]
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
    # The browser fetches the page's own module while it reads the others, which would ask for it only then.
    name = request.url.path.split("/")[1] or "overview"
    headers["Link"] = f"</static/pages/{name}.mjs>; rel=modulepreload"
    return answer(request, Body(body.content, body.media_type, body.tag, headers))


for address in PAGES:
    router.add_api_route(address, page, methods=["GET"])
