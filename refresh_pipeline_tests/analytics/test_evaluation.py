"""How parts of indicators are evaluated together."""

import numpy as np

from refresh_pipeline.analytics.bars import Bars, Column, Values
from refresh_pipeline.analytics.evaluation import Part, RecursiveFormula, evaluate

OPEN_TIMES = np.arange(3).astype("datetime64[us]")
BARS = Bars(OPEN_TIMES, {"close": np.array([1.0, 2.0, 3.0]), "volume": np.ones(3)}, np.array([0, 3]))


def test_two_columns_of_one_sum_are_computed_once():
    calls: list[Bars] = []

    def total(bars: Bars) -> list[Values]:
        calls.append(bars)
        return [np.cumsum(bars["close"])] * 2

    formula = RecursiveFormula(total, ["so_far"])
    parts = [Part([Column(name, "Sum.", "price")], formula) for name in ("ad", "ad_line")]
    columns, states = evaluate(parts, BARS)
    assert len(calls) == 1
    assert columns["ad"].tolist() == columns["ad_line"].tolist() == states["so_far"].tolist() == [1.0, 3.0, 6.0]
