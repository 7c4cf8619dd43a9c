"""Fingerprints differ wherever a stored value may differ, and nowhere else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from refresh_pipeline.analytics import derived, fingerprints, levels
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES, FORMULAS
from refresh_pipeline.analytics.formulas import computation
from refresh_pipeline.analytics.indicators import IndicatorSpec, UnknownIndicator, indicators
from refresh_pipeline.analytics.registry import registry
from refresh_pipeline.market.calendars.crypto import CryptoCalendar
from refresh_pipeline.market.calendars.fx import FxCalendar, RestingFxCalendar
from refresh_pipeline_tests.analytics import column_values
from refresh_pipeline_tests.analytics.sample_bars import Market, differing, history, stacked

CRYPTO, FX = CryptoCalendar(), FxCalendar()


def prints(*specs: IndicatorSpec, calendar: CryptoCalendar | FxCalendar = CRYPTO) -> dict[str, str]:
    """The fingerprint of each column of these indicators."""
    table = indicators(specs or None, calendar)
    return {column.name: table.fingerprints[column.name].text for column in table.columns}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_every_column_and_every_state_has_a_fingerprint_of_version_1_or_above():
    for table in (ENHANCED_CANDLES, indicators(None, CRYPTO)):
        assert set(table.fingerprints) == {*(column.name for column in table.columns), *table.states}
        assert min(fingerprint.version for fingerprint in table.fingerprints.values()) >= 1


def test_what_hangs_on_the_calendar_has_another_fingerprint_with_another_calendar():
    sessions = {column.name for column in registry(CRYPTO)["sessions"].part({}, ()).columns}
    assert changed(prints(), prints(calendar=FX)) == sessions


def test_a_calendar_s_version_is_part_of_its_columns(monkeypatch: pytest.MonkeyPatch):
    before = prints("vwap", "sma_10")
    monkeypatch.setattr(CryptoCalendar, "version", 2)
    assert changed(before, prints("vwap", "sma_10", calendar=CryptoCalendar())) == {"vwap"}


def test_the_calendars_of_classes_are_part_of_its_columns(monkeypatch: pytest.MonkeyPatch):
    before = prints("vwap", "sma_10", calendar=FX)
    monkeypatch.setattr(RestingFxCalendar, "version", 9)
    assert changed(before, prints("vwap", "sma_10", calendar=FxCalendar())) == {"vwap"}


def test_a_constant_of_a_formula_is_part_of_its_columns(monkeypatch: pytest.MonkeyPatch):
    before = prints()
    monkeypatch.setattr(derived, "WINDOW", 40)
    assert changed(before, prints()) == {
        *(f"fib_{each}" for each in ("23_6", "38_2", "50_0", "61_8", "78_6")),
        "volatility_regime",
    }
    monkeypatch.undo()
    monkeypatch.setattr(levels, "ZONE_MOVE", 0.03)
    assert all(name.startswith(("supply_zone_", "demand_zone_")) for name in changed(before, prints()))
    assert len(changed(before, prints())) == 8


def test_talib_s_version_is_part_of_the_columns_that_it_computes(monkeypatch: pytest.MonkeyPatch):
    before = prints()
    monkeypatch.setattr(fingerprints, "talib_version", lambda: "99/99")
    after = changed(before, prints())
    assert {"sma_10", "stoch_k", "bb_width", "fib_50_0", "volatility_regime", "trend_strength", "mavp"} <= after
    assert not {"ema_20", "obv", "vwap", "doji", "support_level_1", "demand_zone_low"} & after


def test_the_version_of_a_formula_reaches_what_is_computed_from_it():
    ao = next(number for number, formula in enumerate(FORMULAS) if formula.names == ["ao"])
    later = [*FORMULAS[:ao], replace(FORMULAS[ao], version=9), *FORMULAS[ao + 1 :]]
    table = computation("enhanced_candles", later, carries_candles=True)
    bumped = {name for name, fingerprint in table.fingerprints.items() if fingerprint.version == 9}
    assert bumped == {
        name for name in table.fingerprints if table.fingerprints[name] != ENHANCED_CANDLES.fingerprints[name]
    }
    assert {"ao", "ac", "zone", "saucer_buy", "ao_peak_above"} <= bumped
    assert not {"median", "jaw", "mfi", "fractal_up_2", "water_state"} & bumped


def test_parameters_by_default_and_given_are_one_thing():
    ours = prints({"stoch": [{"fastk_period": 5}, {"slowk_period": 3}]}, "stoch")
    assert ours["stoch_slowk"] == ours["stoch_slowk_5"] == ours["stoch_slowk_slowk_period_3"]


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"stoch": {"fastk_period": 14}}, ["stoch_slowk_14", "stoch_slowd_14"]),
        ({"stoch": {"slowk_period": 14}}, ["stoch_slowk_slowk_period_14", "stoch_slowd_slowk_period_14"]),
        (
            {"supertrend": {"multiplier": 2.5}},
            [f"supertrend_{each}_multiplier_2_5" for each in ("supertrend", "trend")],
        ),
        (
            {"supertrend": {"timeperiod": 2, "multiplier": 5}},
            [f"supertrend_{each}_2_5" for each in ("supertrend", "trend")],
        ),
        ({"macd": {"slowperiod": 20}}, [f"macd_{each}_slowperiod_20" for each in ("macd", "macdsignal", "macdhist")]),
        ({"macd": [8]}, [f"macd_{each}_8" for each in ("macd", "macdsignal", "macdhist")]),
        ({"bbands": {"nbdevdn": 3}}, [f"bbands_{each}_nbdevdn_3" for each in ("upperband", "middleband", "lowerband")]),
        ({"ema": [8, 12345]}, ["ema_8", "ema_12345"]),
    ],
)
def test_a_name_says_which_parameters_are_meant(spec: IndicatorSpec, names: Sequence[str]):
    assert list(prints(spec)) == names


def test_two_specs_for_one_name_are_refused_with_both():
    with pytest.raises(
        UnknownIndicator, match=r"found \{'sar': .*0\.2\}\} and \{'sar': .*2\}\}, .* both called 'sar_0_2'"
    ):
        indicators([{"sar": [{"acceleration": 0.2}, {"acceleration": 0, "maximum": 2}]}], CRYPTO)


def test_the_same_column_twice_is_one_column():
    assert list(prints("ema_20", {"ema": [20]}, "classic")).count("ema_20") == 1


@pytest.mark.parametrize(
    "names", [["vwap"], ["keltner_upper"], ["ad", "stoch_k"], ["volatility_regime"], ["obv_so_far"]]
)
def test_some_columns_alone_have_the_values_that_they_have_among_all(names: Sequence[str]):
    whole, bars = indicators(["classic", "talib"], CRYPTO), stacked([history(Market(bars=700))])
    alone = whole.narrowed(names)
    assert len(alone.states) < len(whole.states)
    assert {column.name for column in alone.columns} == {*names} - {*whole.states}
    all_values, values = whole.compute_with_states(bars), alone.compute_with_states(bars)
    for expected, found in zip(all_values, values, strict=True):
        for name in found:
            assert not len(differing(found[name], expected[name], relative=0)), name


def test_some_enhanced_columns_alone_have_the_values_that_they_have_among_all():
    bars = stacked([history(Market(bars=700))])
    whole, alone = ENHANCED_CANDLES.compute(bars), ENHANCED_CANDLES.narrowed(["zone", "gator_upper"]).compute(bars)
    assert set(alone) == {"zone", "gator_upper"}
    assert all(not len(differing(alone[name], whole[name], relative=0)) for name in alone)


def test_values_have_a_version():
    """A formula whose values change has another version; then column_values.py writes the file anew."""
    known, now = json.loads(column_values.FILE.read_text()), column_values.measured()
    assert known.keys() == now.keys(), "run python -m refresh_pipeline_tests.analytics.column_values"
    differ = [name for name in now if now[name][1:] != pytest.approx(known[name][1:], rel=1e-6, abs=1e-6)]
    assert [name for name in differ if now[name][0] == known[name][0]] == [], "raise the version of these formulas"
    assert [name for name in now if now[name][0] != known[name][0]] == [], (
        "run python -m refresh_pipeline_tests.analytics.column_values"
    )
