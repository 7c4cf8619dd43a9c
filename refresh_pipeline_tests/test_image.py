"""The image of deploy/docker is built and runs; minutes long, so `pytest -m slow` alone. Needs Docker or podman."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGE = "refresh-pipeline-test"
# As the compose file runs it.
CONFINED = ["--rm", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/data:mode=1777", "--cap-drop", "ALL"]


def works(program: str) -> bool:
    """Whether a program reaches what runs containers; Docker's needs its daemon."""
    return subprocess.run([program, "info"], check=False, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("extras", ["", "s3,redis,cluster"])
def test_the_image_is_built_and_refreshes(extras: str) -> None:
    program = next((each for each in ("docker", "podman") if shutil.which(each) and works(each)), None)
    if program is None:
        pytest.skip("neither Docker nor podman works on this machine: the image is not tried here")
    file = REPOSITORY / "deploy" / "docker" / "Dockerfile"
    build = [program, "build", "-q", "-f", str(file), "-t", IMAGE, "--build-arg", f"EXTRAS={extras}", str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True)

    def answer(*command: str) -> str:
        run = subprocess.run([program, "run", *CONFINED, IMAGE, *command], check=True, capture_output=True, text=True)
        return run.stdout

    assert answer("refresh", "--version").startswith("refresh-pipeline ")
    assert answer("id", "-u").strip() == "10001"
    assert "demo" in {market["market"] for market in json.loads(answer("refresh", "markets", "--json"))}
    if "cluster" in extras:
        answer("python", "-c", "import dagster_celery, dagster_postgres, obstore, redis")
    refreshed = answer("sh", "-c", "refresh once --instrument EUR/USD --timeframe D1 && refresh status --json")
    assert "EUR/USD" in refreshed
