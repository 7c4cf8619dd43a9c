"""The dashboard's files: one page at every address of it, and what that page loads. The browser draws the rest.

Files are looked up by their name among those that the package ships; nothing is ever joined to a path.
"""

import re
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
IMPORT = re.compile(rb'^import .* from "/static/([^"]+)";$', re.MULTILINE)
# The answers without which a page shows nothing.
FIRST_ASKED = {"overview": ("/api/v1/matrix",)}


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


@cache
def needed_ahead(name: str) -> str:
    """What the browser fetches before a page's scripts would ask for it, as a Link header.

    Without it each module is asked for only when the one that imports it has been read, and the first answer of the API
    after all of them.
    """
    modules, found = [f"pages/{name}.mjs", "app.mjs"], static_files()
    for module in modules:
        imports = IMPORT.findall(found[module].content) if module in found else []
        modules += [each.decode() for each in imports if each.decode() not in modules]
    # The answer takes longest, and a browser has six connections. It is fetched as the script does, with this
    # origin's cookies, or it would be fetched twice.
    links = [f"<{path}>; rel=preload; as=fetch; crossorigin=anonymous" for path in FIRST_ASKED.get(name, ())]
    links += ["</static/app.css>; rel=preload; as=style"]
    links += [f"</static/{module}>; rel=modulepreload" for module in modules if module in found]
    return ", ".join(links)


async def page(request: Request) -> Response:
    """The page of the dashboard: its script shows what the address names."""
    body = static_files()[INDEX]
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
    headers["Link"] = needed_ahead(request.url.path.split("/")[1] or "overview")
    return answer(request, Body(body.content, body.media_type, body.tag, headers))


for address in PAGES:
    router.add_api_route(address, page, methods=["GET"])
