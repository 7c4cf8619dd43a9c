"""A page of another site, in a real browser, tries to read the API and to command it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from refresh_pipeline_tests.api.served import Shop, served
from refresh_pipeline_tests.chromium import chromium, needs_chromium
from refresh_pipeline_tests.fakes.dagster_graphql import FakeDagster

pytestmark = needs_chromium

# What it finds out stands in its title.
PAGE = """<!doctype html><img src="URL/api/v1/pause"><iframe name="hole"></iframe><iframe src="URL/"></iframe>
<form method="post" enctype="text/plain" target="hole" action="URL/api/v1/pause">
<input name='{"market":"fair","x":"' value='"}'></form>
<script>
  document.forms[0].submit();
  const told = {};
  const asked = (name, promise) => promise.then(() => { told[name] = "open"; }, () => { told[name] = "closed"; });
  const opened = source => new Promise((yes, no) => {
    source.onopen = yes;
    source.onerror = () => { source.close(); no(); };
  });
  const json = {method: "POST", headers: {"content-type": "application/json"}, body: "{}"};
  Promise.all([
    asked("reading", fetch("URL/api/v1/series")),
    asked("command", fetch("URL/api/v1/refresh", json)),
    asked("socket", opened(new WebSocket("URL/api/v1/ws".replace("http", "ws")))),
    asked("events", opened(new EventSource("URL/api/v1/events"))),
    fetch("URL/api/v1/refresh", {method: "POST", mode: "no-cors", body: "{}"}).catch(() => null),
    new Promise(done => setTimeout(done, 1000)),
  ]).then(() => { document.title = JSON.stringify(told); });
</script>"""


@contextmanager
def site(html: str) -> Iterator[str]:
    """The address of a site that shows this page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name of the base class)
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def test_a_page_of_another_site_reads_nothing_and_commands_nothing(tmp_path: Path) -> None:
    with FakeDagster() as dagster, chromium() as tab:
        shop = Shop.opened(tmp_path / "shop", REFRESH_DAGSTER_URL=dagster.base_url)
        with served(shop) as client, site(PAGE.replace("URL", str(client.base_url).rstrip("/"))) as url:
            tab.open(url)
            tab.until("document.title.startsWith('{')")
            told = json.loads(tab.evaluate("document.title"))
        assert told == dict.fromkeys(("reading", "command", "socket", "events"), "closed")
        assert not dagster.launched
        assert all(dagster.running.values())
