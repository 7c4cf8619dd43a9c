"""Every mistake in a market's YAML is answered by a MarketError: mutations of keys, types and values of one."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from refresh_pipeline.market.apis import ApiError, parse_collection
from refresh_pipeline.market.model import MarketError, parse_market
from refresh_pipeline.market_files import CATALOG
from refresh_pipeline.pipeline.export import check_exports
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.warehouse.computations import computations

RICH = """
name: rich
source: [{kind: binance, base_url: "https://x.example"}, {kind: demo, seed: 1}]
calendar: crypto
instruments: {BTC/USDT: {symbol: BTCUSDT, class: crypto, ids: {dhan: 5}}, ETH/USDT: {}}
timeframes: [m1, H1]
history: {m1: 30d, H1: 1y}
reread: 10
off_peak: 2
chunks: 100
two_sided: false
max_deviation_percent: 5
owners: ["team:desk"]
indicators: {compute: [rsi, {ema: [8, 21]}], keep: {m1: 1d}}
exports: {current: {layout: plain, layers: [joined], formats: [csv], compression: gzip, keep: {newest: 3}}}
destinations: {cache: {kind: redis, url: "redis://localhost", timeframes: [m1]}}
publish: 2h
"""
ODD = [None, True, -1, 1e308, "", "\x00", "\x1b]0;x\a", "\ud800", "nope", [], {}, [[]], {"a": 1}, {None: 1}, 10**30]
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{former}'] * 9)}]\n" for former, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[key], (*path, key))


def mutations_of(market: Any) -> Iterator[Any]:
    """A document with one value, one key or one entry changed."""
    for path in [path for path in paths(market) if path]:
        for value in [*ODD, "removed", "renamed"]:
            mutant = copy.deepcopy(market)
            parent = mutant
            for key in path[:-1]:
                parent = parent[key]
            if value == "removed":
                del parent[path[-1]]
            elif value == "renamed" and isinstance(parent, dict):
                parent["\x07 odd"] = parent.pop(path[-1])
            else:
                parent[path[-1]] = value
            yield mutant


def answer(text: str) -> str:
    """The message for a YAML; empty where it is right."""
    try:
        computations(parse_market(text, "x.yaml"))
    except MarketError as error:
        return str(error)
    return ""


def test_every_mutation_is_right_or_refused_in_printable_words() -> None:
    sample = random.Random(7).sample(list(mutations_of(yaml.safe_load(RICH))), 250)
    answers = [answer(yaml.safe_dump(mutant)) for mutant in sample]
    assert sum(map(bool, answers)) > 150
    assert all(line.isprintable() for text in answers for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RICH.replace("name: rich", 'name: "ri\\x07ch"'), "a control character; allowed: printable text"),
        (RICH.replace("BTC/USDT:", '"BTC\\ud800":'), "x.yaml: "),
        ("a: " + "[" * 5000 + "]" * 5000, "too deeply"),
        (LAUGHS, "aliases that repeat too much"),
        ("a: &x [*x]", "aliases that repeat too much"),
        (RICH.replace("name: rich", "name: information_schema"), "a name that DuckDB uses itself"),
        (RICH.replace("name: rich", "name: pg_catalog"), "a name that DuckDB uses itself"),
        (RICH.replace("layout: plain", "layout: {a: 1}"), "exports.current.layout: found {'a': 1}"),
        (RICH.replace("team:desk", "not an email"), "'not an email' is no owner"),
        (RICH.replace("[rsi, ", "[nope, "), "indicators.compute: "),
        (RICH.replace("ema: [8, 21]", "ema: {period: 8}"), "indicators.compute: "),
        (RICH.replace("ema: [8, 21]", "macd: {fastperiod: -8}"), "indicators.compute: "),
    ],
)
def test_a_mistake_is_named(text: str, said: str) -> None:
    assert said in answer(text)


def test_the_rich_market_is_right() -> None:
    assert answer(RICH) == ""


FILES = [*sorted(CATALOG.glob("*.yaml")), *sorted((CATALOG / "apis").glob("*.yaml"))]
SHORT = {**{name: ["BTC/USD"] for name in ("demo", "crypto")}, "fx": {"EUR/USD": {"class": "currency"}}}


def shipped(file: Path) -> Any:
    """A shipped file with few instruments or APIs: each of them is read alike."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "apis" in content:
        return content | {"apis": dict(list(content["apis"].items())[:3])}
    return content | ({"instruments": SHORT[file.stem]} if file.stem in SHORT else {})


def words(file: Path, text: str, folder: Path) -> str:
    """What somebody reads of a file with this text; empty where it is right."""
    try:
        if file.parent.name == "apis":
            parse_collection(text, file.name)
        else:
            market = parse_market(text, file.name, read_universe=lambda _: "instrument,dhan\nRELIANCE,2885\n")
            open_source(market, folder)
            computations(market)
            check_exports(market)
    except (MarketError, ApiError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_mutation_of_a_shipped_file_is_right_or_refused_in_a_sentence(file: Path, tmp_path: Path) -> None:
    content, chance = shipped(file), random.Random(file.stem)
    assert words(file, yaml.safe_dump(content), tmp_path) == ""
    mutants = [yaml.safe_dump(mutant) for mutant in chance.sample(list(mutations_of(content)), 25)]
    text = yaml.safe_dump(content)
    for odd in ("\t", ":", "[", "}", "&a ", "*a", "'", "\n", "- ", "%", "!!binary aGk=\n", "2026-13-45"):
        place = chance.randrange(len(text))
        mutants.append(text[:place] + odd + text[place:])
    answers = [words(file, mutant, tmp_path) for mutant in mutants]
    assert sum(map(bool, answers)) > 15
    assert all(line.isprintable() and len(line) < 600 for answer in answers for line in answer.splitlines())


@pytest.mark.parametrize("file", [FILES[0], FILES[-1]], ids=lambda file: file.stem)
@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 1500 + "]" * 1500,
        "[" * 100_000,
        "- " * 100_000,
        LAUGHS,
        "a: &x [*x]",
        'a: "\\x07"',
        "a: 2026-13-45",
    ],
)
def test_a_document_without_end_or_sense_is_refused_whoever_reads_it(file: Path, text: str, tmp_path: Path) -> None:
    assert words(file, text, tmp_path).startswith(f"{file.name}: ")
