"""Runs benchmarks and prints one report, each figure beside its floor: `make bench`, or parts of it by their names."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from refresh_pipeline_tests.benchmarks import (
    analytics,
    api,
    backfill,
    cycle,
    exporting,
    fetching,
    gaps,
    publishing,
    scaling,
    starting,
    storage,
)
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings, Size
from refresh_pipeline_tests.benchmarks.report import Report
from refresh_pipeline_tests.isolated_env import inside

Part = Callable[[Size, Path], Findings]
PARTS: Mapping[str, Part] = {
    "cycle": cycle.measure,
    "start": starting.measure,
    "fetch": fetching.measure,
    "exports": exporting.measure,
    "publish": publishing.measure,
    "gaps": gaps.measure,
    "storage": storage.measure,
    "enhanced": analytics.measure_enhanced,
    "indicators": analytics.measure_indicators,
}
# These take long, and are measured only when they are asked for.
LONG_PARTS: Mapping[str, Part] = {"api": api.measure, "scaling": scaling.measure, "backfill": backfill.measure}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="python -m refresh_pipeline_tests.benchmarks", description=__doc__)
    known = {**PARTS, **LONG_PARTS}
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(known)}; without any, all but the last three"
    )
    parser.add_argument("--days", type=int, default=Size().days, help="how many days a backfill fetches (%(default)s)")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.parts) - set(known):
        parser.error(f"found {', '.join(sorted(unknown))}, allowed: {', '.join(known)}")
    report = Report.begun(Size(days=asked.days))
    found: dict[str, Sequence[Comparison]] = {}
    for name in asked.parts or PARTS:
        part = measured(known[name], report.size)
        report.show(part)
        found |= part
    report.show_goals(found)
    print(f"Every round: {report.keep(found)}")


def measured(part: Part, size: Size) -> Findings:
    """One part, in a folder of its own and without anybody's settings."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, inside(Path(folder)):
        return part(size, Path(folder))


if __name__ == "__main__":
    main()
