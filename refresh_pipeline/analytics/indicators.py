"""The table of a market's indicators: the group `standard`, or the selection in the market's YAML."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from refresh_pipeline.analytics.bars import Bars, Computation, Values
from refresh_pipeline.analytics.evaluation import (
    BLOCK_BARS,
    Part,
    RecursiveFormula,
    RowFormula,
    evaluate,
    fingerprints,
    of_kind,
)
from refresh_pipeline.analytics.expressions import expression_part
from refresh_pipeline.analytics.fingerprints import fingerprint
from refresh_pipeline.analytics.own_indicators import OWN, own_indicators
from refresh_pipeline.analytics.registry import (
    ALL,
    CLASSIC,
    LAST_BAR,
    PROFILE,
    STANDARD,
    TALIB,
    TRADINGVIEW,
    DefaultColumns,
    Indicator,
    Parameters,
    hidden_dependencies,
    is_standard,
    registry,
)
from refresh_pipeline.analytics.talib_functions import Number
from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import CANDLE_COLUMNS
from refresh_pipeline.market.suggestions import did_you_mean

# An entry of a market's YAML: a group, an indicator, a column, or one indicator with parameter sets.
IndicatorSpec = str | Mapping[str, object]

# Groups over the groups of entries.
GROUPS = (STANDARD, CLASSIC, TALIB, TRADINGVIEW, ALL)


class UnknownIndicator(ValueError):
    """A market names an indicator or a parameter that does not exist."""


def groups(calendar: Calendar) -> list[str]:
    """The names of groups that a market may choose."""
    return [
        STANDARD,
        CLASSIC,
        TALIB,
        TRADINGVIEW,
        ALL,
        *dict.fromkeys(each.group for each in _entries(calendar).values()),
    ]


def _entries(calendar: Calendar) -> Mapping[str, Indicator]:
    """The registry, and the indicators of other packages whose names it has not."""
    return {indicator.name: indicator for indicator in own_indicators()} | dict(registry(calendar))


def indicators(specs: Sequence[IndicatorSpec] | None, calendar: Calendar) -> Computation:
    """The table of a market's indicators: the group `standard`, or those of `specs`.

    A spec is the name of a group, an indicator or a column, or an indicator with parameters: `{"ema": [8, 21]}`,
    `{"macd": {"fastperiod": 8, "slowperiod": 21, "signalperiod": 5}}`; or a new name with an expression of candles:
    `{"gap": "open / lag(close, 1) - 1"}`.

    Raises:
        UnknownIndicator: there is no such group, indicator, column or parameter; the message names the nearest. Or two
            specs with different parameters come to the same column; the message names both.
    """
    entries = _entries(calendar)
    selected = list(_selected(entries, [CLASSIC, STANDARD] if specs is None else specs))
    _refuse_one_name_for_two(selected)
    chosen = dict.fromkeys(name for _, columns, _ in selected for name in columns)
    return _computation(_with_needs([part for part, _, _ in selected], _Makers.of(entries)), list(chosen))


def _computation(complete: Sequence[Part], chosen: Sequence[str]) -> Computation:
    """The computation of the chosen columns of some parts, each of which comes after the parts that it needs."""
    columns = {column.name: column for part in complete for column in part.columns}
    states = list(dict.fromkeys(state for part in complete for state in part.states))
    required_states = [
        state
        for part in complete
        if isinstance(part.formula, RecursiveFormula) and part.formula.required_states
        for state in part.states
    ]
    compute = partial(_compute, complete, tuple(chosen), tuple(states))
    known = fingerprints(complete)
    return Computation(
        "indicators",
        [columns[name] for name in chosen],
        compute,
        states=states,
        required_states=required_states,
        block=BLOCK_BARS,
        fingerprints={name: known[name] for name in [*chosen, *states]},
        narrow=partial(_narrowed, complete, chosen),
        lookback=max(
            (part.formula.lookback for part in complete if isinstance(part.formula, RecursiveFormula)), default=0
        ),
        continues_anywhere=all(
            not column.needed_before for part in of_kind(complete, RecursiveFormula) for column in part.columns
        ),
        parts=tuple(complete),
    )


def _narrowed(complete: Sequence[Part], chosen: Sequence[str], names: Collection[str]) -> Computation:
    """The computation of some columns and states alone: their parts, and the parts that these need."""
    wanted, parts = set(names), []
    for part in reversed(complete):
        if wanted & {*part.names, *part.states}:
            parts.append(part)
            wanted |= set(part.formula.needs) if isinstance(part.formula, RowFormula) else set()
    return _computation(
        [LAST_BAR, *(part for part in reversed(parts) if part != LAST_BAR)], [name for name in chosen if name in names]
    )


def _refuse_one_name_for_two(selected: Sequence[tuple[Part, Sequence[str], str]]) -> None:
    """Refuse specs whose columns have one name and different formulas or parameters."""
    firsts: dict[str, tuple[Part, str]] = {}
    for part, columns, spec in selected:
        for name in columns:
            first, first_spec = firsts.setdefault(name, (part, spec))
            if first is not part and fingerprint(1, first.formula) != fingerprint(1, part.formula):
                raise UnknownIndicator(
                    f"found {first_spec} and {spec}, whose columns are both called {name!r}; "
                    "allowed: one of them, or parameters that give another name"
                )


def _compute(parts: Sequence[Part], chosen: Sequence[str], states: Sequence[str], bars: Bars) -> Mapping[str, Values]:
    computed, known = evaluate(parts, bars)
    columns = {name: computed[name] for name in chosen}
    return columns | {name: known[name] for name in states} if bars.with_states else columns


def _selected(
    entries: Mapping[str, Indicator], specs: Sequence[IndicatorSpec]
) -> Iterator[tuple[Part, Sequence[str], str]]:
    """Parts, the selected columns of each, and the spec that selects them."""
    for spec in specs:
        if isinstance(spec, Mapping):
            for name, given in spec.items():
                yield from _with_parameters(entries, str(name), given)
        else:
            yield from ((part, columns, repr(spec)) for part, columns in _by_name(entries, spec))


def _names_all_of(spec: str, entry: Indicator, shipped: DefaultColumns) -> bool:
    """Whether a spec names all columns of a set; of another package's indicators nothing comes unasked."""
    if spec == STANDARD:
        return is_standard(entry, shipped)
    return spec in (shipped.of, entry.group, entry.name) or (spec == ALL and entry.group not in (OWN, PROFILE))


