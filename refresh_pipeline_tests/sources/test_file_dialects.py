"""Files as brokers, exchanges, data vendors and spreadsheets write them: read, or refused with both readings."""

import gzip
import io
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest
import yaml

from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.model import MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request
from refresh_pipeline.sources.file_inspection import inspect_file
from refresh_pipeline.sources.files import FilesSource

LATE = datetime(2100, 1, 1, tzinfo=UTC)
# Prices and volumes of three bars from 2026-11-27 on: enough to tell each column from the others.
PRICES = [
    (1100.25, 1150.5, 1080.0, 1120.75, 15300),
    (1120.75, 1130.0, 1101.5, 1125.0, 7200),
    (1125, 1140, 1120, 1138, 950),
]
HOURS = [datetime(2026, 11, 27, hour) for hour in (9, 10, 13)]  # noqa: DTZ001
DAYS = [datetime(2026, 11, day) for day in (25, 26, 27)]  # noqa: DTZ001


def rows(times: list[datetime], row: Callable[..., str]) -> str:
    return "".join(row(time, *prices) + "\n" for time, prices in zip(times, PRICES, strict=True))


def simple(form: str, header: str, times: list[datetime] = HOURS, delimiter: str = ",") -> str:
    """A file with a header whose columns are time, open, high, low, close, volume."""
    body = rows(times, lambda time, *prices: delimiter.join([f"{time:{form}}", *map(str, prices)]))
    return f"{header}\n{body}"


def european(time: datetime, *prices: float) -> str:
    return ";".join(
        [f"{time:%d.%m.%Y %H:%M}", *(f"{each:,.2f}".translate(str.maketrans(",.", ".,")) for each in prices)]
    )


def quoted(time: datetime, *prices: float) -> str:
    return ",".join([f'"{time:%b %d, %Y}"', *(f'"{each:,.2f}"' for each in prices)])


def tenths(time: datetime, o: float, h: float, lo: float, c: float, v: float) -> str:
    return f'"{time:%m/%d/%Y}","{c:,.2f}","{o:,.2f}","{h:,.2f}","{lo:,.2f}","{v / 1000:.2f}K","-0.61%"'


def binance(time: datetime, *prices: float, scale: int = 1000) -> str:
    opened = int(time.replace(tzinfo=UTC).timestamp()) * scale
    return ",".join(map(str, [opened, *prices, opened + 3600 * scale - 1, 1, 1, 1, 1, 0]))


def epoch(time: datetime, scale: float = 1) -> int:
    return int(time.replace(tzinfo=UTC).timestamp() * scale)


