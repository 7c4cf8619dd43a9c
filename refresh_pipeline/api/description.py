"""The description of the API, OpenAPI 3.1: what FastAPI knows of the routes, and what only we know.

That is the problems that every route may answer, the media types of answers that are no JSON, and who may ask.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from refresh_pipeline.api.access import PUBLIC
from refresh_pipeline.api.encoding import MEDIA_TYPES
from refresh_pipeline.api.login import COOKIE
from refresh_pipeline.api.problems import PROBLEM_TYPE

Spec = dict[str, Any]

SCHEMES = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
}
# Answers that are no JSON, by path.
TYPES = {
    "/api/v1/data/{instrument}/{timeframe}": tuple(dict.fromkeys(MEDIA_TYPES.values())),
    "/api/v1/snapshots/{collection}/{api}": tuple(dict.fromkeys(MEDIA_TYPES.values())),
    "/api/v1/files/{path}": ("application/octet-stream", "text/csv", "application/vnd.apache.parquet"),
    "/api/v1/events": ("text/event-stream",),
    "/metrics": ("text/plain",),
    "/udf/time": ("text/plain",),
}
# What a route of any method may answer instead.
PROBLEMS = {
    "400": "A name has several readings, a column is unknown, or an answer would be too large.",
    "401": "A key is needed: X-API-Key, Authorization: Bearer, or a session.",
    "403": "The key reads only, or another site's page asked.",
    "404": "A name is unknown; `nearest` and `allowed` help.",
    "406": "No format that Accept names is served.",
    "409": "Two markets have the series, a run is under way, or the command is one of the machine itself.",
    "421": "The server does not answer to this Host.",
    "422": "`errors` names each parameter or field, and what is allowed.",
    "429": "Too many requests; Retry-After says when to ask again.",
    "503": "A writer holds the warehouse, or Dagster does not answer; Retry-After says when to ask again.",
}
WITH_BODY = {"413": "The body is above 64 kB.", "415": "A command takes application/json alone."}
PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "The address of the problem's explanation."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was wanted, what was received, what to do."},
        "instance": {"type": "string"},
    },
}
FAULTS_OF_BINANCE = "/binance/"
# A part that does not work is told by 503 with the body of 200.
HEALTH = ("/health", "/api/v1/ready", "/pipeline/health", "/api/v2/health")
# Parameters that speak for themselves in the code.
PARAMETERS = {
    "market": "A loaded market; all of them, or the only one that fits, where it is left out.",
    "instrument": "The instrument, in any spelling: EUR/USD, EUR-USD, EURUSD.",
    "timeframe": "The timeframe, by any of its names.",
    "name": "The name, as the list of these has it.",
    "path": "The path, as the manifest has it.",
    "limit": "The number of rows at most.",
    "since": "From this instant on: ISO 8601, or milliseconds since 1970.",
    "until": "Before this instant: ISO 8601, or milliseconds since 1970.",
    "start_date": "From this instant or day on.",
    "end_date": "Up to this instant or day.",
}


def describe(app: FastAPI) -> None:
    """Make /openapi.json complete."""
    plain = app.openapi

    def complete() -> Spec:
        if app.openapi_schema is None:
            app.openapi_schema = completed(plain())
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]


def completed(spec: Spec) -> Spec:
    """The description with problems, media types and keys."""
    components = spec.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM_SCHEMA
    components["securitySchemes"] = SCHEMES
    for path, _, operation in operations(spec):
        _complete(path, operation)
    return spec


def operations(spec: Spec) -> Iterator[tuple[str, str, Spec]]:
    """Every operation: its path, its method, its description."""
    for path, item in spec["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def _complete(path: str, operation: Spec) -> None:
    for parameter in operation.get("parameters", ()):
        parameter.setdefault("description", PARAMETERS.get(parameter["name"], ""))
    responses = operation["responses"]
    for status, response in responses.items():
        if status.startswith("2") and path in TYPES:
            response["content"] = {kind: {} for kind in TYPES[path]}
    problems = PROBLEMS | (WITH_BODY if "requestBody" in operation else {})
    for status, text in problems.items():
        known = responses.get(status, {}) if path.startswith(FAULTS_OF_BINANCE) and status == "400" else {}
        responses[status] = _problem(known.get("description", text), path, status)
    if "200" in responses and "get" in operation["operationId"]:
        responses["304"] = {"description": "The client has this answer: If-None-Match named its tag."}
    operation["security"] = [] if path in PUBLIC else [{name: []} for name in SCHEMES] + [{}]
    summary = operation.get("description", "").split(". ")[0].strip().rstrip(".")
    operation["summary"] = summary.replace("\n", " ") or operation.get("summary", "")


def _problem(text: str, path: str, status: str) -> Spec:
    kinds: Spec = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    if path.startswith(FAULTS_OF_BINANCE) and status == "400":
        kinds["application/json"] = {"schema": {"type": "object", "required": ["code", "msg"]}}
    if path in HEALTH and status == "503":
        kinds["application/json"] = {}
    return {"description": text, "content": kinds}
