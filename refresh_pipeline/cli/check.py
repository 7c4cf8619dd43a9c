"""The command `check`: the checks of every asset, for people, programs and CI."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from xml.etree import ElementTree

import typer
from rich.console import Console
from rich.text import Text

from refresh_pipeline.cli.console import counted, grid, log_on, out, print_error, print_line, print_table, terminal
from refresh_pipeline.cli.options import (
    DONE,
    SOME_FAILED,
    DataDirOption,
    JsonOption,
    MarketOption,
    NowOption,
    Request,
    VerboseOption,
    refuse_left_out,
    request,
    require_bounds,
    require_stored,
    require_warehouse,
    usable,
    warehouse_errors,
)

if TYPE_CHECKING:
    from refresh_pipeline.orchestration.run_jobs import CheckResult

FAULTS_SHOWN = 3


def check(
    *,
    market: MarketOption = None,
    as_json: JsonOption = False,
    junit: Annotated[
        str | None, typer.Option("--junit", help="Write the results to this file as JUnit XML, for CI.")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare inner tables with what the stored candles give; takes long.")
    ] = False,
    now: NowOption = None,
    verbose: VerboseOption = 0,
    data_dir: DataDirOption = None,
) -> None:
    """Run the checks of every asset as a Dagster run; exit code 1 if one fails."""
    from refresh_pipeline.settings import prepare_dagster

    with request(market, data_dir, lenient=True, now=now) as asked:
        require_bounds(asked)
        require_warehouse(asked.settings, new=False)
        require_stored(asked.settings)
        wanted = usable(asked)
        prepare_dagster(wanted.settings)
    if deep:
        _check_deep(wanted)
        return
    from refresh_pipeline.orchestration.run_jobs import run_checks

    results, errors = [], []
    with terminal() as console, log_on(console, verbose):
        for member in wanted.markets:
            member_results, member_errors = run_checks(wanted.settings, member, wanted.instants, verbose)
            results += member_results
            errors += member_errors
    if junit:
        left_out = [f"{name}: left out: its YAML or settings are wrong" for name in wanted.left_out]
        _write_junit(Path(junit).expanduser(), results, [*errors, *left_out])
    if as_json:
        out.print_json(json.dumps([asdict(result) for result in results]), highlight=False)
    else:
        print_checks(out, results)
    for message in errors:
        print_error(message)
    refuse_left_out(wanted)
    raise typer.Exit(SOME_FAILED if errors or not all(result.passed for result in results) else DONE)


def _check_deep(wanted: Request) -> None:
    """Read every block and compute every table anew; exit code 1 where something differs."""
    from refresh_pipeline.warehouse.integrity import read_every_row
    from refresh_pipeline.warehouse.warehouse import Warehouse

    warehouse, faults = Warehouse(database=wanted.settings.warehouse), 0
    with warehouse_errors():
        counts = read_every_row(wanted.settings.warehouse)
        print_line(f"{sum(counts.values()):,} rows of {len(counts)} tables can be read")
        for member in wanted.markets:
            warehouse.prepare(member)
            for table, fault in warehouse.deep_faults(member, member.series):
                at = "" if fault.open_time is None else f" at {fault.open_time.astype('datetime64[s]')}"
                print_error(f"{member.name}.{table.value} of {fault.series}{at}: {fault.what}")
                faults += 1
    if faults:
        print_error(f"{counted(faults, 'fault')}; refresh recompute computes the tables anew from the stored candles")
        raise typer.Exit(SOME_FAILED)
    print_line("Every inner table is what the stored candles give.")
    refuse_left_out(wanted)


def print_checks(console: Console, results: Sequence["CheckResult"]) -> None:
    """A row for each check, and below the table the first faults of each one that failed."""
    for market, members in groupby(results, key=lambda result: result.market):
        table = grid("check", "asset", "result", wrapped=("result",), title=market)
        checks = list(members)
        for result in checks:
            table.add_row(result.name, result.asset, _verdict(result))
        print_table(console, table)
        console.print()
        for result in checks:
            _print_faults(console, result)
    failed = sum(not result.passed for result in results)
    console.print(
        f"{counted(len(results), 'check')}, {failed} failed", style="red" if failed else "green", highlight=False
    )


def _verdict(result: "CheckResult") -> Text:
    if result.passed:
        return Text(f"passed, {result.summary}" if result.summary else "passed", style="green")
    return Text(result.summary or "failed", style="red")


def _print_faults(console: Console, result: "CheckResult") -> None:
    if result.passed:
        return
    console.print(Text(f"{result.name}: {result.statement}", style="bold"))
    for fault in result.faults[:FAULTS_SHOWN]:
        console.print(Text(f"  {fault}"), soft_wrap=True)
    if (rest := len(result.faults) - FAULTS_SHOWN) > 0:
        console.print(f"  and {rest} more in --json and the web UI", highlight=False)


def junit_xml(results: Sequence["CheckResult"], errors: Sequence[str]) -> bytes:
    """The results in the form of JUnit, which CI services show: a suite for each market, a case for each check."""
    root = ElementTree.Element("testsuites", name="refresh check")
    for market, members in groupby(results, key=lambda result: result.market):
        checks = list(members)
        failed = str(sum(not result.passed for result in checks))
        suite = ElementTree.SubElement(root, "testsuite", name=market, tests=str(len(checks)), failures=failed)
        for result in checks:
            case = ElementTree.SubElement(suite, "testcase", classname=f"{market}.{result.asset}", name=result.name)
            if not result.passed:
                failure = ElementTree.SubElement(case, "failure", message=result.summary or "failed")
                failure.text = "\n".join((result.statement, *result.faults))
    if errors:
        suite = ElementTree.SubElement(
            root, "testsuite", name="errors", tests=str(len(errors)), errors=str(len(errors))
        )
        for message in errors:
            case = ElementTree.SubElement(suite, "testcase", classname="refresh", name=message.partition(":")[0])
            ElementTree.SubElement(case, "error", message=message)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _write_junit(path: Path, results: Sequence["CheckResult"], errors: Sequence[str]) -> None:
    from refresh_pipeline.files.atomic import replacing

    with replacing(path) as part:
        part.write_bytes(junit_xml(results, errors))