OHLCV = "Open,High,Low,Close,Volume"
# What each program writes, and the options that the market's YAML needs for it: none where the file leaves no doubt.
HOURLY: Mapping[str, tuple[str, str]] = {
    "metatrader 4, history center": (
        rows(HOURS, lambda t, *p: f"{t:%Y.%m.%d,%H:%M},{','.join(map(str, p))}"),
        "preset: mt4",
    ),
    "metatrader 4, with a header": (simple("%Y.%m.%d %H:%M", f"Time,{OHLCV}"), ""),
    "metatrader 5": (
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
        + rows(HOURS, lambda t, *p: "\t".join([f"{t:%Y.%m.%d\t%H:%M:%S}", *map(str, p), "0", "2"])),
        "",
    ),
    "dukascopy, gmt": (simple("%d.%m.%Y %H:%M:%S.000", f"Gmt time,{OHLCV}"), ""),
    "dukascopy, local time": (simple("%d.%m.%Y %H:%M:%S.000 GMT+0000", f"Local time,{OHLCV}"), ""),
    "dukascopy, jforex": (simple("%Y.%m.%d %H:%M:%S", f"Time (UTC),{OHLCV}"), ""),
    "dukascopy-node": (
        "timestamp,open,high,low,close,volume\n"
        + rows(HOURS, lambda t, *p: f"{epoch(t, 1000)},{','.join(map(str, p))}"),
        "",
    ),
    "histdata, ascii": (
        rows(
            [each.replace(hour=each.hour - 5) for each in HOURS],
            lambda t, *p: ";".join([f"{t:%Y%m%d %H%M%S}", *map(str, p)]),
        ),
        "preset: histdata",
    ),
    "histdata, metatrader": (
        rows(
            [each.replace(hour=each.hour - 5) for each in HOURS],
            lambda t, *p: ",".join([f"{t:%Y.%m.%d,%H:%M}", *map(str, p)]),
        ),
        "preset: histdata",
    ),
    "ninjatrader": (rows(HOURS, lambda t, *p: ";".join([f"{t:%Y%m%d %H%M%S}", *map(str, p)])), "header: false"),
    "ninjatrader, headerless with columns": (
        rows(HOURS, lambda t, *p: ";".join([f"{t:%Y%m%d %H%M%S}", *map(str, p)])),
        "columns: [time, open, high, low, close, volume]",
    ),
    "tradestation": (
        '"Date","Time","Open","High","Low","Close","Vol","OI"\n'
        + rows(HOURS, lambda t, *p: f"{t:%m/%d/%Y,%H:%M},{','.join(map(str, p))},0"),
        "",
    ),
    "amibroker, metastock": (
        "<TICKER>,<DTYYYYMMDD>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>\n"
        + rows(HOURS, lambda t, *p: f"EURUSD,{t:%Y%m%d,%H%M%S},{','.join(map(str, p))}"),
        "",
    ),
    "stooq, bulk": (
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n"
        + rows(HOURS, lambda t, *p: f"SPY.US,60,{t:%Y%m%d,%H%M%S},{','.join(map(str, p))},0"),
        "",
    ),
    "finam": (
        "<TICKER>;<PER>;<DATE>;<TIME>;<OPEN>;<HIGH>;<LOW>;<CLOSE>;<VOL>\n"
        + rows(HOURS, lambda t, *p: f"GAZP;60;{t:%d/%m/%y;%H:%M};{';'.join(map(str, p))}"),
        'time: "%d/%m/%y %H:%M"',
    ),
    "tradingview, epoch": (
        "time,open,high,low,close,Volume\n" + rows(HOURS, lambda t, *p: f"{epoch(t)},{','.join(map(str, p))}"),
        "",
    ),
    "tradingview, iso": (simple("%Y-%m-%dT%H:%M:%S+00:00", "time,open,high,low,close,Volume"), ""),
    "binance, archive": (rows(HOURS, binance), ""),
    "binance, archive in microseconds": (rows(HOURS, lambda t, *p: binance(t, *p, scale=1_000_000)), "preset: binance"),
    "kraken": (rows(HOURS, lambda t, *p: f"{epoch(t)},{','.join(map(str, p))},17"), "header: false"),
    "cryptodatadownload": (
        "https://www.CryptoDataDownload.com\nunix,date,symbol,open,high,low,close,Volume BTC,Volume USDT\n"
        + rows(HOURS, lambda t, *p: f"{epoch(t, 1000)},{t:%Y-%m-%d %H:%M:%S},BTC/USDT,{','.join(map(str, p))},99"),
        "",
    ),
    "cryptodatadownload, of before": (
        "https://www.CryptoDataDownload.com\nDate,Symbol,Open,High,Low,Close,Volume BTC,Volume USD\n"
        + rows(HOURS, lambda t, *p: f"{t:%Y-%m-%d %I-%p},BTCUSD,{','.join(map(str, p))},99"),
        "preset: cryptodatadownload",
    ),
    "polygon, flat file": (
        "ticker,volume,open,close,high,low,window_start,transactions\n"
        + rows(HOURS, lambda t, o, h, lo, c, v: f"SPY,{v},{o},{c},{h},{lo},{epoch(t, 1e9)},5"),
        "",
    ),
    "polygon, keys of the api": (
        "t,o,h,l,c,v\n" + rows(HOURS, lambda t, *p: f"{epoch(t, 1000)},{','.join(map(str, p))}"),
        "",
    ),
    "alpha vantage": (simple("%Y-%m-%d %H:%M:%S", "timestamp,open,high,low,close,volume"), ""),
    "twelve data": (simple("%Y-%m-%d %H:%M:%S", "datetime;open;high;low;close;volume", delimiter=";"), ""),
    "yfinance, intraday": (simple("%Y-%m-%d %H:%M:%S+00:00", f"Datetime,{OHLCV}"), ""),
    "yfinance, own to_csv": (
        "Price,Close,High,Low,Open,Volume\nTicker,SPY,SPY,SPY,SPY,SPY\nDatetime,,,,,\n"
        + rows(HOURS, lambda t, o, h, lo, c, v: f"{t:%Y-%m-%d %H:%M:%S+00:00},{c},{h},{lo},{o},{v}"),
        "",
    ),
    "interactive brokers": (simple("%Y%m%d  %H:%M:%S", "date,open,high,low,close,volume"), 'time: "%Y%m%d  %H:%M:%S"'),
    "oanda export": (simple("%Y-%m-%dT%H:%M:%S.000000000Z", "time,open,high,low,close,volume"), ""),
    "zerodha": (simple("%Y-%m-%dT%H:%M:%S+0000", "date,open,high,low,close,volume"), ""),
    "excel, german": ("Datum;Eröffnung;Hoch;Tief;Schluss;Volumen\n" + rows(HOURS, european), ""),
    "excel, french spaces": (
        "Date;Ouverture;Plus haut;Plus bas;Dernier;Volume\n"
        + rows(
            HOURS,
            lambda t, *p: ";".join(
                [f"{t:%d/%m/%Y %H:%M}", *(f"{each:,.2f}".replace(",", " ").replace(".", ",") for each in p)]
            ),
        ),
        "",
    ),
    "excel, swiss": (
        f"Date;{OHLCV.replace(',', ';')}\n"
        + rows(
            HOURS, lambda t, *p: ";".join([f"{t:%d.%m.%Y %H:%M}", *(f"{each:,.2f}".replace(",", "'") for each in p)])
        ),
        "",
    ),
    "excel, american": (simple("%m/%d/%Y %I:%M:%S %p", f"Date,{OHLCV}"), ""),
    "excel, one line for the separator": (
        "sep=;\n" + simple("%Y-%m-%d %H:%M", f"Date;{OHLCV.replace(',', ';')}", delimiter=";"),
        "",
    ),
    "iso with a half of the day": (simple("%Y-%m-%d %I:%M:%S %p", f"Time,{OHLCV}"), ""),
    "fourteen digits": (simple("%Y%m%d%H%M%S", f"Time,{OHLCV}"), ""),
    "twelve digits": (simple("%Y%m%d%H%M", f"Time,{OHLCV}"), ""),
    "names of their own": (
        simple("%Y-%m-%d %H:%M", "Wann,A,B,C,D,E"),
        "columns: {time: Wann, open: A, high: B, low: C, close: D, volume: E}",
    ),
    "date and clock by name": (
        "Tag,Uhr,Open,High,Low,Close,Volume\n"
        + rows(HOURS, lambda t, *p: f"{t:%d.%m.%Y,%H:%M},{','.join(map(str, p))}"),
        "columns: {time: [Tag, Uhr]}",
    ),
    "lines above the header": ("Report of\nsome,broker\n" + simple("%Y-%m-%d %H:%M", f"Time,{OHLCV}"), "skip: 2"),
    "blank lines above the header": ("\n\n" + simple("%Y-%m-%d %H:%M", f"Time,{OHLCV}"), ""),
    "comment above the header": ("# made by x\n" + simple("%Y-%m-%d %H:%M", f"Time,{OHLCV}"), ""),
    "a blank as delimiter": (
        simple("%Y-%m-%dT%H:%M", "time open high low close volume", delimiter=" "),
        'delimiter: " "',
    ),
    "german columns of date and clock": (
        "Datum\tZeit\tErster\tHoch\tTief\tSchlusskurs\tVolumen\n"
        + rows(
            HOURS, lambda t, *p: "\t".join([f"{t:%d.%m.%Y\t%H:%M}", *(f"{each:.2f}".replace(".", ",") for each in p)])
        ),
        "",
    ),
    "a clock in a column of any name": (
        "Date,Bar,Open,High,Low,Close,Volume\n"
        + rows(HOURS, lambda t, *p: f"{t:%Y-%m-%d,%H:%M:%S},{','.join(map(str, p))}"),
        "",
    ),
    "iso in its basic form": (simple("%Y%m%dT%H%M%SZ", f"Time,{OHLCV}"), ""),
    "offset and zone": (simple("%Y-%m-%d %H:%M:%S +0000 UTC", f"Time,{OHLCV}"), ""),
    "coinapi": (
        "time_period_start,price_open,price_high,price_low,price_close,volume_traded\n"
        + rows(HOURS, lambda t, *p: f"{t:%Y-%m-%dT%H:%M:%S.0000000Z},{','.join(map(str, p))}"),
        "",
    ),
    "moex": (
        "open;close;high;low;value;volume;begin;end\n"
        + rows(HOURS, lambda t, o, h, lo, c, v: f"{o};{c};{h};{lo};9;{v};{t:%Y-%m-%d %H:%M:%S};x"),
        "",
    ),
    "weekday and month by name": (simple("%a %d %b %Y %H:%M", f"Time,{OHLCV}"), ""),
}
DAILY: Mapping[str, tuple[str, str]] = {
    "investing.com": ('"Date","Price","Open","High","Low","Vol.","Change %"\n' + rows(DAYS, tenths), ""),
    "investing.com, preset": (
        '"Date","Price","Open","High","Low","Vol.","Change %"\n' + rows(DAYS, tenths),
        "preset: investing",
    ),
    "nasdaq.com": (
        "Date,Close/Last,Volume,Open,High,Low\n"
        + rows(DAYS, lambda t, o, h, lo, c, v: f"{t:%m/%d/%Y},${c},{v},${o},${h},${lo}"),
        "",
    ),
    "nse, historical": (
        '"Date ","series ","OPEN ","HIGH ","LOW ","PREV. CLOSE ","ltp ","close ","vwap ","VOLUME "\n'
        + rows(
            DAYS,
            lambda t, o, h, lo, c, v: (
                f'"{t:%d-%b-%Y}","EQ","{o:,.2f}","{h:,.2f}","{lo:,.2f}","1.00","2.00","{c:,.2f}","3","{v:,}"'
            ),
        ),
        "",
    ),
    "nse, bhavcopy of one symbol": (
        "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP\n"
        + rows(
            DAYS, lambda t, o, h, lo, c, v: f"RELIANCE,EQ,{o},{h},{lo},{c},1,2,{v},3,{t.strftime('%d-%b-%Y').upper()}"
        ),
        "",
    ),
    "yahoo": (
        "Date,Open,High,Low,Close,Adj Close,Volume\n"
        + rows(DAYS, lambda t, o, h, lo, c, v: f"{t:%Y-%m-%d},{o},{h},{lo},{c},1,{v}"),
        "",
    ),
    "yahoo, pasted": (f"Date,{OHLCV}\n" + rows(DAYS, quoted), ""),
    "stooq, polish": (simple("%Y-%m-%d", "Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen", DAYS), ""),
    "eight digits": (simple("%Y%m%d", f"Date,{OHLCV}", DAYS), ""),
    "tab separated from a spreadsheet": (
        simple("%d.%m.%Y", f"Date\t{OHLCV.replace(',', chr(9))}", DAYS, delimiter="\t"),
        "",
    ),
    "european dates with a preference": (simple("%d/%m/%Y", f"Date,{OHLCV}", DAYS), "time: day first"),
}
ALL = {
    **{name: ("H1", *each) for name, each in HOURLY.items()},
    **{name: ("D1", *each) for name, each in DAILY.items()},
}


