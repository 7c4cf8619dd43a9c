"""A series' names: the partition key, the file."""

import pytest

from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe


@pytest.mark.parametrize("timeframe", Timeframe)
@pytest.mark.parametrize("instrument", ["EUR/USD", "SPX500", "M&M", "BTC-PERP"])
def test_a_key_gives_its_series_back(instrument: str, timeframe: Timeframe):
    series = Series(instrument, timeframe)
    assert Series.from_key(series.key) == series


def test_files_of_one_instrument_differ_on_a_disk_that_is_blind_to_case():
    stems = {Series("EUR/USD", timeframe).file_stem.lower() for timeframe in Timeframe}
    assert len(stems) == len(Timeframe)


def test_a_file_is_called_by_instrument_and_timeframe():
    assert Series("EUR/USD", Timeframe.m1).file_stem == "EUR-USD_m1"


def test_a_series_reads_well():
    assert str(Series("EUR/USD", Timeframe.H1)) == "EUR/USD H1"


def test_a_key_of_no_timeframe_is_refused():
    with pytest.raises(ValueError, match="H5"):
        Series.from_key("EUR/USD|H5")
