"""Over one real `refresh up`: the dashboard's actions, attacks on the web UI, Dagster's own commands, kills, its end.

Each test goes on where the one before has left off. Actions against a stub, with every page and width, are in
`api/test_dashboard.py`; a web UI under a key is in `test_front_door.py`.
"""

import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import httpx
import pytest
from dagster import AssetRecordsFilter, DagsterRunStatus

from refresh_pipeline.settings import shipped
from refresh_pipeline_tests.api.served import wait_for
from refresh_pipeline_tests.chromium import needs_chromium
from refresh_pipeline_tests.end_to_end.pages import Pages
from refresh_pipeline_tests.end_to_end.programs import PATIENCE, finished
from refresh_pipeline_tests.end_to_end.stage import KEPT, Running, Stage, browsed, kill, running_in
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import World

SERIES, H1 = "/series/demo/BTC/USD/H1", "BTC/USD H1"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_in(tmp_path_factory.mktemp("up")) as running:
        yield running


@pytest.fixture(scope="module")
def stage(running: Running) -> Iterator[Stage]:
    with browsed(running) as stage:
        yield stage


# ---- the dashboard: actions are clicked in a browser, and results arrive on the page by push


@needs_chromium
def test_a_refresh_turns_the_matrix_green(stage: Stage) -> None:
    stage.show("/", "document.querySelectorAll('.cell').length === 2")
    stage.click("Pause")
    stage.arrives("text.includes('paused')")
    stage.click("Refresh demo")
    stage.arrives("document.querySelectorAll('.cell.fresh').length === 2 && text.includes('Everything is up to date.')")
    stage.arrives("document.querySelector('.list-line .badge.success')")


@needs_chromium
def test_pausing_and_resuming_are_seen(stage: Stage) -> None:
    stage.show("/", "text.includes('Resume')")
    stage.click("Resume demo")
    stage.arrives("document.querySelector('[aria-label=\"Pause demo\"]')")
    stage.click("Pause")
    stage.arrives("document.querySelector('[aria-label=\"Resume demo\"]')")
    # The schedule stops first, and the sensors after it.
    wait_for(lambda: not [one for one in stage.ask("/api/v1/schedules")["schedules"] if _runs_demo(one)], PATIENCE)


def _runs_demo(schedule: dict) -> bool:
    return schedule["market"] == "demo" and schedule["running"]


@needs_chromium
def test_a_backfill_brings_older_candles_onto_the_chart(stage: Stage) -> None:
    stage.show(SERIES, "document.querySelector('.chart canvas')")
    before = stage.tab.evaluate("document.querySelector('.chart-foot').innerText")
    first = datetime.now(UTC) - timedelta(days=40)
    stage.click("Backfill")
    stage.confirm("Backfill", since=f"{first:%Y-%m-%d}", until=f"{first + timedelta(days=2):%Y-%m-%d}")
    stored = re.search(r"of (\d+) candles", before)
    assert stored
    number = int(stored[1]) + 48
    stage.arrives(f"document.querySelector('.chart-foot').innerText.includes('of {number} candles')")


@needs_chromium
def test_a_gap_is_filled(stage: Stage) -> None:
    stage.idle()
    stage.show("/gaps", f"[...document.querySelectorAll('button.day')].some(one => one.title.startsWith('{H1}'))")
    stage.click("Fill all")
    stage.arrives("text.includes('All 2 series are complete.')")
    # The status is read anew after two seconds at most; gaps are read each time.
    wait_for(lambda: _status_of(stage, "H1")["completeness"] == 1, PATIENCE)
    assert _status_of(stage, "H1")["candle_count"] >= 39 * 24


def _status_of(stage: Stage, timeframe: str) -> dict:
    [row] = [one for one in stage.ask("/api/v1/series")["series"] if one["timeframe"] == timeframe]
    return row


