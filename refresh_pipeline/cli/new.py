"""The command `new`: a market of one's own, as a YAML file and the settings that enable it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
QUESTIONS = {
    "name": "Name of the market",
    "pairs": "Pairs (comma list)",
    "timeframes": "Timeframes (comma list)",
    "history": "History of a new series",
}
# What a message about a YAML file begins and ends with.
KEYS = r"((name|instruments|timeframes|history|calendar|source\S*): )?"
OF_THE_FILE = re.compile(rf"^(.*?\.yaml: )?(market '[^']*': )?{KEYS}")
LINE = re.compile(r" \(line \d+\)$")


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

    given = {"name": name, "pairs": pairs, "timeframes": timeframes, "history": history}
    given |= {"exchange": exchange, "directory": directory}
    with wrong_requests():
        settings = load_settings()
        if venue is None and not yes:
            err.print(f"Venues: {', '.join(VENUES)}", highlight=False)
        kind = _answered("venue", venue, "Venue", "demo", partial(_require_venue, settings), ask=not yes)
        draft = _Draft(settings, kind)
        if calendar:
            _answered("calendar", calendar, "", "", partial(draft.take, "calendar"), ask=False)
        for option, question in _questions(kind):
            usual, check = draft.values[option], partial(draft.take, option)
            _answered(option, given[option], question, usual, check, ask=not yes)
        file = _folder(settings) / f"{draft.values['name']}.yaml"
        # Exclusive: a file that somebody has written stays.
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(draft.text())
    print_line(f"{file} is written")
    _enable(settings, draft.values["name"], VENUES[kind].credentials)
    folder = draft.values.get("directory")
    if folder and not Path(folder).expanduser().is_dir():
        print_warning(f"{folder} is no directory yet: create it, and put files of candles there.")
    print_line(f"Next: refresh once --market {draft.values['name']}, then refresh up")


def _questions(kind: str) -> list[tuple[str, str]]:
    """The options that are asked for, in order, with their questions."""
    details = [(DETAILS[kind][0], DETAILS[kind][0].capitalize())] if kind in DETAILS else []
    return [*details, *QUESTIONS.items()]


class _Draft:
    """The market as far as it is known; the usual answers stand for the rest."""

    def __init__(self, settings: "Settings", kind: str) -> None:
        self.settings, self.kind = settings, kind
        venue, (option, detail) = VENUES[kind], DETAILS.get(kind, ("", ""))
        self.values = {"name": venue.name, "pairs": venue.instruments, "timeframes": TIMEFRAMES, "history": HISTORY}
        self.values |= {"calendar": venue.calendar, **({option: detail} if option else {})}

    def take(self, option: str, answer: str) -> None:
        """Take an answer; raises ValueError where no market can have it."""
        if option == "name":
            _require_new(self.settings, answer)
        if option == "pairs" and ";" in answer:
            raise ValueError(f"found {answer!r}, allowed: a list with commas")
        before, self.values = self.values, {**self.values, option: answer}
        try:
            self.require_right()
        except ValueError as error:
            self.values = before
            # The file that a message names is not written yet.
            raise ValueError(OF_THE_FILE.sub("", LINE.sub("", str(error)))) from None

    def require_right(self) -> None:
        """Raise ValueError where the market cannot be, or its source lacks a package."""
        from refresh_pipeline.market.model import parse_market
        from refresh_pipeline.sources.registry import open_source

        market = parse_market(self.text(), file=f"{self.values['name']}.yaml")
        open_source(market, self.settings.limits_dir)

    def text(self) -> str:
        """The market's YAML."""
        import yaml

        values, source = self.values, VENUES[self.kind].source
        if self.kind in DETAILS:
            source %= yaml.safe_dump(values[DETAILS[self.kind][0]], default_style='"').strip()
        keys = {"instruments": comma_list(values["pairs"]), "timeframes": comma_list(values["timeframes"])}
        keys |= {"history": values["history"]}
        written = yaml.safe_dump(keys, sort_keys=False, default_flow_style=None, width=110)
        head = f"# Made by refresh new. docs/markets.md lists every key.\nname: {values['name']}\nsource: {source}\n"
        return f"{head}calendar: {values['calendar']}\n{written}"


def _answered(option: str, given: str | None, question: str, usual: str, check: Check, *, ask: bool) -> str:
    """The answer by the option, else by the question, which is repeated while `check` refuses it, else the usual one.

    Raises:
        ValueError: that names the option, where nobody is asked and the answer is wrong.
    """
    if given is None and ask:
        return _asked(option, question, usual, check)
    answer = (usual if given is None else given).strip()
    with naming(f"--{option}"):
        check(answer)
    return answer


def _asked(option: str, question: str, usual: str, check: Check) -> str:
    """The answer of whoever sits at the terminal.

    Raises:
        ValueError: nobody can answer.
        KeyboardInterrupt: Ctrl-C.
    """
    while True:
        try:
            answer = typer.prompt(question, default=usual, err=True).strip()
        except typer.Abort as abort:
            err.print()
            if isinstance(abort.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise ValueError(
                f"--{option}: found no answer; give it as an option, or use --yes for the defaults"
            ) from None
        try:
            check(answer)
        except ValueError as error:
            print_warning(str(error))
        else:
            return answer


def _require_venue(settings: "Settings", answer: str) -> None:
    if answer not in VENUES:
        raise ValueError(f"found {answer!r}, allowed: {', '.join(VENUES)}{did_you_mean(answer, VENUES)}")
    # Its package may be missing.
    draft = _Draft(settings, answer)
    draft.take("calendar", draft.values["calendar"])


def _folder(settings: "Settings") -> Path:
    return (settings.markets_dir or Path(FOLDER)).expanduser()


def _require_new(settings: "Settings", name: str) -> None:
    """Refuse the name of a shipped market, and of a file that is there already."""
    from refresh_pipeline.market_files import CATALOG

    file = _folder(settings) / f"{name}.yaml"
    if (CATALOG / f"{name}.yaml").exists():
        raise ValueError(f"found {name!r}, the name of a shipped market; choose another one")
    if file.exists():
        raise ValueError(f"found {name!r}, and {file} exists; choose another name, or edit the file")


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
        print_warning(f"Put your {', '.join(missing)} into .env: the venue refuses requests without it.")


def _append(file: Path, lines: list[str]) -> None:
    from refresh_pipeline.settings import keep_files_private

    keep_files_private()
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    parted = "\n" if before and not before.endswith("\n") else ""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(parted + "\n".join(lines) + "\n")
