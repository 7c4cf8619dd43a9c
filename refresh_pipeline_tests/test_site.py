"""Whether the manual builds as a site without a warning, complete, and asks no other host for anything."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//[^\"> ]+|<link\b[^>]*stylesheet[^>]*//[^> ]+"
)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the extra docs is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    outcome = subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    return folder


def test_every_page_of_the_manual_is_in_the_site(site: Path) -> None:
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md") if page.name != "README.md"}
    assert {page for page in pages if not (site / page).is_file()} == set()
    assert (site / "decisions" / "index.html").is_file()


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = {page.name: LOADED.findall(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert {name: found for name, found in loaded.items() if found} == {}
    sheets = [sheet.read_text(encoding="utf-8") for sheet in site.glob("assets/stylesheets/*.css")]
    assert sheets
    assert not any(re.search(r"(url\(|@import )[\"']?(https?:)?//", sheet) for sheet in sheets)


def test_the_search_needs_no_server(site: Path) -> None:
    # A browser reads no JSON from the disk, but a script that holds it.
    assert "refresh backfill" in (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert 'src="javascripts/iframe-worker.js"' in (site / "index.html").read_text(encoding="utf-8")


def test_no_page_has_a_diagram_that_a_script_from_elsewhere_would_draw() -> None:
    assert [page.name for page in DOCS.rglob("*.md") if "```mermaid" in page.read_text(encoding="utf-8")] == []