@needs_chromium
def test_files_are_published_verified_and_backed_up(stage: Stage) -> None:
    stage.idle()
    stage.show("/files", "text.includes('No export files')")
    stage.click("Publish")
    stage.confirm("Publish")
    stage.arrives("text.includes('demo/')")
    stage.click("Verify")
    stage.arrives("document.querySelector('.toast.success')?.innerText.includes('as the manifest says')")
    stage.click("Back up")
    stage.arrives("text.includes('Backups 1')")
    stage.click("Backups 1")
    stage.arrives("document.querySelector('.badge.ok') && text.includes('readable')")


@needs_chromium
def test_a_run_is_cancelled_and_asked_for_again(stage: Stage) -> None:
    stage.idle()
    body = {"markets": ["demo"], "since": "1990-01-01T00:00:00Z"}
    stage.show("/runs", "document.querySelector('tbody tr')")
    [run] = httpx.post(f"{stage.url}/api/v1/backfill", json=body, timeout=60).json()["runs"]
    stage.arrives("document.querySelector('.badge.started')")
    stage.click("Cancel")
    stage.arrives("document.querySelector('tbody tr .badge').innerText.includes('canceled')")
    assert stage.ask(f"/api/v1/runs/{run['run_id']}")["status"] == "canceled"
    [refresh] = [one for one in stage.ask("/api/v1/runs")["runs"] if one["job"] == "demo_refresh"][:1]
    stage.show(f"/runs/{refresh['run_id']}", "text.includes('Rows added')")
    stage.click("Again")
    stage.arrives("document.querySelector('.toast.success a')")
    stage.click("Show the run")
    stage.arrives("document.querySelector('.page-head .badge').innerText.includes('success')")


@needs_chromium
def test_schedules_are_switched(stage: Stage) -> None:
    stage.show("/settings", "document.querySelector('[aria-label=\"demo_publish runs\"]')")
    switch = "document.querySelector('[aria-label=\"backup runs\"]')?.getAttribute('aria-checked')"
    before = stage.tab.evaluate(switch)
    for wanted in ({"true": "false", "false": "true"}[before], before):
        stage.click("backup runs")
        stage.arrives(f"{switch} === '{wanted}'")


@needs_chromium
def test_apis_are_asked_added_changed_and_removed(stage: Stage) -> None:
    stage.idle()
    stage.show("/sources", "text.includes('counter')")
    column = "[...document.querySelectorAll('thead th')].findIndex(one => one.innerText.includes('Payloads'))"
    payloads = f"Number(document.querySelector('tbody tr').cells[{column}].innerText)"
    # The first tick asks it; then it is due in a day.
    stage.arrives(f"text.includes('success') && {payloads} > 0")
    before = int(str(stage.tab.evaluate(payloads)))
    for number in (1, 2):
        stage.click("Update")
        stage.arrives(f"text.includes('success') && {payloads} === {before + number}")
    stage.show("/sources/counter", f"document.querySelector('.plus') && text.includes('\"number\": {before + 2}')")
    stage.show("/sources", "text.includes('counter')")
    stage.click("Add an API")
    stage.confirm("Add", id="mine", name="My own", base_url="https://api.example/one", interval="60")
    stage.arrives("text.includes('My own')")
    mine = "[...document.querySelectorAll('tbody tr')].find(one => one.innerText.includes('My own'))"
    stage.click("mine is asked on schedule", mine)
    stage.arrives(f"{mine}.querySelector('[role=switch]').getAttribute('aria-checked') === 'false'")
    stage.click("1 min", mine)
    stage.confirm("Set", interval="120")
    stage.arrives(f"{mine}.innerText.includes('2 min')")
    stage.show("/sources/mine", "text.includes('No payload yet')")
    stage.click("Remove")
    stage.confirm("Remove")
    stage.arrives("location.pathname === '/sources' && !text.includes('My own')")


# ---- Dagster's own: its web UI, and a command on the same instance


ASSETS = {"raw_candles", "enhanced_candles", "indicators", "exports", "uploads"}
BACKFILLED = ["BTC/USD|H1", "BTC/USD|H4"]


