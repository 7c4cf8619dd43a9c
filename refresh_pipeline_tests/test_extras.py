"""The command that a message names for an optional part installs it from where this package came."""

import shlex
import sys
from importlib.metadata import distribution
from pathlib import Path

from refresh_pipeline.extras import DISTRIBUTION, install_command

ROOT = Path(__file__).resolve().parents[1]


def test_it_names_this_python_the_checkout_and_an_extra_that_exists() -> None:
    command = shlex.split(install_command("s3"))
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[4:] == ["-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[s3]"]
    assert "s3" in distribution(DISTRIBUTION).metadata.get_all("Provides-Extra", [])
