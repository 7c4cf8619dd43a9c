"""The dashboard's files: what is served, under which policy, and that nothing else is."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from refresh_pipeline.api.pages import PAGES, needed_ahead, static_files
from refresh_pipeline.api.service import Service
from refresh_pipeline_tests.api.served import KEY, Shop, uvicorn_of

STATIC = Path(__file__).resolve().parents[2] / "refresh_pipeline" / "api" / "static"
OURS = [path for path in STATIC.rglob("*.mjs") if "vendor" not in path.parts]


@contextmanager
def empty_server(root: Path, **variables: str) -> Iterator[httpx.Client]:
    """A client of a server without a candle."""
    shop = Shop.opened(root, **variables)
    service = Service.of(shop.settings, shop.markets)
    with uvicorn_of(service, shop.settings) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with empty_server(tmp_path_factory.mktemp("pages") / "shop", REFRESH_API_RATE="100000") as client:
        yield client


@pytest.mark.parametrize("address", [page.replace("{rest:path}", "a/b").replace("{rest}", "a") for page in PAGES])
def test_every_address_of_the_dashboard_is_its_page(client: httpx.Client, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert client.get(address, headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_a_page_names_ahead_what_its_scripts_will_ask_for(client: httpx.Client) -> None:
    links = client.get("/").headers["link"]
    assert links.startswith("</api/v1/matrix>; rel=preload; as=fetch; crossorigin=anonymous")
    names = set(re.findall(r"</static/([^>]+)>; rel=modulepreload", links))
    assert (
        {"app.mjs", "login.mjs", "pages/overview.mjs", "pages/alerts.mjs", "matrix.mjs"} <= names <= set(static_files())
    )
    assert "vendor/lightweight-charts.mjs" not in names
    assert "vendor/lightweight-charts.mjs" in client.get("/series/a/b/H1").headers["link"]
    assert "/nope.mjs" not in needed_ahead("nope")


def test_every_file_is_served_with_its_type(client: httpx.Client) -> None:
    types = {client.get(f"/static/{name}").headers["content-type"].partition(";")[0] for name in static_files()}
    assert types == {"text/html", "text/css", "text/javascript", "image/svg+xml", "text/plain"}


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "pages", "/etc/hostname", "nope.mjs"])
def test_nothing_else_is(client: httpx.Client, name: str) -> None:
    assert client.get(f"/static/{name}").status_code in (403, 404)


def test_the_page_weighs_little_and_asks_no_other_host(client: httpx.Client) -> None:
    sizes = [len(client.get(f"/static/{name}", headers={"accept-encoding": "gzip"}).read()) for name in static_files()]
    assert sum(sizes) < 500_000
    packed = [int(client.head(f"/static/{name}").headers["content-length"]) for name in static_files()]
    assert sum(packed) < 200_000
    text = "".join(path.read_text() for path in [*OURS, STATIC / "app.css", STATIC / "index.html"])
    assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org", "https://www.tradingview.com"}


def test_text_of_the_api_never_becomes_markup() -> None:
    for path in OURS:
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text()
        )
        assert not found, f"{path.name}: {found}"


def test_files_need_no_key_and_pages_lead_to_the_login(tmp_path: Path) -> None:
    with empty_server(tmp_path / "shop", REFRESH_API_KEY=KEY) as client:
        assert client.get("/static/app.mjs").status_code == 200
        answer = client.get("/series/fair/BTC/USD/m5", headers={"accept": "text/html"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/series/fair/BTC/USD/m5")
        assert client.get("/", headers={"x-api-key": KEY}).status_code == 200