def _by_name(entries: Mapping[str, Indicator], spec: str) -> Iterator[tuple[Part, Sequence[str]]]:
    matches = [
        (entry, shipped, [name for name in shipped.names if everything or name == spec])
        for entry in entries.values()
        # Another package's indicator that is called as a group is, hides the group from nobody.
        if entry.group != OWN or spec not in GROUPS
        for shipped in entry.shipped
        for everything in [_names_all_of(spec, entry, shipped)]
        if everything or spec in shipped.names
    ]
    if not matches:
        known = [*entries, *(entry.group for entry in entries.values()), *GROUPS]
        raise UnknownIndicator(
            f"found {spec!r}{did_you_mean(spec.lower(), known, alike=0.5)}; allowed: a group, an indicator or a column"
        )
    for entry, shipped, names in matches:
        yield entry.part(shipped.parameters, shipped.names), names


def _with_parameters(
    entries: Mapping[str, Indicator], name: str, given: object
) -> Iterator[tuple[Part, Sequence[str], str]]:
    entry = entries.get(name)
    if isinstance(given, str) and entry is None:
        yield _by_expression(entries, name, given), [name], repr({name: given})
        return
    if entry is None or not entry.parameters:
        choices = [each.name for each in entries.values() if each.parameters]
        hint = did_you_mean(name.lower(), choices, alike=0.5)
        raise UnknownIndicator(f"found {name!r}{hint}; allowed: an indicator that takes parameters")
    for values in given if isinstance(given, list | tuple) else [given]:
        parameters = _parameters(entry, values)
        names = entry.names_for({key: parameters[key] for key in _given_names(entry, values)})
        yield entry.part(parameters, names), names, repr({name: values})


def _by_expression(entries: Mapping[str, Indicator], name: str, text: str) -> Part:
    """The part of a column of one's own, which an expression of candles computes."""
    taken = {"instrument", "timeframe", "open_time", *CANDLE_COLUMNS}
    taken |= {column for entry in entries.values() for shipped in entry.shipped for column in shipped.names}
    if name in taken or not name.isidentifier() or name != name.lower():
        raise UnknownIndicator(f"found {name!r} for {text!r}; allowed: a new name of lower-case letters, digits and _")
    try:
        return expression_part(name, text)
    except ValueError as error:
        raise UnknownIndicator(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error


def _given_names(entry: Indicator, given: object) -> list[str]:
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
    if broken := [value for key, value in named.items() if not _is_like(entry.parameters[key], value)]:
        raise UnknownIndicator(f"found {broken[0]}, allowed: a whole number; {allowed}")
    parameters = {**entry.parameters, **{key: _like(entry.parameters[key], value) for key, value in named.items()}}
    _try_out(entry, parameters, allowed)
    return parameters


def _is_like(default: Number, value: object) -> bool:
    """Whether a number is of the kind that TA-Lib takes there: a number of bars is whole."""
    return isinstance(default, float) or float(str(value)).is_integer()


def _like(default: Number, value: object) -> Number:
    """A number of the kind that TA-Lib takes there."""
    number = float(str(value))
    return number if isinstance(default, float) else int(number)


def _try_out(entry: Indicator, parameters: Parameters, allowed: str) -> None:
    if not entry.accepts(parameters):
        given = ", ".join(f"{key} {value:g}" for key, value in parameters.items())
        raise UnknownIndicator(f"found {entry.name} with {given}, with which it cannot be computed; {allowed}")


@dataclass(frozen=True, slots=True)
class _Makers:
    """Finds the part that computes a column which other parts need."""

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
    """The parts, each once, after the parts that they need."""
    complete: dict[tuple[str, ...], Part] = {(): LAST_BAR}

    def add(part: Part) -> Part:
        if (key := tuple(part.names)) not in complete:
            needs = (
                [add(makers.part(name)) for name in part.formula.needs] if isinstance(part.formula, RowFormula) else []
            )
            complete[key] = _warmed_up(part, needs)
        return complete[key]

    for part in parts:
        add(part)
    return list(complete.values())


def _warmed_up(part: Part, needs: Sequence[Part]) -> Part:
    """A part that uses other columns needs as many earlier bars as they do."""
    if not isinstance(part.formula, RowFormula):
        return part
    bars = max([part.formula.reach, *(column.warm_up for each in needs for column in each.columns)])
    return replace(part, columns=[replace(column, warm_up=bars) for column in part.columns])
