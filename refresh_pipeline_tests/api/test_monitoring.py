"""deploy/monitoring: the alert rules and the Grafana dashboard ask for figures that /metrics has."""

import json
import re
from pathlib import Path

import httpx
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
BOARD = json.loads((FOLDER / "grafana" / "dashboards" / "refresh-pipeline.json").read_text())
COMPOSE = yaml.safe_load((FOLDER / "docker-compose.yaml").read_text())
SUFFIXES = ("_bucket", "_sum", "_count")


@pytest.fixture(scope="module")
def families(client: httpx.Client) -> set[str]:
    return set(re.findall(r"^# TYPE (\w+)", client.get("/metrics").text, re.MULTILINE))


def expressions() -> list[str]:
    return [rule["expr"] for rule in RULES] + [one["expr"] for panel in BOARD["panels"] for one in panel["targets"]]


def test_every_figure_that_is_asked_for_is_there(families: set[str]) -> None:
    asked = {name for text in expressions() for name in re.findall(r"\brefresh_\w+", text)}
    plain = {name if name in families else re.sub(f"({'|'.join(SUFFIXES)})$", "", name) for name in asked}
    assert len(plain) > 10
    assert plain <= families


def test_every_label_that_is_asked_for_is_there(client: httpx.Client) -> None:
    text = client.get("/metrics").text
    for name, label in re.findall(r"(refresh_series|refresh_candles)\{[^}]*?(\w+)=~", " ".join(expressions())):
        assert re.search(rf"^{name}\{{[^}}]*{label}=", text, re.MULTILINE), (name, label)


def test_an_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in RULES:
        assert {"summary", "description"} <= rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for box in (panel["gridPos"] for panel in panels)
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_both_start_with_the_profile_alone_and_from_files_that_are_there() -> None:
    for name in ("prometheus", "grafana"):
        service = COMPOSE["services"][name]
        assert service["profiles"] == ["monitoring"]
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (FOLDER / source).exists()
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["services"]["web"]["ports"])
