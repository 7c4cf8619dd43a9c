"""The table of a market's indicators: everything there is, or what its YAML wishes for. The entries: registry.py."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from refresh_pipeline.analytics.bars import Bars, Computation, Values
from refresh_pipeline.analytics.evaluation import BLOCK, Part, RecursiveFormula, RowFormula, evaluate
from refresh_pipeline.analytics.registry import (
    CLASSIC,
    LAST_BAR,
    TALIB,
    Indicator,
    Parameters,
    hidden_dependencies,
    registry,
)
from refresh_pipeline.analytics.talib_functions import Number, lookback
from refresh_pipeline.market.calendars.base import Calendar

# What a market's YAML names: a group, an indicator, a column, or one indicator with parameter sets of its own.
IndicatorSpec = str | Mapping[str, object]


class UnknownIndicator(ValueError):
    """A market asks for an indicator, or for a parameter, that there is not."""


def groups(calendar: Calendar) -> list[str]:
    """The names of groups that a market may choose."""
    return [CLASSIC, TALIB, *dict.fromkeys(each.group for each in registry(calendar).values())]


def indicators(specs: Sequence[IndicatorSpec] | None, calendar: Calendar) -> Computation:
    """The table of a market's indicators: everything, or what it wishes for.

    A wish is the name of a group, an indicator or a column, or an indicator with parameters: `{"ema": [8, 21]}`,
    `{"macd": {"fastperiod": 8, "slowperiod": 21, "signalperiod": 5}}`.

    Raises:
        UnknownIndicator: there is no such group, indicator, column or parameter; the message names the nearest.
    """
    entries = registry(calendar)
    parts: list[Part] = []
    chosen: dict[str, None] = {}
    for part, columns in _wished(entries, [CLASSIC, TALIB] if specs is None else specs):
        parts.append(part)
        chosen |= dict.fromkeys(columns)
    complete = _with_needs(parts, _Makers.of(entries))
    columns = {column.name: column for part in complete for column in part.columns}
    states = list(dict.fromkeys(state for part in complete for state in part.states))
    required_states = [
        state
        for part in complete
        if isinstance(part.how, RecursiveFormula) and part.how.required_states
        for state in part.states
    ]
    compute = partial(_compute, complete, tuple(chosen), tuple(states))
    own = [columns[name] for name in chosen]
    return Computation("indicators", own, compute, states=states, required_states=required_states, block=BLOCK)


def _compute(parts: Sequence[Part], chosen: Sequence[str], states: Sequence[str], bars: Bars) -> Mapping[str, Values]:
    computed, known = evaluate(parts, bars)
    columns = {name: computed[name] for name in chosen}
    return columns | {name: known[name] for name in states} if bars.with_states else columns


def _wished(entries: Mapping[str, Indicator], wishes: Sequence[IndicatorSpec]) -> Iterator[tuple[Part, Sequence[str]]]:
    """Parts, and which of their columns are wished for."""
    for wish in wishes:
        if isinstance(wish, Mapping):
            for name, given in wish.items():
                yield from _with_parameters(entries, str(name), given)
        else:
            yield from _by_name(entries, wish)


def _by_name(entries: Mapping[str, Indicator], wish: str) -> Iterator[tuple[Part, Sequence[str]]]:
    found = [
        (entry, shipped, [name for name in shipped.names if everything or name == wish])
        for entry in entries.values()
        for shipped in entry.shipped
        for everything in [wish in (shipped.of, entry.group, entry.name)]
        if everything or wish in shipped.names
    ]
    if not found:
        known = [*entries, *(entry.group for entry in entries.values()), CLASSIC, TALIB]
        raise UnknownIndicator(f"found {wish!r}{_nearest(wish, known)}; allowed: a group, an indicator or a column")
    for entry, shipped, names in found:
        yield entry.part(shipped.parameters, shipped.names), names


def _with_parameters(
    entries: Mapping[str, Indicator], name: str, given: object
) -> Iterator[tuple[Part, Sequence[str]]]:
    entry = entries.get(name)
    if entry is None or not entry.parameters:
        choices = [each.name for each in entries.values() if each.parameters]
        raise UnknownIndicator(f"found {name!r}{_nearest(name, choices)}; allowed: an indicator that takes parameters")
    for one in given if isinstance(given, list | tuple) else [given]:
        parameters = _parameters(entry, one)
        names = entry.names_for({key: parameters[key] for key in _named(entry, one)})
        yield entry.part(parameters, names), names


def _named(entry: Indicator, given: object) -> list[str]:
    return [key for key in entry.parameters if isinstance(given, Mapping) and key in given] or [
        next(iter(entry.parameters))
    ]


def _parameters(entry: Indicator, given: object) -> Parameters:
    """A set of parameters: the defaults, and what is given by name or, as a bare number, for the first of them."""
    named = given if isinstance(given, Mapping) else {next(iter(entry.parameters)): given}
    allowed = f"{entry.name} takes {', '.join(f'{key} ({value:g})' for key, value in entry.parameters.items())}"
    if unknown := [str(key) for key in named if key not in entry.parameters]:
        raise UnknownIndicator(f"found {', '.join(unknown)}; {allowed}")
    if wrong := [value for value in named.values() if isinstance(value, bool) or not isinstance(value, int | float)]:
        raise UnknownIndicator(f"found {wrong[0]!r}, allowed: a number; {allowed}")
    parameters = {**entry.parameters, **{key: _like(entry.parameters[key], value) for key, value in named.items()}}
    _try_out(entry, parameters, allowed)
    return parameters


def _like(default: Number, value: object) -> Number:
    """A number of the kind that TA-Lib takes there."""
    number = float(str(value))
    return number if isinstance(default, float) else int(number)


def _try_out(entry: Indicator, parameters: Parameters, allowed: str) -> None:
    if lookback(entry.name.upper(), parameters) < 0:
        given = ", ".join(f"{key} {value:g}" for key, value in parameters.items())
        raise UnknownIndicator(f"found {entry.name} with {given}, which TA-Lib refuses; {allowed}")


def _nearest(wish: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wish.lower(), list(dict.fromkeys(known)), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True, slots=True)
class _Makers:
    """Gives the part that makes a column others need."""

    entries: Mapping[str, Indicator]
    hidden: Mapping[str, Part]

    @classmethod
    def of(cls, entries: Mapping[str, Indicator]) -> "_Makers":
        return cls(entries, {name: part for part in hidden_dependencies() for name in part.names})

    def part(self, column: str) -> Part:
        if column in self.hidden:
            return self.hidden[column]
        return next(part for part, names in _by_name(self.entries, column) if column in names)


def _with_needs(parts: Sequence[Part], makers: _Makers) -> list[Part]:
    """The parts, each once, after what they need."""
    complete: dict[tuple[str, ...], Part] = {(): LAST_BAR}

    def add(part: Part) -> Part:
        if (key := tuple(part.names)) not in complete:
            needs = [add(makers.part(name)) for name in part.how.needs] if isinstance(part.how, RowFormula) else []
            complete[key] = _warmed_up(part, needs)
        return complete[key]

    for part in parts:
        add(part)
    return list(complete.values())


def _warmed_up(part: Part, needs: Sequence[Part]) -> Part:
    """What follows from other columns needs as many bars before as they do."""
    if not isinstance(part.how, RowFormula):
        return part
    bars = max([part.how.reach, *(column.warm_up for each in needs for column in each.columns)])
    return replace(part, columns=[replace(column, warm_up=bars) for column in part.columns])
