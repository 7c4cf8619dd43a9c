"""Runs benchmarks and prints one report, each figure beside its floor: `make bench`, or parts of it by their names."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from refresh_pipeline_tests.benchmarks import analytics, cycle, exporting, fetching
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings, Size
from refresh_pipeline_tests.benchmarks.report import Report
from refresh_pipeline_tests.surroundings import inside

Part = Callable[[Size, Path], Findings]
PARTS: Mapping[str, Part] = {
    "cycle": cycle.measure,
    "fetch": fetching.measure,
    "exports": exporting.measure,
    "enhanced": analytics.measure_enhanced,
    "indicators": analytics.measure_indicators,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="python -m refresh_pipeline_tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which parts, instead of all of them")
    chosen = parser.parse_args(arguments).parts or list(PARTS)
    report = Report.begun(Size())
    found: dict[str, Sequence[Comparison]] = {}
    for name in chosen:
        part = measured(PARTS[name], report.size)
        report.show(part)
        found |= part
    print(f"Every round: {report.keep(found)}")


def measured(part: Part, size: Size) -> Findings:
    """One part, in a folder of its own and without anybody's settings."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, inside(Path(folder)):
        return part(size, Path(folder))


if __name__ == "__main__":
    main()
