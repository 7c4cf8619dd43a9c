"""The command `new`: a market of one's own, as a YAML file and the settings that enable it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refresh_pipeline.cli.console import err, print_line, print_warning
from refresh_pipeline.cli.options import comma_list, naming, wrong_requests
from refresh_pipeline.market.suggestions import did_you_mean

if TYPE_CHECKING:
    from refresh_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Venue:
    """A source with what is usual for it."""

    source: str
    calendar: str
    name: str
    instruments: str
    credentials: tuple[str, ...] = ()


VENUES = {
    "demo": Venue("{kind: demo}", "crypto", "my_demo", "BTC/USD,EUR/USD"),
    "binance": Venue("{kind: binance}", "crypto", "my_crypto", "BTC/USDT,ETH/USDT"),
    "oanda": Venue("{kind: oanda}", "fx", "my_fx", "EUR/USD,USD/JPY", ("OANDA_TOKEN",)),
    "fxcm": Venue("{kind: fxcm}", "fx", "my_fxcm", "EUR/USD,USD/JPY"),
    "ccxt": Venue("{kind: ccxt, exchange: %s}", "crypto", "my_exchange", "BTC/USDT,ETH/USDT"),
    "bybit": Venue("{kind: bybit}", "crypto", "my_bybit", "BTC/USDT,ETH/USDT"),
    "okx": Venue("{kind: okx}", "crypto", "my_okx", "BTC/USDT,ETH/USDT"),
    "yahoo": Venue("{kind: yahoo}", "XNYS", "my_stocks", "AAPL,MSFT,SPY"),
    "alpaca": Venue(
        "{kind: alpaca}",
        "{name: XNYS, hours: extended}",
        "my_shares",
        "AAPL,MSFT,SPY",
        ("REFRESH_SECRET_ALPACA_KEY", "REFRESH_SECRET_ALPACA_SECRET"),
    ),
    "files": Venue("{kind: files, directory: %s}", "crypto", "my_files", "BTC/USD"),
}
# Raises ValueError on a wrong answer.
Check = Callable[[str], object]
# What the other option of a source is called, its question and its usual answer.
DETAILS = {"ccxt": ("exchange", "kraken"), "files": ("directory", "candles")}
TIMEFRAMES, HISTORY = "m15,H1,D1", "30d"
FOLDER = "markets"


def new(
    *,
    venue: Annotated[str | None, typer.Option("--venue", help=f"The source: {', '.join(VENUES)}.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The market's name, also of its file and tables.")] = None,
    pairs: Annotated[str | None, typer.Option("--pairs", help="The instruments (comma list).")] = None,
    timeframes: Annotated[str | None, typer.Option("--timeframes", help="The timeframes (comma list).")] = None,
    history: Annotated[str | None, typer.Option("--history", help="The history of a new series, such as 30d.")] = None,
    exchange: Annotated[str | None, typer.Option("--exchange", help="The exchange of venue ccxt.")] = None,
    directory: Annotated[str | None, typer.Option("--directory", help="The folder of venue files.")] = None,
    calendar: Annotated[str | None, typer.Option("--calendar", help="The trading calendar, if not the usual.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: take the usual where no option says it.")
    ] = False,
) -> None:
    """Make a market: asks for venue, pairs and timeframes, and writes its YAML file and .env."""
    from refresh_pipeline.settings import load_settings

    with wrong_requests():
        settings = load_settings()
        answers = _Answers(yes)
        kind = answers.get("--venue", venue, f"Venue ({', '.join(VENUES)})", "demo", _require_venue)
        given = {"name": name, "pairs": pairs, "timeframes": timeframes, "history": history, "calendar": calendar}
        given |= {"exchange": exchange, "directory": directory}
        text, market_name = _market_text(kind, answers, given)
        file = _folder(settings) / f"{market_name}.yaml"
        _require_right(settings, text, file, market_name)
        # Exclusive: a file that somebody has written stays.
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    print_line(f"{file} is written")
    _enable(settings, market_name, VENUES[kind].credentials)
    print_line(f"Next: refresh once --market {market_name}, then refresh up")


@dataclass(frozen=True, slots=True)
class _Answers:
    """Answers by option, else by question, else the usual ones."""

    without_questions: bool

    def get(self, option: str, given: str | None, question: str, usual: str, check: Check) -> str:
        """The answer, asked for again while `check` refuses it.

        Raises:
            ValueError: that names the option, where nobody is asked and the answer is wrong.
        """
        if given is None and not self.without_questions:
            return _asked(option, question, usual, check)
        answer = (usual if given is None else given).strip()
        try:
            check(answer)
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from None
        return answer


def _asked(option: str, question: str, usual: str, check: Check) -> str:
    """The answer of whoever sits at the terminal.

    Raises:
        ValueError: nobody can answer.
        KeyboardInterrupt: Ctrl-C.
    """

    def checked(answer: str) -> str:
        try:
            check(answer.strip())
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        return answer.strip()

    try:
        return typer.prompt(question, default=usual, err=True, value_proc=checked)
    except typer.Abort as abort:
        err.print()
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise ValueError(f"{option}: found no answer; give it as an option, or --yes to take what is usual") from None


def _market_text(kind: str, answers: _Answers, given: Mapping[str, str | None]) -> tuple[str, str]:
    """The YAML of the market, and its name; `given` holds the options by name."""
    import yaml

    venue = VENUES[kind]

    def answer(option: str, question: str, usual: str) -> str:
        return answers.get(f"--{option}", given[option], question, usual, CHECKS.get(option, str))

    source = venue.source
    if kind in DETAILS:
        option, usual = DETAILS[kind]
        source %= yaml.safe_dump(answer(option, option.capitalize(), usual), default_style='"').strip()
    name = answer("name", "Name of the market", venue.name)
    keys = {
        "instruments": comma_list(answer("pairs", "Pairs (comma list)", venue.instruments)),
        "timeframes": comma_list(answer("timeframes", "Timeframes (comma list)", TIMEFRAMES)),
        "history": answer("history", "History of a new series", HISTORY),
    }
    written = yaml.safe_dump(keys, sort_keys=False, default_flow_style=None, width=110)
    head = f"# Made by refresh new. docs/markets.md lists every key.\nname: {name}\nsource: {source}\n"
    return f"{head}calendar: {given['calendar'] or venue.calendar}\n{written}", name


def _require_venue(answer: str) -> None:
    if answer not in VENUES:
        raise ValueError(f"found {answer!r}, allowed: {', '.join(VENUES)}{did_you_mean(answer, VENUES)}")


def _require_timeframes(answer: str) -> None:
    from refresh_pipeline.market.timeframe import Timeframe

    for name in comma_list(answer):
        Timeframe.parse(name)


def _require_history(answer: str) -> None:
    from refresh_pipeline.market.model import parse_duration

    parse_duration(answer)


# What an answer must be, by option, before the whole market is parsed.
CHECKS: Mapping[str, Check] = {"timeframes": _require_timeframes, "history": _require_history}


def _folder(settings: "Settings") -> Path:
    return (settings.markets_dir or Path(FOLDER)).expanduser()


def _require_right(settings: "Settings", text: str, file: Path, name: str) -> None:
    """Refuse a market that cannot be, and a file that is there already."""
    from refresh_pipeline.market.model import parse_market
    from refresh_pipeline.market_files import CATALOG
    from refresh_pipeline.sources.registry import open_source

    if (CATALOG / f"{name}.yaml").exists():
        raise ValueError(f"--name: found {name!r}, the name of a shipped market; choose another one")
    if file.exists():
        raise ValueError(f"--name: found {name!r}, and {file} exists; choose another name, or edit the file")
    market = parse_market(text, file=file.name)
    with naming(file.name):
        open_source(market, settings.limits_dir)


def _enable(settings: "Settings", name: str, credentials: tuple[str, ...]) -> None:
    """Add what is not set yet to .env; lines that are there stay."""
    from refresh_pipeline.settings import DEFAULT, secret, setting_origins

    places = {origin.name: origin.place for origin in setting_origins(settings)}
    lines = []
    if settings.markets_dir is None:
        lines.append(f"REFRESH_MARKETS_DIR={FOLDER}")
    if places["REFRESH_MARKETS"] == DEFAULT:
        lines.append(f"REFRESH_MARKETS={name}")
    missing = [credential for credential in credentials if not secret(credential)]
    lines += [f"# {credential}=" for credential in missing]
    if lines:
        _append(Path(".env"), lines)
        print_line(f".env: added {', '.join(lines)}")
    if places["REFRESH_MARKETS"] != DEFAULT and name not in settings.market_names:
        enabled = ",".join([*settings.market_names, name])
        print_warning(f"Enable it in {places['REFRESH_MARKETS']}: REFRESH_MARKETS={enabled}")
    if missing:
        print_warning(f"Put your {', '.join(missing)} into .env: the venue refuses requests without.")


def _append(file: Path, lines: list[str]) -> None:
    from refresh_pipeline.settings import keep_files_private

    keep_files_private()
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    parted = "\n" if before and not before.endswith("\n") else ""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(parted + "\n".join(lines) + "\n")
