"""Dagster's web UI under a key, and its refusal to be open to other machines without; attacks are in `test_up.py`."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from refresh_pipeline_tests.end_to_end.programs import PATIENCE, free_port

ROOT = Path(__file__).resolve().parents[2]
KEY = "a key of some length"


@dataclass
class Door:
    """A running front door, and what its owner's requests carry."""

    port: int
    headers: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, query: str) -> dict:
        answer = httpx.post(f"{self.url}/graphql", json={"query": query}, headers=self.headers, timeout=60)
        return answer.raise_for_status().json()["data"]


def door_of(folder: Path, key: str) -> Iterator[Door]:
    """The program as systemd and the image start it, without a code server: who may ask is decided before it."""
    port = free_port()
    (folder / "home").mkdir()
    shutil.copy(ROOT / "dagster.yaml", folder / "home")
    (folder / "workspace.yaml").write_text("load_from: []\n")
    environment = {
        **os.environ,
        "HOME": str(folder),
        "REFRESH_DATA_DIR": str(folder),
        "DAGSTER_HOME": str(folder / "home"),
        "REFRESH_API_KEY": key,
    }
    command = [sys.executable, "-m", "refresh_pipeline.front_door", "-p", str(port), "-w", "workspace.yaml"]
    program = subprocess.Popen(command, cwd=folder, env=environment)
    door = Door(port, {"x-api-key": key})
    try:
        began = time.monotonic()
        while not answers(door) and program.poll() is None and time.monotonic() - began < PATIENCE:
            time.sleep(0.2)
        yield door
    finally:
        program.terminate()
        program.wait(30)


def answers(door: Door) -> bool:
    try:
        return httpx.get(f"{door.url}/server_info", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def locked_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    yield from door_of(tmp_path_factory.mktemp("locked"), KEY)


def test_another_user_of_this_machine_needs_the_key(locked_door: Door) -> None:
    assert httpx.post(f"{locked_door.url}/graphql", json={"query": "{__typename}"}).status_code == 401
    assert locked_door.ask("{__typename}") == {"__typename": "Query"}
    assert (
        httpx.get(f"{locked_door.url}/runs", headers={"accept": "text/html"}).headers["location"] == "/login?next=/runs"
    )


def test_a_door_to_other_machines_wants_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "refresh_pipeline.front_door", "-h", "0.0.0.0", "-w", str(ROOT / "workspace.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "REFRESH_API_KEY"} | {
        "HOME": str(tmp_path)
    }
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "set REFRESH_API_KEY" in answer.stderr
    assert "Traceback" not in answer.stderr
