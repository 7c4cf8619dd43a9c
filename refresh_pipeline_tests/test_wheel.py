"""The wheel of `make dist` in an environment without a checkout: the command, the shipped markets, the definitions."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "refresh_pipeline"
DEFINITIONS = "import refresh_pipeline.definitions as d; print(len(d.defs().resolve_all_job_defs()), d.__file__)"

pytest.importorskip("hatchling", reason="make test installs it")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    options = [
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
    ]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(REPOSITORY)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; what it depends on is taken from this one, without the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    packages = next((folder / "lib").glob("python*/site-packages"))
    # A folder that a .pth file names has its own .pth files ignored, the checkout's among them.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def answer(program: Path, *arguments: str, folder: Path) -> str:
    environment = {"PATH": os.defpath, "HOME": str(folder)}
    result = subprocess.run(
        [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "-z", "refresh_pipeline"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert {name for name in listed.stdout.split("\0") if name} - packed == set()
    files = ("dagster.yaml", "dagster-cluster.yaml", "workspace.yaml")
    assert {f"refresh_pipeline/{name}" for name in files} <= packed


def test_the_command_and_the_definitions_work_without_a_checkout(bin_folder: Path, tmp_path: Path) -> None:
    assert answer(bin_folder / "refresh", "--version", folder=tmp_path).startswith("refresh-pipeline ")
    markets = json.loads(answer(bin_folder / "refresh", "markets", "--json", folder=tmp_path))
    assert {"demo", "crypto", "fx", "nse"} <= {market["market"] for market in markets}
    assert str(PACKAGE) not in str(markets)
    jobs, file = answer(bin_folder / "python", "-P", "-c", DEFINITIONS, folder=tmp_path).split()
    assert int(jobs) >= 5
    assert not Path(file).is_relative_to(REPOSITORY)
    doctor = json.loads(answer(bin_folder / "refresh", "doctor", "--offline", "--json", folder=tmp_path))
    assert {finding["health"] for finding in doctor if finding["subject"] == "packages"} == {"ok"}