def read(folder: Path, options: str, timeframe: str = "H1", name: str = "A") -> Fetched:
    text = (
        f"{{name: mine, source: {{kind: files, directory: '{folder}'{options and ', '}{options}}}, calendar: crypto, "
    )
    market = parse_market(text + f"instruments: [{name}], timeframes: [H1, D1], history: 1d}}", "mine.yaml")
    request = Request(Series(name, Timeframe(timeframe)), instant("1970-01-01"), instant("2100-01-01"))
    (answer,) = FilesSource(market).fetch([request], LATE)
    return answer


def candles_of(answer: Fetched) -> Candles:
    assert answer.error is None
    return answer.candles


def require_right(candles: Candles, timeframe: str) -> None:
    assert candles.malformed == ()
    times = HOURS if timeframe == "H1" else DAYS
    assert candles.open_time.tolist() == times
    wanted = dict(zip(("open", "high", "low", "close", "volume"), zip(*PRICES, strict=True), strict=True))
    assert {name: values.tolist() for name, values in candles.columns.items()} == {
        name: list(values) for name, values in wanted.items()
    }


@pytest.mark.parametrize("name", ALL)
def test_every_dialect_comes_in_and_the_proposed_options_read_the_same(name: str, tmp_path: Path) -> None:
    timeframe, text, options = ALL[name]
    path = tmp_path / f"A_{timeframe}.csv"
    path.write_text(text, encoding="utf-8")
    proposed = inspect_file(path, yaml.safe_load(f"{{{options}}}"))
    require_right(proposed.candles, timeframe)
    market = yaml.safe_load(proposed.yaml(tmp_path))
    assert (market["instruments"], market["timeframes"]) == (["A"], [timeframe])
    in_yaml = yaml.safe_dump(dict(proposed.options), default_flow_style=True, allow_unicode=True, width=10_000).strip()
    require_right(candles_of(read(tmp_path, in_yaml[1:-1], timeframe)), timeframe)


