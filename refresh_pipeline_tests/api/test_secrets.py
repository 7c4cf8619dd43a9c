"""No secret leaves the API: every secret of the settings is a canary, and every route is asked, rightly and wrongly."""

import base64
import logging
import re
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from pydantic import SecretStr

from refresh_pipeline.api.app import ROUTERS
from refresh_pipeline.api.service import Service
from refresh_pipeline.api_files import load_collections
from refresh_pipeline.settings import Settings
from refresh_pipeline_tests.api.served import NOW, Shop, uvicorn_of
from refresh_pipeline_tests.apis.api_server import api_server

# Addresses whose parts are secret; the others are secrets as they are.
ADDRESSES = {
    "REFRESH_POSTGRES_URL": "postgresql://user:{}@127.0.0.1:1/dagster",
    "REFRESH_REDIS_URL": "redis://:{}@127.0.0.1:1/0",
    "SLACK_WEBHOOK_URL": "https://127.0.0.1:1/{}",
    "ALERT_URLS": "json://127.0.0.1:1/{}",
}
NOT_HERE = ("REFRESH_WAREHOUSE",)
KEY = "REFRESH_SECRET_CATALOGUE"
COLLECTION = f"""
name: mine
allow_private: true
apis:
  one: {{url: "URL/one", params: {{apikey: ${KEY}}}, every: 1h}}
"""
# Values for the parameters of paths; `x` is wrong for each.
RIGHT = {
    "market": "fair",
    "instrument": "BTC-USD",
    "rest": "BTC-USD/m5",
    "timeframe": "m5",
    "api_id": "one",
    "id": "one",
}
QUERIES = ("", "?limit=-1&market=nope&symbol=fair:BTC/USD&file=../.env")


def canary(name: str) -> str:
    """The secret of a setting: no other text holds it, and quoting alters it."""
    return f"canary+{name.lower()}/=x"


def secret_names() -> list[str]:
    """The settings whose values are secrets."""
    fields = Settings.model_fields.items()
    return [
        str(field.validation_alias)
        for _, field in fields
        if "SecretStr" in str(field.annotation) and field.validation_alias not in NOT_HERE
    ]


def spellings(text: str) -> set[bytes]:
    """A text as it might be written: as it is, quoted, in hexadecimal digits, and in Base64 at any offset."""
    raw = text.encode()
    shifted = {base64.b64encode(b" " * offset + raw)[4:-4] for offset in range(3)}
    return {raw, quote(text, safe="").encode(), quote(text).encode(), raw.hex().encode(), raw[::-1], *shifted}


def paths() -> list[tuple[str, str]]:
    """Method and path of every route that ends, with right and wrong values for its parameters."""
    found = set()
    for route in (route for router in ROUTERS for route in router.routes):
        path = str(getattr(route, "path", ""))
        methods = set(getattr(route, "methods", None) or ()) - {"HEAD"}
        for right in (True, False):
            filled = re.sub(r"{(\w+)[^}]*}", lambda match, ok=right: RIGHT.get(match[1], "x") if ok else "x", path)
            found |= {(method, filled) for method in methods}
    return sorted(found - {("GET", "/api/v1/events")})


def test_no_secret_is_in_any_answer_nor_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = secret_names()
    secrets = {name: ADDRESSES.get(name, "{}").format(canary(name)) for name in names} | {KEY: canary(KEY)}
    (tmp_path / "shop" / "apis").mkdir(parents=True)
    with api_server() as venue, caplog.at_level(logging.DEBUG):
        (tmp_path / "shop" / "apis" / "mine.yaml").write_text(COLLECTION.replace("URL", venue.url))
        more = {"REFRESH_APIS": "mine", "REFRESH_APIS_DIR": str(tmp_path / "shop" / "apis")}
        shop = Shop.opened(tmp_path / "shop", REFRESH_API_RATE="100000", **more, **secrets)
        held = [name for name, field in Settings.model_fields.items() if str(field.validation_alias) in names]
        assert all(isinstance(getattr(shop.settings, name), SecretStr) for name in held)
        # Without a warehouse every question is answered at once.
        shop.settings.database.unlink()
        service = Service.of(shop.settings, shop.markets, lambda: NOW, load_collections(shop.settings))
        with (
            uvicorn_of(service, shop.settings) as port,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
        ):
            shown = answers(client, canary("REFRESH_API_KEY"))
    log = caplog.text.encode()
    assert len(shown) > 180
    for name, value in secrets.items():
        for spelling in spellings(canary(name)):
            assert not [where for where, body in shown.items() if spelling in body], (name, value)
            assert spelling not in log, name


def answers(client: httpx.Client, key: str) -> dict[str, bytes]:
    """Headers and body of every answer by what was asked, with the key and without."""
    shown = {}
    for method, path in paths():
        for query in QUERIES if method == "GET" else ("",):
            headers = {"x-api-key": key, "content-type": "application/json"}
            answer = client.request(method, path + query, headers=headers, content=b"{}" if method != "GET" else None)
            shown[f"{method} {path}{query}"] = answer.content + repr(answer.headers.raw).encode()
    for path in ("/api/v1/config", "/openapi.json", "/"):
        answer = client.get(path, headers={"x-api-key": "a wrong key of sixteen characters"})
        shown[f"{path} with a wrong key"] = answer.content + repr(answer.headers.raw).encode()
    return shown