def assets_by_group(running: Running) -> dict[str, set[str]]:
    nodes = running.graphql("{ assetNodes { groupName assetKey { path } } }")["assetNodes"]
    return {
        group: {node["assetKey"]["path"][-1] for node in nodes if node["groupName"] == group}
        for group in {node["groupName"] for node in nodes}
    }


def test_dagsters_web_ui_serves_every_asset(running: Running) -> None:
    # The code server may be starting anew: an API was removed.
    wanted = {"demo": ASSETS, "counters": {"snapshots"}}
    wait_for(lambda: assets_by_group(running) == wanted, PATIENCE)


def test_dagsters_own_command_launches_a_backfill(running: Running) -> None:
    running.idle()
    job = ("-j", "demo_refresh", "--partitions", ",".join(BACKFILLED), "--noprompt")
    with inside(running.folder), World(running.folder).dagster():
        shutil.copy(shipped("workspace.yaml"), running.folder)
        launched = finished("dagster", "job", "backfill", "-w", "workspace.yaml", *job)
    # The daemon looks for it twice a minute: its runs are looked at below.
    assert launched.returncode == 0, launched.stderr


# ---- Dagster's web UI behind the guard, attacked by pages of other origins


SCHEDULES = """{schedulesOrError(repositorySelector: {
  repositoryName: "__repository__", repositoryLocationName: "refresh_pipeline"
}) {... on Schedules {results {name scheduleState {id selectorId status}}}}}"""
STOP = 'mutation{{stopRunningSchedule(id:"{id}"){{__typename}}}}'
# Pages that ask for something, and what shows in the tab once that was answered.
LANDED = "location.origin === '{url}' && document.readyState === 'complete'"
ANSWERED = "document.title === 'answered'"
ATTACKS = {
    "an image": (
        """<img src="{url}/graphql?query={query}" onload="document.title = 'answered'"
           onerror="document.title = 'answered'">""",
        ANSWERED,
    ),
    "a form": (
        """<form id=f method=post action="{url}/graphql?query={query}"></form><script>f.submit()</script>""",
        LANDED,
    ),
    "a form of JSON": (
        """<form id=f method=post enctype=text/plain action="{url}/graphql">
        <input name='{body}//' value=''></form><script>f.submit()</script>""",
        LANDED,
    ),
    "fetch without reading": (
        """<script>fetch("{url}/graphql", {{method: "POST", mode: "no-cors",
        body: JSON.stringify({{query: decodeURIComponent("{query}")}})}})
        .finally(() => {{ document.title = "answered" }})</script>""",
        ANSWERED,
    ),
    "a link that is followed": ("""<script>location = "{url}/graphql?query={query}"</script>""", LANDED),
}


@pytest.fixture
def pages() -> Iterator[Pages]:
    with Pages() as served:
        yield served


def backup_schedule(running: Running) -> dict:
    results = running.graphql(SCHEDULES)["schedulesOrError"]["results"]
    return next(each["scheduleState"] for each in results if each["name"] == "backup")


@needs_chromium
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_page_of_another_origin_changes_nothing(stage: Stage, pages: Pages, attack: str) -> None:
    before = backup_schedule(stage)
    assert before["status"] == "RUNNING"
    stop = STOP.format(id=before["id"])
    query = "".join(f"%{byte:02x}" for byte in stop.encode())
    html, answered = ATTACKS[attack]
    pages.html = html.format(url=stage.web_ui, query=query, body=json.dumps({"query": stop}).replace("'", "&#39;"))
    stage.tab.open(pages.url)
    stage.tab.until(answered.format(url=stage.web_ui))
    assert backup_schedule(stage)["status"] == "RUNNING"
    stage.tab.faults()


