"""A browser's session: a key once, then a signed cookie."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, StringConstraints
from starlette.responses import Response

from refresh_pipeline.api.answers import json_response
from refresh_pipeline.api.guard import ROLE, is_https
from refresh_pipeline.api.login import Role, ended_cookie
from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.api.service import service_of

router = APIRouter(prefix="/api/v1", tags=["session"])
SESSION = "/api/v1/session"


class Opening(BaseModel):
    """The body of POST /session."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=1000)]


@router.post("/session", status_code=204, response_class=Response)
async def open_session(request: Request, opening: Opening) -> Response:
    """Set the cookie of a session: as much may be done with it as with its key."""
    service = service_of(request)
    if not service.keys:
        return Response(None, 204)
    address = request.client.host if request.client else ""
    _, reason = service.guard.role_of(opening.key, address)
    if reason is not None:
        problem = Problem.of_slug(reason.name) or Problem.unauthorized
        headers = {"WWW-Authenticate": "Bearer", **reason.headers} if reason.status == 401 else reason.headers
        raise ProblemError(problem, reason.detail, headers=headers)
    cookie = service.guard.session_cookie(opening.key, secure=is_https(request.headers.get("origin", "")))
    return Response(None, 204, {"Set-Cookie": cookie})


@router.get("/session/role")
async def role(request: Request) -> Response:
    """Whether this server asks for a key, and what the caller's may do: `full`, or `read`."""
    held: Role = request.scope.get(ROLE) or Role.full
    return json_response({"key_needed": bool(service_of(request).keys), "role": held.value})


@router.delete("/session", status_code=204, response_class=Response)
async def end_session() -> Response:
    """End the session."""
    return Response(None, 204, {"Set-Cookie": ended_cookie()})
