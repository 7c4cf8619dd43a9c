"""A wrong request to the `refresh` command is answered before anything heavy is imported; with real processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest

from refresh_pipeline.cli.operate import refuse_used_port
from refresh_pipeline.instance.data_lock import lock_data_folder
from refresh_pipeline_tests.project_folder import World, command

# Runs requests one after the other; of each it prints the exit code and which heavy packages are imported by then.
SCRIPT = """
import json, sys
from refresh_pipeline.cli import main
heavy, requests, answers = *json.loads(sys.argv[1]), []
for request in requests:
    sys.argv[1:] = request
    try:
        main()
    except SystemExit as end:
        answers.append([request, end.code, [name for name in heavy if name in sys.modules]])
print(json.dumps(answers))
"""
HEAVY = ("dagster", "pandas", "httpx", "duckdb", "sqlalchemy", "talib")

WRONG = [
    ["once", "--market", "nope"],
    ["once", "--instrument", "nope"],
    ["once", "--timeframe", "M1"],
    ["once", "--since", "garbage"],
    ["once", "--all", "-i", "BTC/USD"],
    ["once", "--nonsense"],
    ["backfill"],
    ["backfill", "--since", "garbage"],
    ["backfill", "--since", "2026-06-02", "--until", "2026-06-01"],
    ["publish", "-m", "nope"],
    ["status", "-m", "nope"],
    ["status", "--now", "noon"],
    ["gaps", "-m", "nope"],
    ["check", "-m", "nope"],
    ["chart", "nope", "H1"],
    ["new", "--venue", "nope"],
    ["doctor", "-m", "nope"],
    ["gaps", "--now", "noon"],
    ["alerts", "-m", "nope"],
    ["maintain", "-m", "nope"],
    ["up", "-m", "nope"],
    ["forget", "-m", "nope", "--instrument", "A"],
    ["forget", "-m", "demo"],
    ["rename", "A", "B", "-m", "nope"],
    ["rename", "A", "B C", "-m", "demo"],
    ["up", "--port", "high"],
    ["chart", "BTC/USD", "H1", "--png", "x.jpg"],
    ["exports", "verify", "-i", "nope"],
    ["exports", "prune", "-m", "nope"],
    ["exports", "duplicates", "--link", "--remove"],
    ["universe", "-m", "nope"],
    ["files", "inspect", "nope.csv"],
    ["files", "inspect", "pyproject.toml", "--option", "garbage"],
]
RIGHT = [["--help"], ["--version"], ["once", "--help"], ["exports", "verify", "--help"]]


def answers(requests: Sequence[Sequence[str]]) -> list[tuple[list[str], int, list[str]]]:
    """Each request with its exit code and the heavy packages imported by then, all in one new process."""
    command = [sys.executable, "-P", "-c", SCRIPT, json.dumps([HEAVY, requests])]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return [(request, code, names) for request, code, names in json.loads(answer.stdout.splitlines()[-1])]


@pytest.mark.parametrize(("requests", "code"), [(WRONG, 2), (RIGHT, 0)], ids=["wrong", "help"])
def test_wrong_requests_and_help_import_nothing_heavy(
    new_world: World, requests: Sequence[list[str]], code: int
) -> None:
    assert answers(requests) == [(request, code, []) for request in requests]


def test_commands_that_only_read_the_warehouse_need_no_dagster(new_world: World) -> None:
    for _, code, names in answers([["status"], ["gaps"]]):
        assert code == 0
        assert {"dagster", "pandas", "httpx"}.isdisjoint(names)


def test_the_version_is_the_distributions(new_world: World) -> None:
    command = [sys.executable, "-P", "-c", "from refresh_pipeline.cli import main; main()", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "refresh-pipeline 0.1.0\n"


def test_a_second_service_and_a_restore_beside_one_are_refused(new_world: World) -> None:
    lock = lock_data_folder(new_world.settings.data, "refresh up", 3210)
    try:
        for arguments in (["up", "--port", "3211"], ["restore", "--yes"]):
            result = command(*arguments)
            assert result.exit_code == 2
            assert f"is in use by refresh up (process {os.getpid()}, port 3210)" in " ".join(result.stderr.split())
    finally:
        os.close(lock)


def test_a_port_in_use_is_refused_before_anything_starts(new_world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = command("up", "--port", str(port))
    assert result.exit_code == 2
    assert f"--port: found {port}, which cannot be used (Address already in use)" in " ".join(result.stderr.split())
    with pytest.raises(ValueError, match=f"--api-port: found {port}, the port of the web UI as well"):
        refuse_used_port(port, option="--api-port", taken=port)
    assert not (new_world.root / "data" / "dagster").exists()
