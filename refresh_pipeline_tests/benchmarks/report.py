"""What was found as one report: tables of text and a JSON file, kept by commit; and what it was measured on."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from refresh_pipeline_tests.benchmarks.goals import as_json, table_of
from refresh_pipeline_tests.benchmarks.measuring import SEED, Comparison, Findings, Size

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "bench-results"
LIBRARIES = ("dagster", "duckdb", "numpy", "TA-Lib")
CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
WIDTH = 160


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    memory = _said(MEMORY_INFO, "MemTotal")
    return {
        "processor": _said(CPU_INFO, "model name") or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory.split()[0]) / 2**20:.0f} GB" if memory else "unknown",
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def _said(file: Path, name: str) -> str:
    """What one of the system's files says of a name, for the first time that it does."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def commit(repository: Path = REPOSITORY) -> str:
    """The commit that is checked out, with `-dirty` where files are another; `unknown` outside of git."""
    try:
        head = _git(repository, "rev-parse", "--short=10", "HEAD")
        return f"{head}-dirty" if _git(repository, "status", "--porcelain") else head
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Report:
    """One run of benchmarks: of which commit, when, on what, how large, and what it found."""

    commit: str
    at: datetime
    machine: Mapping[str, str]
    size: Size
    console: Console

    @classmethod
    def begun(cls, size: Size) -> "Report":
        """One of this commit on this machine, that begins now."""
        report = cls(commit(), datetime.now(UTC), machine(), size, Console(width=WIDTH, record=True))
        facts = ", ".join(f"{name} {value}" for name, value in report.machine.items())
        report.console.print(f"commit {report.commit}, {report.at:%Y-%m-%d %H:%M} UTC; {facts}", highlight=False)
        return report

    def show(self, findings: Findings) -> None:
        """One table a part: medians."""
        for title, comparisons in findings.items():
            table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
            table.add_column("what")
            for name in ("ours", "floor"):
                table.add_column(name, justify="right", no_wrap=True)
            table.add_column("", no_wrap=True)
            table.add_column("ratio", justify="right", no_wrap=True)
            table.add_column("rounds", justify="right", no_wrap=True)
            table.add_column("note")
            for each in comparisons:
                table.add_row(*_cells(each))
            self.console.print(table)

    def show_goals(self, findings: Findings) -> None:
        """One table of all parts: which goals are met."""
        if table := table_of(findings):
            self.console.print(table)

    def keep(self, findings: Findings, folder: Path = RESULTS) -> Path:
        """The text, and every round as JSON, side by side; gives the path of the latter."""
        folder.mkdir(exist_ok=True)
        path = folder / f"{self.at:%Y%m%dT%H%M%SZ}-{self.commit}.json"
        kept = {
            "commit": self.commit,
            "at": self.at.isoformat(),
            "machine": self.machine,
            "size": asdict(self.size),
            "seed": SEED,
            "goals": as_json(findings),
            "parts": {title: [_entry(each) for each in found] for title, found in findings.items()},
        }
        path.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        self.console.save_text(str(path.with_suffix(".txt")))
        return path


def _entry(found: Comparison) -> dict[str, object]:
    return {**asdict(found), "ratio": found.ratio}


def _cells(found: Comparison) -> list[str]:
    scale, unit = (1000, "ms") if found.unit == "s" else (1, found.unit)
    figures = ["" if each is None else f"{each * scale:,.1f}" for each in (found.ours_median, found.bare_median)]
    ratio = "" if found.ratio is None else f"{found.ratio:.2f}"
    return [found.what, *figures, unit if found.ours else "", ratio, str(len(found.ours) or ""), found.note]
