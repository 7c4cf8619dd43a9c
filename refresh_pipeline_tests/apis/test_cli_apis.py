"""`refresh apis`: what the commands print, ask and refuse."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from refresh_pipeline.cli.app import app
from refresh_pipeline_tests.apis.api_server import ApiServer, api_server
from refresh_pipeline_tests.isolated_env import inside


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    """A server, and a folder whose collection asks it."""
    with api_server() as state, inside(tmp_path):
        (tmp_path / "apis").mkdir()
        apis = "{one: {url: URL/a, every: 1h}, two: {url: URL/b, enabled: false}}"
        text = f"name: mine\nallow_private: true\napis: {apis}\n"
        (tmp_path / "apis" / "mine.yaml").write_text(text.replace("URL", state.url))
        (tmp_path / ".env").write_text("REFRESH_APIS=mine\nREFRESH_APIS_DIR=apis\n")
        yield state


def run(*arguments: str) -> Result:
    """One command."""
    return CliRunner().invoke(app, ["apis", *arguments])


def test_apis_are_asked_when_they_are_due_and_shown(server: ApiServer):
    server.says("/a", '{"v": 1}')
    assert run("show", "one").exit_code == 1
    assert run("once").stdout.strip() == "mine/one: updated"
    assert run("once").stdout.strip() == ""
    assert run("once", "--all").stdout.strip() == "mine/one: unchanged"
    assert len(server.asked) == 2
    assert '{"v":1}' in run("show", "one").stdout
    assert json.loads(run("show", "one", "--json").stdout)["payload"] == {"v": 1}
    rows = json.loads(run("list", "--json").stdout)
    assert [(row["api"], row["outcome"], row["enabled"]) for row in rows] == [
        ("one", "unchanged", True),
        ("two", None, False),
    ]
    assert "off" in run("list").stdout


def test_one_that_fails_ends_with_1_and_says_why(server: ApiServer):
    server.says("/b", "no", 404)
    result = run("once", "two")
    assert result.exit_code == 1
    assert "mine/two: failed" in result.stdout
    assert "HTTP 404" in result.stdout


def test_a_catalogue_is_imported_once_and_exported_masked(server: ApiServer, tmp_path: Path):
    catalogue = {"apis": [{"id": "a", "base_url": "https://a.example", "endpoints": {"x": "/x?key={key}"}, "auth": {}}]}
    (tmp_path / "all.json").write_text(json.dumps(catalogue))
    assert "1 entries read" in run("import", "all.json", "--dry-run").stdout
    assert not (tmp_path / "data").exists()
    assert run("import", "all.json").exit_code == 0
    assert run("import", "all.json").exit_code == 2
    assert run("import", "all.json", "--replace").exit_code == 0
    [exported] = json.loads(run("export", "-c", "custom").stdout)["apis"]
    assert (exported["id"], exported["base_url"]) == ("a.x", "https://a.example/x?key=***")


def test_wrong_names_are_wrong_requests_and_without_a_wish_nobody_is_asked(server: ApiServer, tmp_path: Path):
    assert run("once", "three").exit_code == 2
    assert "--collection: found 'yours'" in run("once", "-c", "yours").stderr
    assert "did you mean 'sentiment'?" in run("list", "-c", "sentimant").stderr
    assert "API: found 'ones'" in (typo := run("show", "ones").stderr)
    assert "did you mean 'one'?" in typo
    (tmp_path / ".env").write_text("")
    result = run("once")
    assert result.exit_code == 2
    assert server.asked == []
    assert "fear_greed" in run("list").stdout
