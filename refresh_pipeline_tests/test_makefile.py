"""What `make` does to a folder of its user's."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_what_a_link_in_place_of_the_environment_leads_to_is_kept(tmp_path: Path) -> None:
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    checkout.mkdir()
    elsewhere.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, checkout)
    (elsewhere / "of another checkout").touch()
    (checkout / ".venv").symlink_to(elsewhere)
    made = subprocess.run(["make", ".venv/installed"], cwd=checkout, capture_output=True, text=True, check=False)
    assert made.returncode != 0
    assert made.stderr.startswith(f"Wanted to make .venv anew; found a link to {elsewhere}")
    assert (elsewhere / "of another checkout").exists()
