"""The command `doctor`: what the installation has, and what is wrong with it."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from refresh_pipeline.cli.console import grid, out, print_line, print_table
from refresh_pipeline.cli.options import DONE, SOME_FAILED, DataDirOption, JsonOption, MarketOption, wrong_requests

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def doctor(
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no venue.")] = False,
    as_json: JsonOption = False,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Examine the installation: packages, folders, rights, locks, ports, disk, clock, markets, venues."""
    from refresh_pipeline.market_files import load_each, load_markets
    from refresh_pipeline.redaction import clean
    from refresh_pipeline.settings import load_settings

    with wrong_requests():
        settings = load_settings(enabled_markets=market, data_dir=data_dir)
        markets, faults = (load_markets(settings, "--market"), {}) if market else load_each(settings)
    from refresh_pipeline.monitoring.installation import Finding, Health, examine

    findings = [Finding(f"market {name}", Health.failed, str(fault)) for name, fault in faults.items()]
    with wrong_requests():
        findings += examine(settings, markets, offline=offline)
    failed = sum(finding.health == Health.failed for finding in findings)
    if as_json:
        out.print_json(json.dumps([asdict(finding) for finding in findings]), highlight=False)
    else:
        table = grid("subject", "health", "finding", wrapped=("subject", "finding"))
        for finding in findings:
            health = Text(finding.health, style=COLOURS[finding.health])
            table.add_row(finding.subject, health, Text(clean(finding.text)))
        print_table(out, table)
        print_line(f"{len(findings)} findings, {failed} failed")
    raise typer.Exit(SOME_FAILED if failed else DONE)
