"""/openapi.json: it is complete, the manual lists what it lists, and no answer contradicts it."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import SecretStr
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.routing import Route

from refresh_pipeline.api.app import ROUTERS
from refresh_pipeline.api.description import operations
from refresh_pipeline.api.problems import Problem
from refresh_pipeline.api.service import Service
from refresh_pipeline_tests.api.served import KEY, NOW, Shop, uvicorn_of, wait_for

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "api.md"
# A port that nobody listens on: commands answer 503, and reach no Dagster of this machine.
NOWHERE = "http://127.0.0.1:1"
# Whether a name or an instant is right is nothing that a schema can say; 503 is an answer, see below.
BEYOND_A_SCHEMA = [positive_data_acceptance, not_a_server_error]
# One request of each of some seventy routes.
FEW = settings(
    max_examples=1,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
)


def open_address(shop: Shop, **changes: Any) -> Iterator[str]:
    changed = shop.settings.model_copy(update={"dagster_url": NOWHERE, **changes})
    service = Service.of(changed, shop.markets, lambda: NOW)
    with uvicorn_of(service, changed) as port:
        wait_for(lambda: service.feed.version > 0)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def address(shop: Shop) -> Iterator[str]:
    yield from open_address(shop)


@pytest.fixture(scope="module")
def locked_address(shop: Shop) -> Iterator[str]:
    yield from open_address(shop, api_key=SecretStr(KEY))


@pytest.fixture(scope="module")
def spec(address: str) -> dict[str, Any]:
    return httpx.get(f"{address}/openapi.json").json()


def contradictions(address: str, headers: dict[str, str]) -> list[str]:
    """What answers to made-up requests, one of each route, say against the description."""
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json", headers=headers)
    # A stream has no end.
    return [
        fault
        for operation in schema.exclude(path="/api/v1/events").get_all_operations()
        for fault in _faults(operation.ok(), headers)  # pyright: ignore[reportAttributeAccessIssue]
    ]


def _faults(operation: Any, headers: dict[str, str]) -> list[str]:
    found: list[str] = []

    @given(case=operation.as_strategy())
    @FEW
    def ask(case: schemathesis.Case) -> None:
        answer = case.call(headers=headers, timeout=30)
        if answer.status_code >= 500 and answer.status_code != 503:
            found.append(f"{operation.label}: {answer.status_code} {answer.text[:300]}")
        try:
            case.validate_response(answer, excluded_checks=BEYOND_A_SCHEMA)
        except FailureGroup as faults:
            found.extend(f"{operation.label}: {fault}" for fault in faults.exceptions)

    ask()
    return found


def test_no_answer_contradicts_the_description(address: str) -> None:
    assert contradictions(address, {}) == []


def test_nor_under_a_key(locked_address: str) -> None:
    assert contradictions(locked_address, {"X-API-Key": KEY}) == []


def test_every_route_is_described(spec: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, method, _ in operations(spec)}
    routes = {
        (method, re.sub(r":\w+}", "}", route.path))
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, Route) and getattr(route, "include_in_schema", True)
        for method in route.methods or ()
    }
    assert routes - {("HEAD", path) for _, path in routes} == described


def test_every_operation_says_what_it_is_for_and_every_parameter_too(spec: dict[str, Any]) -> None:
    for path, method, operation in operations(spec):
        assert operation["summary"], (method, path)
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), (method, path, parameter["name"])


def test_the_manual_lists_every_route_and_every_problem(spec: dict[str, Any]) -> None:
    text = MANUAL.read_text(encoding="utf-8")
    missing = [path for path, _, _ in operations(spec) if f"`{path}`" not in text]
    assert missing == []
    assert [problem.slug for problem in Problem if f"`{problem.slug}`" not in text] == []


BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_manuals_lines_work(number: int, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, text = BLOCKS[number]
    monkeypatch.chdir(tmp_path)
    text = text.replace("http://127.0.0.1:8080", address).replace("binance/demo", "binance/fair")
    if kind == "python":
        names: dict[str, Any] = {}
        exec(text, names)
        assert len(names["bars"]) in (5, 500)
        return
    for line in text.splitlines():
        command = line.replace("curl -s", "curl -sf")
        answer = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, line
        if " -o " not in line:
            assert json.loads(answer.stdout), line
