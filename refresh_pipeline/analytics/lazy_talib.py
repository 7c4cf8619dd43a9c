"""TA-Lib without pandas: how the package is loaded. Which functions it has: talib_functions.py.

`import talib` imports pandas wherever that is installed, 0.3 s and 40 MB that a run has no use for.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _OncePandasIsThere(type):
    """A class that stands for the pandas class of its name, from the moment somebody has imported pandas."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, getattr(sys.modules.get("pandas"), cls.__name__, ()))

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return getattr(import_module("pandas"), cls.__name__)(*args, **kwargs)


def load_talib() -> ModuleType:
    """The package `talib`, imported without importing pandas.

    TA-Lib looks for pandas once, while it is imported, to accept and return its frames. Where pandas is not loaded yet
    it is shown a stand-in, so that TA-Lib still takes frames from whoever imports pandas later in the same process.

    >>> load_talib().EMA.__name__
    'EMA'
    """
    if "pandas" in sys.modules or "talib" in sys.modules:
        return import_module("talib")
    stand_in = ModuleType("pandas")
    vars(stand_in).update({name: _OncePandasIsThere(name, (), {}) for name in ("DataFrame", "Series")})
    sys.modules["pandas"] = stand_in
    try:
        return import_module("talib")
    finally:
        del sys.modules["pandas"]
