"""What tests hold the package against: candles and venues' answers, made here; and real ones beside the checkout.

`made` is there on every machine: candles from `candle_samples`, answers in `golden/answers` in the form that each venue
documents. `real` is a folder `shared` beside the checkout, with candles and recorded answers that may not be copied.
Where it is absent, tests have no case for it, and none is skipped.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[2] / "shared"
REAL_CANDLES = SHARED / "data" / "candles"
MADE, REAL = "made", "real"
ORIGINS = (MADE, REAL) if REAL_CANDLES.is_dir() else (MADE,)
CANDLE_FILES = (
    *("binance_BTCUSDT_1h_2024w01", "binance_SOLUSDT_1m", "coinbase_BTCUSD_1h", "coinbase_BTCUSD_1m_201804"),
    *("coinbase_ETHUSD_1m_201804", "coinbase_LTCUSD_1m_201804", "nse_NIFTY50_1m", "nse_YESBANK_1m", "oanda_EURUSD_1h"),
    *("oanda_XAUUSD_1m_201405", "yahoo_SPY_1d", "yf_4063_T_1d_bad_stock_split", "yf_4063_T_1d_bad_stock_split_fixed"),
    *("yf_AET_L_1d_100x_error", "yf_AET_L_1d_100x_error_fixed", "yf_ALPHA_PA_1d_bad_stock_split"),
    *("yf_ALPHA_PA_1d_bad_stock_split_fixed", "yf_ASAI_L_1h_bad_unit", "yf_ASAI_L_1h_bad_unit_fixed"),
    *("yf_MOB_ST_1d_bad_stock_split", "yf_MOB_ST_1d_bad_stock_split_fixed", "yf_SSW_JO_1d_100x_error"),
    "yf_SSW_JO_1d_100x_error_fixed",
)
# A venue's answer by its name.
Answers = Callable[[str], dict[str, Any]]
ANSWERS = Path(__file__).resolve().parent / "golden" / "answers"


def answer_of(origin: str, venue: str, name: str) -> dict[str, Any]:
    """A venue's answer by its name: `status`, `headers` and `body`."""
    if origin == MADE:
        return _made(venue)[name]
    path = SHARED / "data" / "responses" / venue / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def _made(venue: str) -> dict[str, Any]:
    return json.loads((ANSWERS / f"{venue}.json").read_text(encoding="utf-8"))