PLAIN = simple("%Y-%m-%d %H:%M", f"Time,{OHLCV}")
WITH_EUROS = PLAIN.replace("\n", ",€\n").replace("€", "Währung", 1)


def zipped(text: str, *names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, text)
    return buffer.getvalue()


def zstd(text: str, folder: Path) -> bytes:
    (folder / "plain").write_text(text)
    with duckdb.connect() as connection:
        lines = f"select * from read_csv('{folder / 'plain'}', auto_detect=false, header=false, delim='\x01', "
        lines += "quote='', columns={'line': 'varchar'})"
        target = folder / "packed.zst"
        connection.execute(
            f"copy ({lines}) to '{target}' (format csv, compression zstd, header false, quote '', delimiter '\x01')"
        )
    return target.read_bytes()


PACKED: Mapping[str, Callable[[Path], bytes]] = {
    "A_H1.CSV": lambda _: PLAIN.encode(),
    "A_H1.txt": lambda _: PLAIN.encode(),
    "A_H1.csv.gz": lambda _: gzip.compress(PLAIN.encode()),
    "A_H1.gz": lambda _: gzip.compress(PLAIN.encode("utf-16")),
    "A_H1.Csv.Zip": lambda _: zipped(PLAIN, "readme.md", "x/A.csv"),
    "A_H1.zip": lambda _: zipped(PLAIN, "A-1h-2026-11.csv"),
    "A_H1.csv.zst": lambda folder: zstd(PLAIN, folder),
}


