from pathlib import Path

import pytest

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "enhanced-candles.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("column", ENHANCED_CANDLES.columns, ids=lambda column: column.name)
def test_every_column_is_explained_as_the_registry_has_it(column):
    row = f"| `{column.name}` | {column.description} | {column.unit} | {column.warm_up:,} | {column.repaint} |"
    assert row in PAGE


def test_no_other_column_is_explained():
    assert sum(line.startswith("| `") for line in PAGE.splitlines()) == len(ENHANCED_CANDLES.columns)
