"""Every problem that an answer may name (RFC 9457), and the error that carries one to the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

PROBLEM_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem: its HTTP status, its title, and the explanation of its page."""

    status: int
    title: str
    explanation: str


class Problem(Enum):
    """The problems, by their name in `/problems/{name}` with _ for -."""

    unknown_market = Kind(404, "Unknown market", "No loaded market has this name. `allowed` lists the loaded ones.")
    unknown_instrument = Kind(404, "Unknown instrument", "No loaded market has it; `nearest` is close to the name.")
    unknown_timeframe = Kind(404, "Unknown timeframe", "The timeframe is unknown, or the market does not have it.")
    unknown_run = Kind(404, "Unknown run", "Dagster knows no run of this id. Old runs are pruned.")
    unknown_schedule = Kind(404, "Unknown schedule", "No schedule or sensor has this name.")
    unknown_api = Kind(404, "Unknown API", "No API collection holds this id.")
    unknown_file = Kind(404, "Unknown file", "The manifest of exports lists no such path: see /api/v1/exports.")
    unknown_problem = Kind(404, "Unknown problem", "No problem has this name.")
    unknown_route = Kind(404, "Unknown route", "The API has no such path: see /openapi.json.")
    ambiguous_timeframe = Kind(400, "Ambiguous timeframe", "M1 means a minute to some and a month to others.")
    ambiguous_instrument = Kind(409, "Ambiguous instrument", "Several loaded markets have the series: add ?market=.")
    unknown_column = Kind(400, "Unknown column", "The layer has no such column: see /api/v1/columns.")
    too_many_cells = Kind(400, "Too many cells", "`limit` times the columns is above a million; `limit` is allowed.")
    invalid_parameter = Kind(422, "Invalid parameter", "`errors` names each parameter, and what is allowed.")
    invalid_body = Kind(422, "Invalid body", "`errors` names each field of the body, and what is allowed.")
    method_not_allowed = Kind(405, "Method not allowed", "The header Allow lists the methods of this path.")
    not_acceptable = Kind(406, "Not acceptable", "No format that Accept names is served; `allowed` lists them.")
    body_too_large = Kind(413, "Body too large", "A body holds 64 kB at most.")
    unsupported_media_type = Kind(415, "Unsupported media type", "Commands take Content-Type: application/json alone.")
    unauthorized = Kind(401, "Unauthorized", "A key is needed: X-API-Key, or Authorization: Bearer.")
    read_only_key = Kind(403, "Read-only key", "The key reads and changes nothing: REFRESH_API_KEY holds the others.")
    origin_not_allowed = Kind(403, "Origin not allowed", "Another site asked: REFRESH_API_ORIGINS lists those allowed.")
    host_not_allowed = Kind(421, "Host not allowed", "The server does not answer to this Host: see REFRESH_API_HOSTS.")
    closed = Kind(403, "Closed", "This path is closed.")
    already_stopped = Kind(400, "Already stopped", "Every schedule and sensor is stopped.")
    already_running = Kind(409, "Already running", "A run of this kind is under way: `run_id`.")
    confirmation_needed = Kind(409, "Confirmation needed", "The command deletes data: add ?confirm=true.")
    not_over_http = Kind(409, "Not over HTTP", "This is a command of the machine itself: `command`.")
    rate_limited = Kind(429, "Rate limited", "Too many requests: wait for the seconds of Retry-After.")
    busy = Kind(503, "Busy", "A writer holds the warehouse: ask again after the seconds of Retry-After.")
    control_unavailable = Kind(503, "Control unavailable", "Dagster's web UI does not answer: see REFRESH_DAGSTER_URL.")
    calendar_ended = Kind(503, "Calendar ended", "The market's calendar is not known so far: update the project.")
    internal = Kind(500, "Internal error", "A fault of this program: the log has it under `id`.")

    @property
    def slug(self) -> str:
        """The name in addresses.

        >>> Problem.unknown_market.slug
        'unknown-market'
        """
        return self.name.replace("_", "-")

    @classmethod
    def of_slug(cls, slug: str) -> "Problem | None":
        """The problem of a name; None where none has it."""
        return _BY_SLUG.get(slug)


_BY_SLUG = {problem.slug: problem for problem in Problem}


class ProblemError(HTTPException):
    """A request that is answered by a problem.

    `status` replaces the problem's, where a predecessor's answer had another. `fields` are members of the body, such as
    `nearest`; `headers` further headers of the answer.
    """

    def __init__(
        self,
        problem: Problem,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(status or problem.value.status, detail, dict(headers or {}))
        self.problem, self.fields = problem, fields


def invalid_parameter(where: str, message: str, received: object) -> ProblemError:
    """The problem of one parameter."""
    errors = [{"where": where, "message": message, "received": received}]
    return ProblemError(Problem.invalid_parameter, f"{where}: found {received!r}; {message}", errors=errors)


def problem_body(problem: Problem, detail: str, instance: str, fields: Mapping[str, Any]) -> bytes:
    """The body of a problem's answer."""
    head = {"type": f"/problems/{problem.slug}", "title": problem.value.title, "status": problem.value.status}
    return orjson.dumps({**head, "detail": clean(detail), "instance": clean(instance), **_clean(fields)})


def problem_response(error: ProblemError, instance: str) -> Response:
    """A problem as an answer to the request for `instance`, a path."""
    fields = {"status": error.status_code, **error.fields}
    body = problem_body(error.problem, str(error.detail), instance, fields)
    return Response(body, error.status_code, error.headers, PROBLEM_TYPE)


def explanation_page(problem: Problem) -> dict[str, Any]:
    """What `/problems/{name}` says."""
    kind = problem.value
    return {"type": f"/problems/{problem.slug}", "title": kind.title, "status": kind.status, "detail": kind.explanation}


def clean(text: str) -> str:
    """A text that JSON can hold: halves of characters become a ?.

    >>> clean("a" + chr(0xD800))
    'a?'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(name)): _clean(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_clean(item) for item in value]
    return value if value is None or isinstance(value, int | float) else clean(str(value))