@pytest.mark.parametrize("name", PACKED)
def test_every_ending_comes_in(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "candles"
    folder.mkdir()
    (folder / name).write_bytes(PACKED[name](tmp_path))
    require_right(candles_of(read(folder, "")), "H1")


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (PLAIN.replace("\n", "\r\n", 2).encode(), ""),
        (PLAIN.replace("\n", "\r", 1).encode(), ""),
        (PLAIN.encode("utf-16"), ""),
        (PLAIN.encode("utf-16-be"), ""),
        (b"\xef\xbb\xbf" + PLAIN.encode(), ""),
        (WITH_EUROS.encode("cp1252"), ""),
        (PLAIN.replace("Time", "日時").encode("shift_jis"), "encoding: shift_jis, columns: {time: 日時}"),
        (PLAIN.encode("utf-32"), ""),
    ],
)
def test_every_encoding_and_line_end_comes_in(content: bytes, options: str, tmp_path: Path) -> None:
    (tmp_path / "A_H1.csv").write_bytes(content)
    require_right(candles_of(read(tmp_path, options)), "H1")


def test_a_long_file_that_another_system_went_on_with_comes_in(tmp_path: Path) -> None:
    lines = [
        f"2026-01-{day:02} {hour:02}:{minute:02},1,2,1,2,5"
        for day in range(1, 29)
        for hour in range(24)
        for minute in range(0, 60, 5)
    ]
    (tmp_path / "A_H1.csv").write_bytes(
        ("Time,Open,High,Low,Close,Volume\r\n" + "\r\n".join(lines[:7000]) + "\r\n" + "\n".join(lines[7000:])).encode()
    )
    assert len(read(tmp_path, "").candles) == len(lines)


