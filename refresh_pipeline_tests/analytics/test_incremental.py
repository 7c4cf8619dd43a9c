"""What a refresh of the tail relies on, for random markets: how far a row looks back, and that none looks ahead."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.analytics.evaluation import BLOCK_BARS
from refresh_pipeline.analytics.indicators import indicators
from refresh_pipeline.analytics.recursive import CHECKPOINT_BARS
from refresh_pipeline.analytics.registry import registry
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline_tests.analytics.sample_bars import INDICATORS, Market, differing, history, rows_of, stacked, tails

TABLES = {table.name: table for table in (ENHANCED_CANDLES, INDICATORS)}
BOTH = pytest.mark.parametrize("name", TABLES)
# What hangs on the last bit of a line, as its distance from another does where they all but meet: a tail has that bit
# only when it goes on from a checkpoint.
LINES_COMPARED = {"gator_upper", "gator_lower", "divergent_buy", "divergent_sell", "divergent"}
LINES_COMPARED |= {"mouth_direction", "mouth_phase", "bar_position", "water_state", "mouth_confidence"}


def markets(bars: st.SearchStrategy[int]) -> st.SearchStrategy[Market]:
    """Calm and wild ones, on coarse ticks and fine ones, with halts."""

    def market(
        bars: int, volatility: float, price: float, moves_per_tick: float, halted: int, seed: int, unknown: float
    ) -> Market:
        return Market(bars, volatility, price, moves_per_tick * volatility * price, halted, seed, unknown)

    return st.builds(
        market,
        bars=bars,
        volatility=st.sampled_from([0.0005, 0.005, 0.02]),
        price=st.sampled_from([0.65, 100.0, 60000.0]),
        moves_per_tick=st.sampled_from([0.0, 0.01, 1.0]),
        halted=st.sampled_from([0, 100, 300]),
        seed=st.integers(0, 2**32 - 1),
        unknown=st.sampled_from([0.0, 0.1]),
    )


@settings(max_examples=8, deadline=None)
@given(several=st.lists(markets(st.integers(0, 4000)), min_size=1, max_size=3), share=st.integers(0, 100))
def test_each_column_of_a_tail_equals_the_whole_after_its_own_warm_up(several, share):
    table, histories = ENHANCED_CANDLES, [history(market) for market in several]
    cuts = [market.bars * share // 100 for market in several]
    whole = table.compute(stacked(histories))
    wanted = np.concatenate([np.arange(m.bars) >= cut for m, cut in zip(several, cuts, strict=True)])
    for warm_up in {column.warm_up for column in table.columns}:
        starts = [max(cut - warm_up, 0) for cut in cuts]
        bars = stacked([rows_of(h, slice(start, None)) for h, start in zip(histories, starts, strict=True)])
        tail = table.compute(bars)
        written = bars.position >= np.repeat(np.subtract(cuts, starts), np.diff(bars.starts))
        for column in (
            column for column in table.columns if column.warm_up == warm_up and column.name not in LINES_COMPARED
        ):
            found = differing(tail[column.name][written], whole[column.name][wanted], relative=1e-9)
            assert len(found) == 0, (column.name, found)


@BOTH
@settings(max_examples=15, deadline=None)
@given(several=st.lists(markets(st.integers(0, 300)), min_size=2, max_size=5))
def test_series_computed_together_equal_each_alone_to_the_last_bit(name, several):
    table, histories = TABLES[name], [history(market) for market in several]
    bars = stacked(histories)
    together = table.compute(bars)
    for rows, each in zip(bars.slices, histories, strict=True):
        alone = table.compute(stacked([each]))
        for column in table.columns:
            found = differing(together[column.name][rows], alone[column.name], relative=0)
            assert len(found) == 0, (column.name, found)


def checkpoint_for(table, first):
    """After how many bars a refresh goes on that has row number `first` to write; 0 for from the beginning."""
    block = max(table.block, CHECKPOINT_BARS)
    known = first // CHECKPOINT_BARS * CHECKPOINT_BARS
    cut = (known // block * block - table.warm_up - table.repaint) // CHECKPOINT_BARS * CHECKPOINT_BARS
    # A series goes on only where each of its recursions has begun.
    return cut if cut > 377 else 0


@BOTH
@settings(max_examples=12, deadline=None)
@given(several=st.lists(markets(st.integers(0, 2500)), min_size=1, max_size=3), share=st.integers(0, 100))
def test_going_on_from_a_checkpoint_equals_computing_everything_to_the_last_bit(name, several, share):
    table, whole = TABLES[name], stacked([history(market) for market in several])
    computed, states = table.compute_with_states(whole)
    first = [market.bars * share // 100 for market in several]
    bars = tails(whole, [checkpoint_for(table, row) for row in first], first, states)
    tail, tail_states = table.compute_with_states(bars)
    wanted = whole.position >= np.repeat(first, whole.lengths)
    for column in table.columns:
        found = differing(tail[column.name], computed[column.name][wanted], relative=0)
        assert len(found) == 0, (column.name, found)
    read = whole.position >= np.repeat(bars.earlier, whole.lengths)
    for state, values in tail_states.items():
        assert len(differing(values, states[state][read], relative=0)) == 0, state


def test_a_stretch_begins_where_a_checkpoint_can():
    assert BLOCK_BARS % CHECKPOINT_BARS == 0


@BOTH
@settings(max_examples=15, deadline=None)
@given(market=markets(st.integers(1, 700)), share=st.integers(0, 100))
def test_no_value_changes_when_bars_are_appended_but_where_the_column_says_so(name, market, share):
    table, bars = TABLES[name], history(market)
    known = market.bars * share // 100
    then = table.compute(stacked([rows_of(bars, slice(0, known))]))
    now = table.compute(stacked([bars]))
    for column in table.columns:
        settled = max(known - column.repaint, 0)
        found = differing(then[column.name][:settled], now[column.name][:settled], relative=0)
        assert len(found) == 0, (column.name, found)


@settings(max_examples=15, deadline=None)
@given(market=markets(st.integers(100, 700)), share=st.integers(0, 100))
def test_a_flag_that_is_known_later_is_0_until_then_and_never_taken_back(market, share):
    bars = history(market)
    known = market.bars * share // 100
    then = ENHANCED_CANDLES.compute(stacked([rows_of(bars, slice(0, known))]))
    for column in (column for column in ENHANCED_CANDLES.columns if column.repaint):
        flags = then[column.name]
        assert not np.nan_to_num(flags[max(known - column.repaint, 0) :]).any(), column.name
        assert set(np.unique(flags[~np.isnan(flags)])) <= {0.0, 1.0}


@pytest.mark.parametrize("volatility", [0.0005, 0.03])
def test_each_indicator_alone_goes_on_from_a_checkpoint_to_the_last_bit(volatility):
    """Alone, an indicator reads no more bars than it says itself: other columns' warm-up does not help it."""
    several = [Market(1300, volatility, seed=seed, unknown_volumes=0) for seed in (1, 2)]
    whole, first = stacked([history(market) for market in several]), [1030, 1280]
    kept = whole.position >= np.repeat(first, whole.lengths)
    for name in registry(CALENDARS["crypto"]):
        table = indicators([name], CALENDARS["crypto"])
        computed, states = table.compute_with_states(whole)
        cuts = [checkpoint_for(table, row) for row in first]
        tail = table.compute(tails(whole, cuts, first, states))
        for column, values in tail.items():
            assert not len(differing(values, computed[column][kept], relative=0)), (column, cuts)
