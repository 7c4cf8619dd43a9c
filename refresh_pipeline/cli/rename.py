"""The command `rename`: another name for an instrument, with everything that is stored of it."""

from typing import TYPE_CHECKING, Annotated

import typer

from refresh_pipeline.cli.console import err, print_line, print_warning
from refresh_pipeline.cli.options import WRONG_REQUEST, DataDirOption, request, warehouse_errors, wrong_requests

if TYPE_CHECKING:
    from refresh_pipeline.market.model import Market


def rename(
    *,
    former: Annotated[str, typer.Argument(metavar="OLD", help="The instrument's name in the warehouse.")],
    name: Annotated[str, typer.Argument(metavar="NEW", help="The instrument's name in the market's YAML.")],
    market: Annotated[str, typer.Option("--market", "-m", help="Rename an instrument of this market.")],
    yes: Annotated[bool, typer.Option("--yes", help="Rename without asking.")] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Rename an instrument in every table; with one name twice, accept its present symbol and source."""
    with request(market, data_dir) as wanted:
        if len(wanted.markets) != 1:
            raise ValueError(f"--market: found {market}, allowed: one market")
        [chosen] = wanted.markets
        new = _new_name(chosen, name)
    from refresh_pipeline.pipeline.forgotten_files import delete_files
    from refresh_pipeline.warehouse.forgetting import Choice
    from refresh_pipeline.warehouse.warehouse import Warehouse

    warehouse = Warehouse(database=wanted.settings.warehouse)
    with warehouse_errors(), wrong_requests():
        warehouse.prepare(chosen)
        for series, count in warehouse.chosen_candles(chosen, Choice(former)).items():
            err.print(f"{series}: {count:,} candles", markup=False, highlight=False)
        if not yes and not _confirmed(former, new):
            err.print("Nothing renamed; use --yes to skip the question.")
            raise typer.Exit(WRONG_REQUEST)
        counts = warehouse.rename(chosen, former, new)
        for sentence in delete_files(warehouse, chosen, wanted.settings.exports_dir):
            print_line(sentence)
    print_line(f"{sum(counts.values()):,} candles of {len(counts)} series are named {new}")
    print_line("Dagster's history of the partitions stays under the former name.")
    if new not in chosen.instruments:
        print_warning(f"{chosen.name}: the YAML has no instrument {new!r}; add it before the next refresh")


def _new_name(market: "Market", text: str) -> str:
    """The YAML's spelling of a name, or a name that the YAML may have."""
    from refresh_pipeline.market.model import UnknownInstrument, instrument_name

    try:
        return market.instrument(text)
    except UnknownInstrument:
        return instrument_name(text)


def _confirmed(former: str, name: str) -> bool:
    question = f"Rename {former} to {name}?" if former != name else f"Accept the present symbol and source of {name}?"
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False