REFUSED = {
    "day or month": (
        "Date,Open,High,Low,Close\n04/05/2026,1,2,1,2\n05/05/2026,1,2,1,2\n",
        "",
        ["'04/05/2026' can be read as 2026-05-04 (day first) or 2026-04-05 (month first)", '"%d/%m/%Y" or "%m/%d/%Y"'],
    ),
    "day, month or year": (
        "Date,Open,High,Low,Close\n04-05-06,1,2,1,2\n",
        "",
        ["2006-05-04 (day first)", "2006-04-05 (month first)", "2004-05-06"],
    ),
    "both orders": (
        "Date,Open,High,Low,Close\n13/05/2026,1,2,1,2\n05/14/2026,1,2,1,2\n",
        "",
        ["expected one order of day and month"],
    ),
    "thousands or decimals": (
        'Date,Open,High,Low,Close\n2026-05-01,"1,100","1,200","1,000","1,150"\n',
        "",
        ["'1,100' can be read as 1100 (thousands) or as 1.100 (decimals)", 'decimal: "." or decimal: ","'],
    ),
    "no header": ("2026-05-01,1,2,1,2,5\n", "", ["if no row names them, set header: false or a preset"]),
    "several instruments": (
        "Date,Symbol,Open,High,Low,Close\n2026-05-01,A,1,2,1,2\n2026-05-01,B,1,2,1,2\n",
        "",
        ["expected one instrument", "A, B"],
    ),
    "a zone in the header": (
        "Time (EET),Open,High,Low,Close\n2026-05-01 10:00,1,2,1,2\n",
        "",
        ["'Time (EET)'", "set timezone:"],
    ),
    "dates alone, hour after hour": (
        "Date,Open,High,Low,Close\n" + "2026-05-01,1,2,1,2\n" * 3,
        "",
        ["expected times of day for H1, found dates alone"],
    ),
    "a column that is not there": (PLAIN, "columns: {close: Last}", ["names the columns close; found Time, Open"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(name: str, tmp_path: Path) -> None:
    text, options, parts = REFUSED[name]
    (tmp_path / "A_H1.csv").write_text(text)
    answer = read(tmp_path, options)
    assert isinstance(answer.error, PermanentError)
    assert all(part in str(answer.error) for part in parts), str(answer.error)


@pytest.mark.parametrize(
    ("options", "days"),
    [("time: day first", ["2026-05-04", "2026-05-05"]), ('time: "%m/%d/%Y"', ["2026-04-05", "2026-05-05"])],
)
def test_the_options_decide_what_the_file_leaves_open(options: str, days: list[str], tmp_path: Path) -> None:
    (tmp_path / "A_D1.csv").write_text(REFUSED["day or month"][0])
    assert [str(time)[:10] for time in read(tmp_path, options, "D1").candles.open_time] == days
    (tmp_path / "A_H1.csv").write_text(REFUSED["thousands or decimals"][0])
    assert read(tmp_path, 'decimal: "."').candles["open"].tolist() == [1100]
    assert read(tmp_path, 'decimal: ","').candles["open"].tolist() == [1.1]


@pytest.mark.parametrize("form", ["%Y%m%dT%H%M%SZ", "%d.%m.%Y %H:%M:%S GMT", "%d.%m.%Y %H:%M:%S GMT+0000"])
def test_a_time_that_names_utc_is_not_of_the_markets_timezone(form: str, tmp_path: Path) -> None:
    (tmp_path / "A_H1.csv").write_text(simple(form, f"Time,{OHLCV}"))
    require_right(candles_of(read(tmp_path, "timezone: Asia/Kolkata")), "H1")


def test_one_day_beyond_the_twelfth_anywhere_in_the_file_decides(tmp_path: Path) -> None:
    ambiguous = [f"{day:02}/06/2026,1,2,1,2" for day in range(1, 13)] * 3000
    (tmp_path / "A_D1.csv").write_text(
        "\n".join(["Date,Open,High,Low,Close", *ambiguous, "13/06/2026,1,2,1,2", *ambiguous])
    )
    answer = read(tmp_path, "", "D1")
    assert [str(time)[:10] for time in answer.candles.open_time] == [f"2026-06-{day:02}" for day in range(1, 14)]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("A_H1.csv.gz", b"no gzip", "expected a .gz file, found: "),
        ("A_H1.csv.gz", gzip.compress(PLAIN.encode())[:-20], "expected a .gz file, found: "),
        ("A_H1.zip", b"PK\x03\x04", "expected a .zip file, found: "),
        ("A_H1.zip", zipped(PLAIN, "a.csv", "b.csv"), "expected an archive with one .csv file, found a.csv, b.csv"),
        ("A_H1.csv.zst", b"no zstd", "expected a .zst file, found: "),
    ],
)
def test_an_archive_that_cannot_be_used_is_refused(name: str, content: bytes, part: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert part in str(read(tmp_path, "").error)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("preset: mt6", "source: preset: found 'mt6'"),
        ("columns: {price: x}", "no column 'price'; allowed: time, open"),
        ("time: sometimes", 'allowed: formats such as "%d.%m.%Y %H:%M", or day first, or month first'),
        ("encoding: utf-7000", "allowed: an encoding that Python knows"),
        ('decimal: ";"', "source: decimal: found ';'"),
        ("skip: -1", "source: skip: found -1; allowed: 0 or more"),
        ("columns: [a, b]", "columns: expected a list with open_time, open, high, low, close; found a, b"),
    ],
)
def test_a_wrong_option_is_told(options: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "A_H1.csv").write_text("1,2,3,4,5\n")
    try:
        message = str(read(tmp_path, options).error)
    except MarketError as error:
        message = str(error)
    assert part in message


def test_a_parquet_file_may_have_names_and_times_of_its_own(tmp_path: Path) -> None:
    with open_duckdb() as connection:
        connection.execute(
            "copy (select '27.11.2026 09:00' as Wann, 1 as O, 2 as H, 1 as L, 2 as C, 5 as TickVol) "
            f"to '{tmp_path / 'A_H1.parquet'}'"
        )
    candles = read(tmp_path, 'columns: {time: Wann}, time: "%d.%m.%Y %H:%M"').candles
    assert (candles.open_time[0], candles["volume"][0]) == (np.datetime64("2026-11-27T09:00", "us"), 5)
