"""How the pipeline fares: health of this process, readiness to serve, and the pages of problems."""

from importlib.metadata import version

from fastapi import APIRouter, Request
from starlette.responses import Response

from refresh_pipeline.api.answers import json_response
from refresh_pipeline.api.problems import Problem, ProblemError, explanation_page
from refresh_pipeline.api.service import service_of
from refresh_pipeline.market.candles import iso_utc

router = APIRouter(tags=["operation"])
VERSION = version("refresh-pipeline")


@router.get("/api/v1/health")
async def health(request: Request) -> Response:
    """Healthy while the process answers."""
    now = iso_utc(service_of(request).now())
    return json_response({"status": "healthy", "timestamp": now, "version": VERSION})


@router.get("/problems/{name}")
async def problem(name: str) -> Response:
    """What a problem's type means."""
    found = Problem.of_slug(name)
    if found is None:
        names = [one.slug for one in Problem]
        raise ProblemError(Problem.unknown_problem, f"name: found {name!r}; see allowed", allowed=names)
    return json_response(explanation_page(found))
