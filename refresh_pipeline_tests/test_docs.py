"""Whether the documents tell the truth: columns, figures, queries, examples and links, held against the real things."""

import importlib.util
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import click
import duckdb
import pytest
import typer
from pydantic import BaseModel

from refresh_pipeline.analytics.registry import registry
from refresh_pipeline.cli.app import app
from refresh_pipeline.market import candles
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import QUOTE_COLUMNS
from refresh_pipeline.market.destination_spec import KINDS as DESTINATION_KINDS
from refresh_pipeline.market.destination_spec import MODELS, PLACEHOLDERS
from refresh_pipeline.market.export_spec import Compression, Export, Format, Layer, Layout
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market_files import CATALOG
from refresh_pipeline.pipeline import compute, fetch
from refresh_pipeline.sources.alpaca import AlpacaOptions
from refresh_pipeline.sources.binance import BinanceOptions
from refresh_pipeline.sources.bybit import BybitOptions
from refresh_pipeline.sources.ccxt_exchange import CcxtOptions
from refresh_pipeline.sources.demo import DemoOptions
from refresh_pipeline.sources.file_options import FilesOptions
from refresh_pipeline.sources.json_api import HttpOptions
from refresh_pipeline.sources.okx import OkxOptions
from refresh_pipeline.sources.registry import SOURCES as KINDS
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.sources.yahoo import YahooOptions
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.indicators_document import tables

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = REPOSITORY / "docs" / "data.md"
ENHANCED = REPOSITORY / "docs" / "enhanced-candles.md"
INDICATORS = REPOSITORY / "docs" / "indicators.md"
EXPORTS = REPOSITORY / "docs" / "exports.md"
MARKETS = REPOSITORY / "docs" / "markets.md"
DESTINATIONS = REPOSITORY / "docs" / "destinations.md"
README = REPOSITORY / "README.md"
DECISIONS = sorted((REPOSITORY / "docs" / "decisions").glob("0*.md"))
DECISIONS_INDEX = REPOSITORY / "docs" / "decisions" / "README.md"
PAGES = REPOSITORY / "docs" / "sources"
SOURCES = sorted(PAGES.glob("*.md"))
DOCUMENTS = [README, *sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "CONTRIBUTING.md", DECISIONS_INDEX]
DOCUMENTS += [REPOSITORY / "deploy" / "README.md", *DECISIONS, *SOURCES]
COMMANDS = sorted(getattr(typer.main.get_command(app), "commands", {}))
EXPORT_KEYS = [
    *(name for model in (Export, *MODELS.values()) for name, each in model.model_fields.items() if not each.exclude),
    *PLACEHOLDERS,
]


def blocks(document: Path, *languages: str) -> list[str]:
    """The fenced blocks in these languages."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [text for language, text in fenced if language in languages]


def documented() -> dict[str, dict[str, list[str]]]:
    """The rows of each table's section in docs/data.md: by table, by column, the other cells."""
    sections = re.split(r"^## `<market>\.(\w+)`$", DATA.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {name: rows_of(text.split("\n## ")[0]) for name, text in zip(sections[::2], sections[1::2], strict=True)}


def rows_of(section: str) -> dict[str, list[str]]:
    """A table's rows, by their first cell."""
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first.strip("`"): others for first, *others in rows}


@pytest.fixture(scope="module")
def market() -> Market:
    return parse_market((CATALOG / "demo.yaml").read_text(), file="demo.yaml")


