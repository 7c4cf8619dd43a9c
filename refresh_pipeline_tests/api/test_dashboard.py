"""The dashboard in a headless Chromium: every page, every action, without its server, under a key, narrow, wide."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from refresh_pipeline.files.growing import BLOCK
from refresh_pipeline_tests.api.dashboard import CLOCK, STUB, Server, Stage, serving
from refresh_pipeline_tests.api.dashboard_pictures import DARK, FOLDER, PAGES, take
from refresh_pipeline_tests.api.served import KEY
from refresh_pipeline_tests.chromium import Tab, chromium, needs_chromium

pytestmark = needs_chromium

SERIES, RUN = "/series/demo/BTC/USD/H1", "/runs/5f1c2a34-0000-4d8e-9c1f-000000000003"
# 487 instruments on 13 timeframes: built, then every 13th cell recoloured, beside a bare table of as many cells.
WIDE = """(async () => {
  const { Matrix, TIMEFRAMES, STATES } = await import("/static/matrix.mjs");
  const rows = Array.from({length: 487}, (_, n) => TIMEFRAMES.map(timeframe => ({
    market: "wide", instrument: `C${n}/USD`, timeframe, freshness: STATES[n % 97 ? 0 : 6]}))).flat();
  const main = document.querySelector("main");
  main.replaceChildren();
  const timed = act => { const began = performance.now();
    act(); document.body.offsetHeight; return performance.now() - began; };
  const bare = () => { const table = document.createElement("table"), body = table.createTBody();
    for (let n = 0; n < 487; n++) { const row = body.insertRow();
      for (let cell = 0; cell <= 13; cell++) row.insertCell().append(document.createElement("b")); }
    main.replaceChildren(table); };
  const out = {cells: rows.length, floor: timed(bare)};
  const matrix = new Matrix({});
  main.replaceChildren(matrix.element);
  out.built = timed(() => matrix.show(rows));
  out.again = timed(() => matrix.show(rows.map((row, n) => n % 13 ? row : {...row, freshness: "late"})));
  out.late = document.querySelectorAll(".cell.late").length;
  return out;
})()"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage.set_up(tmp_path_factory.mktemp("dashboard") / "stage")


@pytest.fixture(scope="module")
def server(stage: Stage) -> Iterator[Server]:
    with serving(stage) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    with chromium() as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Tab:
    browser.size(1280, 800)
    browser.run_first(CLOCK, STUB)
    browser.faults()
    return browser


def show(tab: Tab, server: Server, path: str, condition: str) -> None:
    tab.open(f"{server.url}{path}")
    tab.until(f"location.pathname === {json.dumps(path)} && !document.querySelector('.skeleton') && ({condition})")


def click(tab: Tab, name: str, within: str = "document") -> None:
    """Click what has this name, as a person or a screen reader finds it."""
    found = f"""[...{within}.querySelectorAll("button, a, summary")].find(one =>
      (one.getAttribute("aria-label") ?? one.textContent).trim() === {json.dumps(name)} && one.offsetParent !== null)"""
    tab.until(f"{found} && !{found}.disabled")
    tab.evaluate(f"{found}.click()")


def sent(tab: Tab) -> list[Any]:
    """The newest command that the page has sent."""
    tab.until("window.sent.length > 0")
    return tab.evaluate("window.sent.at(-1)")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_what_it_is_for_without_a_fault(tab: Tab, server: Server, name: str) -> None:
    path, condition = PAGES[name]
    show(tab, server, path, condition)
    assert tab.faults() == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_telephone(tab: Tab, server: Server, name: str) -> None:
    path, condition = PAGES[name]
    tab.size(360, 740, dark=True)
    show(tab, server, path, condition)
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    assert tab.faults() == []


