"""Universes of shares, from lists as the exchange and Dhan publish them."""

import pytest

from refresh_pipeline.market.model import Instrument, parse_market
from refresh_pipeline.market.universe import PRIORITY, UniverseError, renewed, security_ids, symbols_of
from refresh_pipeline.market_files import CATALOG

HEADER = (
    "SEM_EXM_EXCH_ID,SEM_SEGMENT,SEM_SMST_SECURITY_ID,SEM_INSTRUMENT_NAME,SEM_EXPIRY_CODE,SEM_TRADING_SYMBOL,"
    "SEM_LOT_UNITS,SEM_CUSTOM_SYMBOL,SEM_EXPIRY_DATE,SEM_STRIKE_PRICE,SEM_OPTION_TYPE,SEM_TICK_SIZE,SEM_EXPIRY_FLAG,"
    "SEM_EXCH_INSTRUMENT_TYPE,SEM_SERIES,SM_SYMBOL_NAME"
)
CONSTITUENTS = """Company Name,Industry,Symbol,Series,ISIN Code
ABB India Ltd.,Capital Goods,ABB,EQ,INE117A01022
"Tata Consultancy Services Ltd.",Information Technology,TCS,EQ,INE467B01029
Reliance Industries Ltd.,Oil Gas & Consumable Fuels,RELIANCE,EQ,INE002A01018
"""


def line(symbol: str, security_id: str, series: str = "EQ", exchange: str = "NSE", kind: str = "EQUITY") -> str:
    segment = {"EQUITY": "E", "INDEX": "I"}.get(kind, "D")
    return (
        f"{exchange},{segment},{security_id},{kind},0,{symbol},1.0,{symbol} Ltd,,,,5.0,NA,ES,{series},{symbol} LIMITED"
    )


def master(*lines: str) -> str:
    return "\n".join([HEADER, *lines, ""])


MASTER = master(line("TCS", "11536"), line("RELIANCE", "2885"), line("ABB", "13"), line("HEG", "7368", "BE"))


def universe_of(**ids: str) -> dict[str, Instrument]:
    return {symbol: Instrument(ids={"security_id": security_id}) for symbol, security_id in ids.items()}


def test_the_shares_of_an_index_come_with_their_ids_and_the_priority_symbols_first() -> None:
    universe = renewed({}, MASTER, CONSTITUENTS)
    assert universe.csv == "symbol,security_id\nRELIANCE,2885\nTCS,11536\nABB,13\n"
    assert list(universe.added) == ["RELIANCE", "TCS", "ABB"]
    assert universe.unknown == []


def test_without_a_list_of_the_index_the_shares_stay_and_their_ids_are_renewed() -> None:
    before = universe_of(ABB="13", HEG="1336", TCS="11536")
    universe = renewed(before, MASTER, None)
    assert universe.csv == "symbol,security_id\nABB,13\nHEG,7368\nTCS,11536\n"
    assert (list(universe.renumbered), list(universe.added), list(universe.removed)) == (["HEG"], [], [])


def test_a_share_that_the_master_does_not_know_keeps_its_id_or_stays_out() -> None:
    text = CONSTITUENTS + "Old,X,OLD,EQ,X\nNew,X,DUMMYNEW,EQ,X\n"
    universe = renewed(universe_of(OLD="77", GONE="78"), MASTER, text)
    assert universe.csv.endswith("ABB,13\nOLD,77\n")
    assert (list(universe.unknown), list(universe.removed)) == (["OLD", "DUMMYNEW"], ["GONE"])


def test_an_index_that_is_in_the_universe_stays_in_it() -> None:
    before = universe_of(TCS="1") | {"NIFTY": Instrument.model_validate({"class": "index", "ids": {"security_id": 13}})}
    universe = renewed(before, MASTER, CONSTITUENTS)
    assert universe.csv == "symbol,security_id,class\nRELIANCE,2885,\nTCS,11536,\nABB,13,\nNIFTY,13,index\n"
    market = parse_market(
        "{name: nse, source: {kind: dhan}, calendar: nse, universe: u.csv, timeframes: [D1], history: 1y}",
        "nse.yaml",
        {"u.csv": universe.csv}.__getitem__,
    )
    assert market.instruments["NIFTY"].asset_class == "index"
    assert {name: each.ids["security_id"] for name, each in market.instruments.items()} == {
        "RELIANCE": "2885", "TCS": "11536", "ABB": "13", "NIFTY": "13"
    }  # fmt: skip
    assert market.universe == "u.csv"


def test_of_several_rows_with_one_symbol_the_share_itself_is_taken() -> None:
    rows = [line("CHOLAFIN", "19257", "D1"), line("CHOLAFIN", "685"), line("CHOLAFIN", "9", "BE")]
    rows += [line("CHOLAFIN", "511243", "A", "BSE"), line("CHOLAFIN", "53000", "XX", kind="FUTSTK")]
    rows += [line("NIFTY", "13", "X", kind="INDEX"), line("ODD", "x1"), "NSE,E,5"]
    assert security_ids(master(*rows)) == {"CHOLAFIN": "685"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found the columns none; wanted SEM_EXM_EXCH_ID"),
        ("<html>busy</html>", "found the columns <html>busy</html>"),
        ("EXCH_ID,SEGMENT,SECURITY_ID\nNSE,E,13", "wanted SEM_EXM_EXCH_ID, SEM_SEGMENT"),
        (master(line("TCS", "532540", "A", "BSE")), "found no share of NSE"),
    ],
)
def test_what_is_no_scrip_master_is_refused(text: str, words: str) -> None:
    with pytest.raises(UniverseError, match=words):
        security_ids(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "columns none"), ("<html>", "wanted one that is called Symbol"), ("Symbol\n\n", "found no symbol")],
)
def test_what_is_no_list_of_an_index_is_refused(text: str, words: str) -> None:
    with pytest.raises(UniverseError, match=words):
        symbols_of(text)


def test_a_master_with_few_of_the_shares_is_taken_for_the_wrong_one() -> None:
    with pytest.raises(UniverseError, match="found 1 of 3 symbols"):
        renewed({}, master(line("TCS", "11536")), CONSTITUENTS)


def test_the_universe_that_is_shipped_begins_with_the_priority_symbols() -> None:
    read = {"nifty500.csv": (CATALOG / "nifty500.csv").read_text()}.__getitem__
    market = parse_market((CATALOG / "nse.yaml").read_text(), "nse.yaml", read)
    assert tuple(market.instruments)[:20] == PRIORITY
    assert len(set(PRIORITY)) == 20
    ids = [str(each.ids["security_id"]) for each in market.instruments.values()]
    assert all(each.isdigit() for each in ids)
    assert len(set(ids)) == len(ids) >= 200
    # As the venue's own documents give them.
    known = {"HDFCBANK": "1333", "RELIANCE": "2885", "TCS": "11536"}
    assert {name: market.instruments[name].ids["security_id"] for name in known} == known