@pytest.fixture(scope="module")
def database(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo market as the first refresh of today leaves it: the documents' queries ask for recent candles."""
    folder, now = tmp_path_factory.mktemp("documented"), datetime.now(UTC)
    warehouse = Warehouse(database=str(folder / "refresh.duckdb"))
    warehouse.prepare(market)
    warehouse.write_gaps(market, now)
    requests = fetch.requests_for(market, warehouse.series_stats(market, market.series), now)
    done = fetch.fetch_candles(warehouse, market, open_source(market, folder), requests, now)
    warehouse.record(market, Table.raw_candles, done, "run", now)
    for table in computations(market):
        compute.compute(warehouse, market, table, market.series)
    return folder / "refresh.duckdb"


def columns_in(database: Path, table: Table) -> list[tuple[str, str]]:
    """What DuckDB says of a table of the market demo: names and types."""
    with duckdb.connect(str(database), read_only=True) as connection:
        return [(name, kind.lower()) for name, kind, *_ in connection.execute(f"describe demo.{table}").fetchall()]


@pytest.mark.parametrize("table", [table.value for table in Table])
def test_the_documented_columns_are_the_real_ones(table: str, database: Path) -> None:
    shown = [(name, cells[0]) for name, cells in documented()[table].items()]
    real = columns_in(database, Table(table))
    # The others have a document of their own.
    assert shown == (real[: len(shown)] if table in (Table.enhanced_candles, Table.indicators) else real)


def test_each_table_is_documented_once_and_no_other() -> None:
    sections = re.findall(r"^## `<market>\.(\w+)`$", DATA.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(sections) == sorted(table.value for table in Table)


def test_the_computed_columns_of_enhanced_candles_are_documented_beside(database: Path) -> None:
    real = columns_in(database, Table.enhanced_candles)[len(documented()["enhanced_candles"]) :]
    kinds = {"flag": "tinyint", "text": "varchar"}
    columns = rows_of(ENHANCED.read_text(encoding="utf-8"))
    assert [(name, kinds.get(cells[1], "double")) for name, cells in columns.items()] == real


def test_indicators_are_documented_as_the_registry_has_them(database: Path) -> None:
    text = INDICATORS.read_text(encoding="utf-8")
    assert text.endswith(tables()), "run python -m refresh_pipeline_tests.indicators_document"
    real = columns_in(database, Table.indicators)[len(documented()["indicators"]) :]
    documented_types = {name: cells[1] for name, cells in rows_of(text).items()}
    assert {name: documented_types[name] for name, _ in real} == dict(real)


def test_every_indicator_has_its_formula_in_the_document() -> None:
    _, formulas = INDICATORS.read_text(encoding="utf-8").split("\n## Formulas\n")
    rows = [line.split(" | ") for line in formulas.split("\n## ")[0].splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(registry(CALENDARS["crypto"]))
    assert all(len(row) == 3 and row[1].strip() for row in rows)


def test_the_markets_that_the_documents_show_are_markets() -> None:
    for text in blocks(INDICATORS, "yaml"):
        assert computations(parse_market(text, file="indicators.md"))


def test_every_reason_for_turning_a_candle_away_is_documented() -> None:
    text = " ".join(DATA.read_text(encoding="utf-8").split())
    names = ("NOT_A_NUMBER", "NOT_POSITIVE", "HIGH_BELOW_LOW", "HIGH_TOO_LOW", "LOW_TOO_HIGH", "BAD_VOLUME")
    for name in (*names, "PLACEHOLDER", "MALFORMED"):
        assert getattr(candles, name) in text


def test_both_sides_of_a_quote_are_documented() -> None:
    text = DATA.read_text(encoding="utf-8")
    assert all(f"`{column}`" in text for column in QUOTE_COLUMNS)


@pytest.mark.parametrize("query", [query for document in DOCUMENTS for query in blocks(document, "sql")])
def test_every_documented_query_runs(query: str, database: Path) -> None:
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute(query).fetchall()
    # Nothing was corrected, turned away or checked in a simulated market, and an instant that is named is long gone.
    assert rows or any(word in query for word in ("revisions", "rejected", "check_results", "timestamp '"))


def test_the_markets_that_documents_show_are_markets() -> None:
    shown = [
        parse_market(text, file=each.name) for each in (MARKETS, EXPORTS, DESTINATIONS) for text in blocks(each, "yaml")
    ]
    assert len(shown) >= 3
    assert len({market.source.kind for market in shown}) >= 2


@pytest.mark.parametrize("document", SOURCES, ids=lambda path: path.stem)
def test_the_page_of_a_source_says_what_it_takes_and_shows_a_market_that_opens(document: Path, tmp_path: Path) -> None:
    headings = re.findall(r"^## (.*)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[:5] == ["Account and key", "Limits", "History", "Quirks", "Example"]
    shown = [parse_market(text, file=document.name) for text in blocks(document, "yaml")]
    assert {market.source.kind for market in shown} == {document.stem}
    if document.stem == "ccxt" and not importlib.util.find_spec("ccxt"):
        pytest.skip("the extra ccxt is not installed")
    opened = [open_source(market, tmp_path).kind.partition(":")[0] for market in shown]
    assert opened == [document.stem] * len(shown)


@pytest.mark.parametrize(
    "words", [*Layer, *Format, *Compression, *Layout, *DESTINATION_KINDS, *dict.fromkeys(EXPORT_KEYS)]
)
def test_whatever_exports_and_destinations_can_say_is_documented(words: str) -> None:
    text = EXPORTS.read_text(encoding="utf-8") + DESTINATIONS.read_text(encoding="utf-8")
    assert re.search(rf"`\{{?{words}\}}?`", text)


def commands_shown() -> list[list[str]]:
    """Every `refresh ...` in a block of commands, as words, with what stands before the program left out."""
    lines = [line for document in DOCUMENTS for block in blocks(document, "", "sh") for line in block.splitlines()]
    found = [re.search(rf"(?:^|/bin/|\s)refresh ({'|'.join(COMMANDS)})\b.*$", line) for line in lines]
    return [shlex.split(match[0].split("refresh ", 1)[1], comments=True) for match in found if match]


def test_every_command_shown_is_one() -> None:
    group = typer.main.get_command(app)
    shown = commands_shown()
    assert {words[0] for words in shown} == set(COMMANDS)
    for words in shown:
        command: click.Command = getattr(group, "commands", {})[words[0]]
        if inner := getattr(command, "commands", {}):
            words = words[1:]  # noqa: PLW2901 - the group's name leads to it and says no more
            command = inner[words[0]]
        command.make_context(words[0], words[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        assert "://" in target or (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_why_what_and_what_follows(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"# {document.name[:4]} ")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == ["Context", "Decision", "Figures", "Consequences"]


@pytest.mark.parametrize("document", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_is_in_the_index_under_its_title(document: Path) -> None:
    title = document.read_text(encoding="utf-8").splitlines()[0].removeprefix(f"# {document.name[:4]} ")
    assert f"| [{document.name[:4]}]({document.name}) | {title} |" in DECISIONS_INDEX.read_text(encoding="utf-8")


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [document.name[:4] for document in DECISIONS]
    assert len(set(numbers)) == len(numbers) > 0


def test_each_source_has_a_page() -> None:
    assert {page.stem for page in SOURCES} >= set(KINDS)


@pytest.mark.parametrize(
    ("page", "options"),
    [
        ("binance", BinanceOptions),
        ("files", FilesOptions),
        ("demo", DemoOptions),
        ("http", HttpOptions),
        ("ccxt", CcxtOptions),
        ("yahoo", YahooOptions),
        ("alpaca", AlpacaOptions),
        ("bybit", BybitOptions),
        ("okx", OkxOptions),
    ],
)
def test_every_option_of_a_source_is_on_its_page(page: str, options: type[BaseModel]) -> None:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    assert [name for name in options.model_fields if f"`{name}`" not in text] == []
