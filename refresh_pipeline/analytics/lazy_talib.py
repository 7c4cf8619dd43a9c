"""TA-Lib without pandas and polars: how the package is loaded.

`import talib` imports both wherever they are installed: 0.3 s and 40 MB that a run has no use for. Polars starts
threads as well, and a process with threads cannot be forked. Which functions TA-Lib has: talib_functions.py.
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
    """The package `talib`, imported without importing pandas or polars.

    TA-Lib looks for pandas once, while it is imported, to accept and return its frames. Where pandas is not loaded yet
    it is shown a stand-in, so that TA-Lib still takes frames from whoever imports pandas later in the same process.

    >>> load_talib().EMA.__name__
    'EMA'
    """
    if "talib" in sys.modules:
        return import_module("talib")
    stand_in = ModuleType("pandas")
    vars(stand_in).update({name: _OncePandasIsThere(name, (), {}) for name in ("DataFrame", "Series")})
    # Python takes a None for a module that cannot be imported.
    stand_ins = {"pandas": stand_in, "polars": None}
    modules: dict[str, ModuleType | None] = sys.modules  # pyright: ignore[reportAssignmentType] (Python allows None)
    shown = [name for name in stand_ins if name not in modules]
    modules.update({name: stand_ins[name] for name in shown})
    try:
        return import_module("talib")
    finally:
        for name in shown:
            del modules[name]