@needs_chromium
def test_a_websocket_of_another_origin_is_closed(stage: Stage, pages: Pages) -> None:
    address = stage.web_ui.replace("http://", "ws://")
    pages.html = f"""<p id=p>waiting</p><script>
      const s = new WebSocket("{address}/graphql", "graphql-ws");
      s.onopen = () => {{ p.textContent = "it is open" }}; s.onerror = () => {{ p.textContent = "it is closed" }}
    </script>"""
    stage.tab.open(pages.url)
    stage.tab.until("text.includes('it is')")
    assert stage.tab.evaluate("p.textContent") == "it is closed"
    stage.tab.faults()


@needs_chromium
def test_a_name_that_is_rebound_to_this_machine_reads_nothing(stage: Stage) -> None:
    stage.tab.open(f"{stage.web_ui.replace('127.0.0.1', 'evil.example')}/runs")
    stage.tab.until("text.includes('host-not-allowed')")
    assert stage.tab.evaluate("location.hostname") == "evil.example"
    assert "Dagster" not in stage.tab.evaluate("document.documentElement.outerHTML")
    stage.tab.faults()


@needs_chromium
def test_our_own_page_works_and_nobody_frames_it(stage: Stage) -> None:
    stage.tab.open(f"{stage.web_ui}/locations")
    stage.tab.until("text.includes('refresh_pipeline')")
    stage.tab.faults()
    answer = httpx.get(f"{stage.web_ui}/runs")
    assert answer.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers.get_list("content-security-policy")[-1]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/graphql?query={__typename}", {}, 405),
        ("POST", "/graphql?query={__typename}", {"content-type": "application/json"}, 400),
        ("POST", "/graphql", {"content-type": "text/plain"}, 415),
        ("POST", "/graphql", {"content-type": "application/json", "origin": "https://evil.example"}, 403),
        ("GET", "/runs", {"host": "evil.example"}, 421),
        ("POST", "/report_asset_materialization/demo/raw_candles", {}, 403),
    ],
)
def test_what_dagster_would_execute_is_refused(
    running: Running, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = httpx.request(method, f"{running.web_ui}{path}", headers=headers, content=b'{"query": "{__typename}"}')
    assert answer.status_code == status


def test_what_dagsters_own_command_asked_for_was_run(running: Running) -> None:
    with inside(running.folder), World(running.folder).dagster() as instance:

        def runs() -> list[dg.DagsterRun]:
            return [run for run in instance.get_runs() if "dagster/backfill" in run.tags]

        # One run a partition, whatever the assets' policy; the daemon takes them from the queue.
        wait_for(lambda: [run.status for run in runs()] == [DagsterRunStatus.SUCCESS] * 2, PATIENCE)
        assert sorted(str(run.tags["dagster/partition"]) for run in runs()) == BACKFILLED
        for run in runs():
            key = str(run.tags["dagster/partition"])
            newest = AssetRecordsFilter(dg.AssetKey(["demo", "indicators"]), asset_partitions=[key])
            [record] = instance.fetch_materializations(newest, limit=1).records
            assert record.event_log_entry.run_id == run.run_id


# ---- what ends: programs that are killed, and all of it


@needs_chromium
def test_the_page_outlives_the_api_and_the_web_ui(stage: Stage) -> None:
    stage.show("/runs", "document.querySelector('tbody tr')")
    kill(stage, "refresh_pipeline.api.serving")
    stage.tab.until("text.includes('Not connected')")
    stage.tab.until(
        "document.getElementById('connection').innerText === 'Live' && !text.includes('Not connected')", PATIENCE
    )
    stage.tab.faults()
    kill(stage, "refresh_pipeline.front_door")
    stage.click("Failed")
    stage.tab.until("text.includes('Runs are not known')")
    stage.tab.faults()
    stage.click("All")
    stage.tab.until("document.querySelector('tbody tr')", PATIENCE)
    assert stage.tab.evaluate(KEPT)
    assert stage.process.poll() is None


def test_it_ends_when_told(running: Running) -> None:
    running.process.terminate()
    assert running.process.wait(PATIENCE) == 0
    for url in (running.web_ui, running.url):
        with pytest.raises(httpx.TransportError):
            httpx.get(url)
