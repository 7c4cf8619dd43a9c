"""Runs every benchmark and prints what it found, each figure beside the bare one: `make bench`."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from refresh_pipeline_tests.benchmarks import analytics, exporting, fetching, warehouse, wide_run
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Size
from refresh_pipeline_tests.surroundings import inside

RESULTS = Path(__file__).resolve().parents[2] / "bench-results"
LIBRARIES = ("dagster", "duckdb", "numpy", "TA-Lib")
CPU_INFO = Path("/proc/cpuinfo")

Findings = Mapping[str, Sequence[Comparison]]


def findings(size: Size, folder: Path) -> Findings:
    """Every benchmark, in a folder of its own and without anybody's settings."""
    with inside(folder):
        return {
            f"wide run, {size.series} series x m1, against its work without Dagster": wide_run.measure(size, folder),
            f"fetch of {size.series} series' newest candles against a bare loop": fetching.measure(size, folder),
            "warehouse against bare DuckDB": warehouse.measure(size, folder / "refresh.duckdb"),
            "export files against DuckDB's own COPY": exporting.measure(size, folder / "refresh.duckdb"),
            "analytics against a bare TA-Lib loop": analytics.measure(size),
        }


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def show(console: Console, found: Findings, rounds: int) -> None:
    """One table a benchmark: medians in milliseconds."""
    for title, comparisons in found.items():
        table = Table(title=f"{title} (medians of {rounds})", title_justify="left", box=SIMPLE_HEAD)
        table.add_column("what")
        for name in ("ours, ms", "bare, ms", "difference", "ratio", "of ours"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("note")
        for each in comparisons:
            table.add_row(*_cells(each))
        console.print(table)


def _cells(found: Comparison) -> list[str]:
    times = [f"{value * 1000:,.1f}" for value in (found.ours_median, found.bare_median, found.own)]
    shares = [f"{found.ours_median / found.bare_median:.1f}", f"{found.own / found.ours_median:.0%}"]
    return [found.what, *times, *shares, found.note]


def keep(found: Findings, on: Mapping[str, str], at: datetime, folder: Path = RESULTS) -> Path:
    """A copy of every round's seconds as JSON; gives its path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{at:%Y%m%dT%H%M%SZ}.json"
    rounds = {
        title: {each.what: {"ours": each.ours, "bare": each.bare, "note": each.note} for each in comparisons}
        for title, comparisons in found.items()
    }
    path.write_text(json.dumps({"machine": on, "seconds": rounds}, indent=1), encoding="utf-8")
    return path


def main() -> None:
    """Measure, show, keep."""
    size, console, on = Size(), Console(width=160), machine()
    console.print(", ".join(f"{name} {value}" for name, value in on.items()), highlight=False, soft_wrap=True)
    console.print("Measuring: some minutes ...")
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = findings(size, Path(folder))
    show(console, found, size.rounds)
    console.print(f"Every round: {keep(found, on, datetime.now(UTC))}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
