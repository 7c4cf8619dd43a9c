"""The tracker's catalogue comes in with a report, without keys, and goes out masked."""

import json
from typing import Any

import pytest

from refresh_pipeline.market.api_import import export_catalogue, import_catalogue
from refresh_pipeline.market.apis import ApiError, parse_collection

KEY = "SZHYFZK2RR8H9TIMJBVW54V4H81K2Z2KR2"


def entry(identifier: str, url: str | None, endpoints: Any = None, **further: Any) -> dict[str, Any]:
    """An entry as the catalogue has it."""
    return {
        "id": identifier,
        "name": identifier,
        "base_url": url,
        "auth": {"type": "none"},
        "endpoints": endpoints,
        **further,
    }


CATALOGUE = {
    "schema": {"name": "Crypto Resource Registry"},
    "registry": {
        "metadata": {"version": "1"},
        "block_explorers": [
            entry(
                "etherscan_primary",
                "https://api.etherscan.io/api",
                {"balance": "?module=account&address={address}&apikey={key}", "gas": "?module=gas&apikey={key}"},
                auth={"type": "apiKeyQuery", "key": KEY, "param_name": "apikey"},
                notes=f"5 requests a second with {KEY}",
            ),
            entry("two_values", "https://a.example", {"x": "/{one}/{two}"}),
        ],
        "market_data_apis": [
            entry("coingecko", "https://api.coingecko.com/api/v3", {"global": "/global", "ping": "/ping"}),
            entry("coingecko", "https://pro.example/api", {"global": "/global"}),
            entry("f&g/index", "https://api.alternative.me", {"fng": "/fng/?limit=1"}, category="sentiment"),
            entry(
                "cmc",
                "https://pro-api.example/v1",
                {"quotes": "/quotes"},
                auth={"type": "apiKeyHeader", "header_name": "X-K"},
            ),
            entry(
                "optional", "https://o.example", {"a": "/a"}, auth={"type": "apiKeyQueryOptional", "param_name": "k"}
            ),
        ],
        "rpc_nodes": [
            entry("publicnode", "https://rpc.example", {"gas": {"path": "/", "method": "POST"}}),
            entry("socket", "wss://s.example"),
            entry("nothing", None),
            entry("link", "https://link.example"),
        ],
        "local_backend_routes": [entry("local_1", "/api/v1/a"), entry("local_2", "http://localhost:8000/b")],
    },
}


def test_a_catalogue_comes_in_with_a_report_and_without_keys():
    text, report = import_catalogue(json.dumps(CATALOGUE), "custom", "all.json")
    assert (report.read, report.own_routes, report.considered, report.with_endpoints) == (13, 2, 11, 8)
    assert dict(report.questions) == {"parameter": 2, "key": 2, "ready": 5, "post": 1}
    assert report.keys_removed == 1
    assert report.renamed == {"coingecko": "coingecko_2", "f&g/index": "f_g_index"}
    assert set(report.left_out) == {"two_values.x", "publicnode.gas", "socket", "nothing"}
    assert KEY not in text
    collection = parse_collection(text, "custom.yaml")
    on = {name: api.url for name, api in collection.apis.items() if api.enabled}
    assert on == {
        "coingecko.global": "https://api.coingecko.com/api/v3/global",
        "coingecko.ping": "https://api.coingecko.com/api/v3/ping",
        "coingecko_2.global": "https://pro.example/api/global",
        "f_g_index.fng": "https://api.alternative.me/fng/?limit=1",
        "optional.a": "https://o.example/a",
    }
    assert collection.apis["etherscan_primary.gas"].url.endswith("apikey=$ETHERSCAN_PRIMARY_API_KEY")
    assert collection.apis["cmc.quotes"].headers == {"X-K": "$CMC_API_KEY"}
    assert [question.id for question in collection.questions if question.base == "etherscan_primary.balance"] == []
    assert "13 entries read, 2 routes" in report.lines[0]
    assert "1 keys removed" in report.lines[2]


@pytest.mark.parametrize("text", ["a preamble {", "{}", '{"a": [{"id": "b"}]}'])
def test_what_is_no_catalogue_is_refused(text: str):
    with pytest.raises(ApiError, match="found no"):
        import_catalogue(text, "custom", "all.json")


def test_an_export_masks_keys_and_has_the_trackers_fields():
    text, _ = import_catalogue(json.dumps(CATALOGUE), "custom", "all.json")
    apis = {
        each["id"]: each for each in json.loads(export_catalogue(parse_collection(text, "c.yaml").questions))["apis"]
    }
    assert apis["cmc.quotes"]["auth"] == {"type": "apiKeyHeader", "key": "***", "header_name": "X-K"}
    assert apis["coingecko.global"]["auth"] == {"type": "none", "key": None}
    assert apis["coingecko.global"]["update_type"] == "scheduled"
    assert "API_KEY" not in json.dumps(apis)