REFRESH = {"markets": ["demo"], "instruments": ["BTC/USD"], "timeframes": ["H1"]}
TASKS = "/api/v2/schedule/tasks"
# Where, what is clicked one after the other, and the command that comes of it.
ACTIONS = {
    "refresh all": ("/", ["Refresh all"], ["POST", "/api/v1/refresh", {}]),
    "refresh a market": ("/", ["Refresh demo"], ["POST", "/api/v1/refresh", {"markets": ["demo"]}]),
    "pause": ("/", ["Pause"], ["POST", "/api/v1/pause", {}]),
    "pause a market": ("/", ["Pause demo"], ["POST", "/api/v1/pause", {"market": "demo"}]),
    "refresh a series": (SERIES, ["Refresh"], ["POST", "/api/v1/refresh", REFRESH]),
    "cancel a run": ("/runs", ["Cancel"], ["POST", "/api/v1/runs/5f1c2a34-0000-4d8e-9c1f-000000000001/cancel", {}]),
    "run again": (RUN, ["Again"], ["POST", "/api/v1/refresh", {"markets": ["demo"]}]),
    "back up": ("/files", ["Back up"], ["POST", "/api/v1/backup", {}]),
    "publish": ("/files", ["Publish", "Publish"], ["POST", "/api/v1/publish", {}]),
    "test the alerts": ("/alerts", ["Send a test message"], ["POST", "/api/v1/alerts/test", {}]),
    "stop a schedule": (
        "/settings",
        ["demo_refresh runs"],
        ["PUT", "/api/v1/schedules/demo_refresh", {"running": False}],
    ),
    "update an API": ("/sources/fear_greed", ["Update now"], ["POST", f"{TASKS}/fear_greed/force-update", {}]),
    "disable an API": ("/sources", ["gas is asked on schedule"], ["PUT", f"{TASKS}/gas", {"enabled": False}]),
    "remove an API": ("/sources/fear_greed", ["Remove", "Remove"], ["DELETE", "/api/v2/config/apis/fear_greed", {}]),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_sends_its_command(tab: Tab, server: Server, name: str) -> None:
    path, steps, command = ACTIONS[name]
    show(tab, server, path, "document.querySelector('.page h1')")
    for number, step in enumerate(steps):
        click(tab, step, "document" if number == 0 else "document.querySelector('dialog')")
    assert sent(tab) == command
    tab.until("document.querySelector('.toast')")
    assert tab.faults() == []


def test_a_cell_opens_its_series_and_refreshes_it(tab: Tab, server: Server) -> None:
    show(tab, server, "/", "document.querySelector('.cell')")
    tab.evaluate("document.querySelector('.cell').focus()")
    key = "new KeyboardEvent('keydown', {key: '%s', bubbles: true})"
    tab.evaluate(f"document.activeElement.dispatchEvent({key % 'ArrowRight'})")
    tab.evaluate(f"document.activeElement.dispatchEvent({key % 'r'})")
    assert sent(tab)[2] == {"markets": ["demo"], "instruments": ["XAU/USD"], "timeframes": ["m15"]}
    tab.evaluate("document.activeElement.click()")
    tab.until("document.querySelector('dialog').innerText.includes('stale')")
    click(tab, "Open the chart", "document.querySelector('dialog')")
    tab.until("location.pathname === '/series/demo/XAU/USD/m15' && document.querySelector('.chart canvas')")
    assert tab.faults() == []


def test_the_matrix_is_walked_by_keys_alone(tab: Tab, server: Server) -> None:
    show(tab, server, "/", "document.querySelector('.cell')")
    tab.evaluate("document.querySelector('.cell[tabindex=\"0\"]').focus()")
    of_cell = "document.activeElement.getAttribute('aria-label').split(' ')[1].slice(0, -1)"
    here = f"`${{{of_cell}}} ${{document.getElementById('tooltip').hidden}}`"
    for key, code, wanted in (
        ("End", 35, "D1 false"),
        ("ArrowLeft", 37, "H4 false"),
        ("Home", 36, "m5 false"),
        ("ArrowRight", 39, "m15 false"),
        ("Escape", 27, "m15 true"),
    ):
        press(tab, key, code)
        assert tab.evaluate(here) == wanted
    assert tab.evaluate("document.querySelectorAll('.cell[tabindex=\"0\"]').length") == 1
    press(tab, " ", 32)
    # What the digit of the cell does not say is asked for.
    tab.until("document.querySelector('dialog[open]').innerText.includes('Newest candle')")
    assert tab.evaluate("document.activeElement.innerText") == "Open the chart"
    press(tab, "Escape", 27)
    tab.until("!document.querySelector('dialog')")
    assert tab.evaluate(here).startswith("m15")
    assert tab.faults() == []


def press(tab: Tab, key: str, code: int) -> None:
    """A key as a keyboard sends it."""
    for kind in ("rawKeyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key=key, code=key.strip() or "Space", windowsVirtualKeyCode=code)


def test_links_lead_to_dagster_and_from_it(tab: Tab, server: Server) -> None:
    show(tab, server, SERIES, "document.querySelector('.chart canvas')")
    click(tab, "Where it stands")
    tab.until("document.querySelector('a[href*=\"/assets/demo/raw_candles\"]')")
    address = tab.evaluate("document.querySelector('a[href*=\"/assets/demo/raw_candles\"]').href")
    assert address.endswith("?view=partitions&partition=BTC%2FUSD%7CH1")
    tab.open(f"{server.url}/?market=demo")
    tab.until("document.querySelector('.cell')")


def test_changes_are_pushed(tab: Tab, server: Server) -> None:
    tab.run_first(CLOCK)
    tab.open(f"{server.url}/gaps")
    tab.until("document.getElementById('connection')?.innerText === 'Live'")


def test_a_gap_is_filled(tab: Tab, server: Server) -> None:
    show(tab, server, "/gaps", "document.querySelector('button.day')")
    tab.evaluate("[...document.querySelectorAll('button.day')].find(one => one.title.includes('EUR/USD H1')).click()")
    click(tab, "Fill", "document.querySelector('dialog')")
    wanted = {"market": "demo", "series": "EUR/USD|H1", "first": "2026-01-03T08:00:00Z", "last": "2026-01-04T13:00:00Z"}
    assert sent(tab) == ["POST", "/api/v1/gaps/fill", wanted]


def test_a_backfill_is_asked_for_with_its_range(tab: Tab, server: Server) -> None:
    show(tab, server, SERIES, "document.querySelector('.chart canvas')")
    click(tab, "Backfill")
    tab.evaluate("document.getElementById('field-since').value = '2025-01-01'")
    click(tab, "Backfill", "document.querySelector('dialog')")
    assert sent(tab) == ["POST", "/api/v1/backfill", REFRESH | {"since": "2025-01-01T00:00:00Z"}]


def test_the_chart_takes_any_column_and_older_candles(tab: Tab, server: Server) -> None:
    show(tab, server, SERIES, "document.querySelector('.chart canvas')")
    field = "document.querySelector('.chart-tools input')"
    tab.evaluate(f"{field}.value = 'sma_10'; {field}.dispatchEvent(new Event('change'))")
    tab.until("document.querySelector('.chart-legend').innerText.includes('sma_10')")
    click(tab, "Zones")
    tab.until("text.includes('200 of 200 candles')")
    click(tab, "Corrections")
    tab.until("text.includes('was') || text.includes('Was')")
    assert tab.evaluate("document.querySelectorAll('.tab-body tbody tr').length") == 1
    assert tab.faults() == []


def test_a_file_is_verified_against_the_manifest(tab: Tab, server: Server) -> None:
    show(tab, server, "/files", "text.includes('demo/')")
    click(tab, "Verify")
    tab.until("document.querySelector('.toast.success')?.innerText.includes('as the manifest says')")
    # A file that has grown beyond one block.
    hashes = [hashlib.sha256(bytes(length)) for length in (BLOCK, BLOCK, 1000)]
    digest = hashlib.sha256(b"".join(each.digest() for each in hashes)).hexdigest()
    tab.evaluate(
        "import('/static/pages/files.mjs').then(module => module.blockDigest(new ArrayBuffer(2 * 4194304 + 1000)))"
        ".then(found => { window.found = found; })"
    )
    tab.until(f"window.found === '{digest}'")


def test_the_page_of_files_says_how_uploads_are_turned_on(tab: Tab, server: Server) -> None:
    show(tab, server, "/files", "text.includes('demo/')")
    tab.evaluate(
        "[...document.querySelectorAll('[role=tab]')].find(one => one.innerText.startsWith('Uploads')).click()"
    )
    tab.until("text.includes('Uploads are off') && text.includes('No destination is named: set REFRESH_UPLOAD_URL=')")


def test_the_documentation_tries_a_question(tab: Tab, server: Server) -> None:
    show(tab, server, "/docs", "text.includes('/api/v1/health')")
    tab.evaluate("document.getElementById('get-api-v1-health').open = true")
    click(tab, "Try it", "document.getElementById('get-api-v1-health')")
    tab.until("text.includes('\"healthy\"')")
    assert tab.faults() == []


def test_the_pictures_of_the_manual_are_taken_by_a_script(tab: Tab, server: Server, tmp_path: Path) -> None:
    take(tab, server, tmp_path, ["overview"])
    assert {path.name for path in tmp_path.iterdir()} == {"dashboard-overview.png", "dashboard-overview-dark.png"}
    kept = {path.name for path in FOLDER.glob("dashboard-*.png")}
    assert kept == {f"dashboard-{name}.png" for name in PAGES} | {f"dashboard-{name}-dark.png" for name in DARK}
    assert all(path.stat().st_size < 120_000 for path in FOLDER.glob("dashboard-*.png"))


def test_text_from_outside_is_shown_as_text(tab: Tab, server: Server) -> None:
    evil = "<img src=x onerror=document.title='broken'>"
    tab.run_first(CLOCK, STUB.replace("HTTP 503 from the venue; a later run retries", evil.replace("'", "\\x27")))
    show(tab, server, RUN, "text.includes('onerror')")
    assert tab.evaluate("document.querySelectorAll('main img').length") == 0
    assert tab.evaluate("document.title") == "Runs · Refresh Pipeline"


def test_487_instruments_on_13_timeframes_cost_no_more_than_a_bare_table(tab: Tab, server: Server) -> None:
    show(tab, server, "/", "document.querySelector('.cell')")
    figures = tab.evaluate(WIDE)
    assert (figures["cells"], figures["late"]) == (6331, 487)
    # On two quiet cores 0.1 s and 0.05 s.
    assert figures["built"] < max(2 * figures["floor"], 500)
    assert figures["again"] < max(2 * figures["floor"], 500)


def test_without_its_server_the_page_says_so_and_comes_back_by_itself(tab: Tab, server: Server) -> None:
    show(tab, server, "/", "document.querySelector('.cell')")
    server.end()
    try:
        click(tab, "Gaps", "document.querySelector('nav')")
        tab.until("text.includes('Not connected')")
    finally:
        server.begin()
    tab.until("!text.includes('Not connected') && text.includes('Completeness by day')")


def test_under_a_key_people_log_in_and_a_session_that_has_ended_asks_again(tab: Tab, stage: Stage) -> None:
    locked = Stage(stage.settings.model_copy(update={"api_key": SecretStr(KEY)}), stage.market)
    with serving(locked) as server:
        tab.open(f"{server.url}/gaps")
        tab.until("location.pathname === '/login' && document.getElementById('key')")
        tab.evaluate(f"document.getElementById('key').value = {json.dumps(KEY)}; document.forms[0].submit()")
        tab.until("location.pathname === '/gaps' && text.includes('Completeness by day')")
        tab.call("Network.clearBrowserCookies")
        click(tab, "Files", "document.querySelector('nav')")
        tab.until("document.querySelector('form.login')")
        tab.evaluate("document.getElementById('key').value = 'a wrong key of some length'")
        click(tab, "Log in")
        tab.until("document.querySelector('.login-alert').innerText.includes('wrong')")
        tab.evaluate(f"document.getElementById('key').value = {json.dumps(KEY)}")
        click(tab, "Log in")
        tab.until("location.pathname === '/files' && text.includes('Exports')")
        tab.open(f"{server.url}{SERIES}")
        tab.until("document.querySelector('.chart canvas')")
        tab.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }")
        click(tab, "Copy as")
        click(tab, "curl")
        # The key itself is in no copied text.
        tab.until("""window.copied.includes('-H "X-API-Key: $REFRESH_API_KEY"')""")
        assert tab.evaluate("document.getElementById('read-only').hidden")
