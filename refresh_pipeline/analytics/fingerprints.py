"""Fingerprints of computed columns: a short text that differs wherever a stored value may differ.

A fingerprint covers the formula with all parameters, the constants that its functions use, and the calendar. It covers
the code versions of the formula, of shared machinery and of TA-Lib, and the fingerprints of needed columns. Code itself
is not covered: a change of a formula raises its `version`, and a test holds the values of each version.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache, partial
from types import CodeType, FunctionType, ModuleType

import numpy as np

from refresh_pipeline.analytics.lazy_talib import load_talib
from refresh_pipeline.market.calendars.base import Calendar

# Functions and constants of these modules belong to formulas.
PACKAGE = __name__.rpartition(".")[0]
CONSTANTS = (bool, int, float, str, np.generic, np.ndarray, tuple, list, dict)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprint of one column, and the highest version among the formulas and the calendar behind it."""

    text: str
    version: int = 1


def fingerprint(code_version: int, *ingredients: object, needs: Mapping[str, Fingerprint] | None = None) -> Fingerprint:
    """The fingerprint of functions, calendars, numbers, texts, and of sequences, mappings and dataclasses of these.

    `needs` are the fingerprints of the columns that the value is computed from.

    >>> fingerprint(1, "ema", {"timeperiod": 8}) == fingerprint(1, "ema", {"timeperiod": 8})
    True
    >>> fingerprint(1, "ema", {"timeperiod": 8}) == fingerprint(2, "ema", {"timeperiod": 8})
    False
    """
    needed = needs or {}
    described = [str(code_version), *map(_described, ingredients)]
    described += [f"{name}={need.text}" for name, need in sorted(needed.items())]
    text = hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]
    versions = [code_version, *_calendar_versions(ingredients), *(need.version for need in needed.values())]
    return Fingerprint(text, max(versions))


def _calendar_versions(value: object) -> Iterator[int]:
    """The versions of the calendars among ingredients."""
    if isinstance(value, Calendar):
        yield value.version
    elif isinstance(value, partial):
        yield from _calendar_versions((value.args, *value.keywords.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _calendar_versions(item)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _calendar_versions(tuple(getattr(value, field.name) for field in fields(value)))


def _described(value: object) -> str:
    """A text that is the same in every process for equal values."""
    if isinstance(value, Calendar):
        return f"calendar {value.fingerprint}"
    if isinstance(value, partial):
        return f"{_described(value.func)}({_described(value.args)}, {_described(value.keywords)})"
    if callable(value):
        uses = {f"{name}={_described(constant)}" for name, constant in _constants(value, set())}
        return "; ".join([getattr(value, "__name__", "?"), *sorted(uses)])
    if isinstance(value, np.ndarray):
        return repr(value.tolist())
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{key}: {_described(item)}' for key, item in value.items()))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_described, value))}]"
    if is_dataclass(value) and not isinstance(value, type):
        # What changes how bars are read, and no value, is no ingredient.
        return _described({field.name: getattr(value, field.name) for field in fields(value) if field.compare})
    return str(value) if isinstance(value, np.generic) else repr(value)


def _constants(value: object, visited: set[int]) -> Iterator[tuple[str, object]]:
    """The named constants that a function or a class uses, also through the functions of this package that it calls."""
    if id(value) in visited:
        return
    visited.add(id(value))
    if _is_of_talib(value):
        yield "TA-Lib", f"{getattr(value, '__name__', '?')} {talib_version()}"
    elif isinstance(value, type) and value.__module__.startswith(PACKAGE):
        for member in vars(value).values():
            yield from _constants(member, visited)
    elif (function := _function_of(value)) and function.__module__.startswith(PACKAGE):
        defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        if constants := [default for default in defaults if isinstance(default, CONSTANTS)]:
            yield function.__name__, constants
        for name, used in _globals(function):
            if isinstance(used, CONSTANTS):
                yield name, used
            else:
                yield from _constants(used, visited)


def _globals(function: FunctionType) -> Iterator[tuple[str, object]]:
    """The globals that a function names, and what it takes of the modules of this package among them."""
    names = sorted(set(_names(function.__code__)))
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            if value.__name__.startswith(PACKAGE):
                yield from ((used, vars(value)[used]) for used in names if used in vars(value))
        elif value is not None:
            yield name, value


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _function_of(value: object) -> FunctionType | None:
    """The function behind a method, a property or a cache."""
    if isinstance(value, property):
        return _function_of(value.fget)
    inner: Callable[..., object] | None = getattr(value, "__wrapped__", None) or getattr(value, "__func__", None)
    if inner is not None:
        return _function_of(inner)
    return value if isinstance(value, FunctionType) else None


def _is_of_talib(value: object) -> bool:
    return callable(value) and str(getattr(value, "__module__", "")).partition(".")[0] in ("talib", "_ta_lib")


@lru_cache(maxsize=1)
def talib_version() -> str:
    """The versions of the installed TA-Lib: the package's, and its C library's without the build date."""
    talib = load_talib()
    return f"{talib.__version__}/{talib.__ta_version__.decode().split()[0]}"
