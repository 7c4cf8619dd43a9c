"""What a refresh of the tail relies on, for random markets: how far a row looks back, and that none looks ahead."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.analytics.indicators import INDICATORS
from refresh_pipeline_tests.analytics.histories import Market, differing, history, rows_of, stacked

BOTH = pytest.mark.parametrize("table", [ENHANCED_CANDLES, INDICATORS], ids=lambda table: table.name)


def markets(bars: st.SearchStrategy[int]) -> st.SearchStrategy[Market]:
    """Calm and wild ones, on coarse ticks and fine ones, with halts."""

    def market(bars: int, volatility: float, price: float, moves_per_tick: float, halted: int, seed: int) -> Market:
        return Market(bars, volatility, price, moves_per_tick * volatility * price, halted, seed)

    return st.builds(
        market,
        bars=bars,
        volatility=st.sampled_from([0.0005, 0.005, 0.02]),
        price=st.sampled_from([0.65, 100.0, 60000.0]),
        moves_per_tick=st.sampled_from([0.0, 0.01, 1.0]),
        halted=st.sampled_from([0, 100, 300]),
        seed=st.integers(0, 2**32 - 1),
    )


@BOTH
@settings(max_examples=25, deadline=None)
@given(several=st.lists(markets(st.integers(0, 4000)), min_size=1, max_size=3), share=st.integers(0, 100))
def test_each_column_of_a_tail_equals_the_whole_after_its_own_warm_up(table: Computation, several, share):
    histories = [history(market) for market in several]
    cuts = [market.bars * share // 100 for market in several]
    whole = table.compute(stacked(histories))
    wanted = np.concatenate([np.arange(m.bars) >= cut for m, cut in zip(several, cuts, strict=True)])
    for warm_up in {column.warm_up for column in table.columns}:
        starts = [max(cut - warm_up, 0) for cut in cuts]
        bars = stacked([rows_of(h, slice(start, None)) for h, start in zip(histories, starts, strict=True)])
        tail = table.compute(bars)
        written = bars.position >= np.repeat(np.subtract(cuts, starts), np.diff(bars.starts))
        for column in (column for column in table.columns if column.warm_up == warm_up):
            found = differing(tail[column.name][written], whole[column.name][wanted], relative=1e-9)
            assert len(found) == 0, (column.name, found)


@BOTH
@settings(max_examples=25, deadline=None)
@given(several=st.lists(markets(st.integers(0, 300)), min_size=2, max_size=5))
def test_series_computed_together_equal_each_alone_to_the_last_bit(table: Computation, several):
    histories = [history(market) for market in several]
    bars = stacked(histories)
    together = table.compute(bars)
    for rows, each in zip(bars.slices, histories, strict=True):
        alone = table.compute(stacked([each]))
        for column in table.columns:
            found = differing(together[column.name][rows], alone[column.name], relative=0)
            assert len(found) == 0, (column.name, found)


@BOTH
@settings(max_examples=25, deadline=None)
@given(market=markets(st.integers(1, 400)), share=st.integers(0, 100))
def test_no_value_changes_when_bars_are_appended(table: Computation, market, share):
    bars = history(market)
    known = market.bars * share // 100
    then = table.compute(stacked([rows_of(bars, slice(0, known))]))
    now = table.compute(stacked([bars]))
    for column in table.columns:
        found = differing(then[column.name], now[column.name][:known], relative=0)
        assert len(found) == 0, (column.name, found)
