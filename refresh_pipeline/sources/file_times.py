"""How the times of a file are written: the formats that read them, and refusal where two readings are possible."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime

from refresh_pipeline.sources import PermanentError
from refresh_pipeline.sources.file_options import DAY_FIRST, MONTH_FIRST

# What DuckDB reads by itself: ISO 8601, and numbers since 1970 that are no dates in digits.
ISO = re.compile(
    r"\d{4}[-/]\d{1,2}[-/]\d{1,2}([ T]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?(Z|UTC|[+-]\d{2}(:?\d{2})?|[A-Z]{3,4}))?)?"
)
EPOCH = re.compile(r"[+]?\d+(\.\d+)?([eE][+]?\d+)?")
# A date in digits alone, by the number of its digits; milliseconds of such a length lie in the year 1976.
DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
CLOCK_DIGITS = {4: "%H%M", 6: "%H%M%S"}
CLOCK = re.compile(r"(\d{1,2}:\d{2})(:\d{2})?([.,]\d+)?( ?)([AaPp][Mm])?")
HOUR_ALONE = re.compile(r"(\d{1,2})([- ])([AaPp][Mm])")
TRIPLE = re.compile(r"(\d{1,4})([./-])(\d{1,2})\2(\d{4}|\d{2})")
MONTH_NAMED = re.compile(r"([A-Za-z]{3,9})(\.?) (\d{1,2})(,?) (\d{4})")
DAY_MONTH_NAMED = re.compile(r"(\d{1,2})([- /])([A-Za-z]{3,9})(\.?)\2(\d{4}|\d{2})")
WEEKDAY = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? ")
ZONE = re.compile(r" ?(GMT|UTC)?([+-]\d{2}:?\d{2})?( UTC| GMT)?")
# The fields of a date in digits, by who writes them; the one that a market's YAML may prefer where both fit.
FIELDS = {DAY_FIRST: "%d{0}%m{0}{1}", MONTH_FIRST: "%m{0}%d{0}{1}", "year first": "%y{0}%m{0}%d"}
# Reads how many rows of the whole file the first formats read and the second do not, and the other way round.
Compare = Callable[[Sequence[str], Sequence[str]], tuple[int, int]]


def is_clock(text: str) -> bool:
    """Whether a text is a time of day alone.

    >>> is_clock("09:15"), is_clock("091500"), is_clock("2024-01-31 09:15")
    (True, True, False)
    """
    return bool(CLOCK.fullmatch(text)) or (text.isdigit() and len(text) in CLOCK_DIGITS)


def formats_of(samples: Sequence[str], preferred: str, compare: Compare, where: str) -> tuple[str, ...]:
    """The formats of a file's times for DuckDB's `strptime`; none where it reads them by itself.

    Args:
        samples: times as they stand in the file, without blanks around them.
        preferred: DAY_FIRST or MONTH_FIRST where the market's YAML says so, or empty.
        compare: looks at the whole file where the samples leave two readings.
        where: the file's path, for messages.

    Raises:
        PermanentError: day and month may be either way round, or both ways occur.
    """
    written = [text for text in samples if text]
    if sum(map(_reads_itself, written)) * 2 >= len(written):
        return ()
    readings: dict[str, set[str]] = {}
    for text in written:
        for order, form in _readings(text).items():
            readings.setdefault(order, set()).add(form)
    if set(readings) <= {""}:
        return tuple(sorted(readings.get("", ())))
    shared = readings.pop("", set())
    return tuple(sorted(_decided(readings, written, preferred, compare, where) | shared))


def _reads_itself(text: str) -> bool:
    if ISO.fullmatch(text):
        return True
    return bool(EPOCH.fullmatch(text)) and not _date_in_digits(text)


def _date_in_digits(text: str) -> str:
    form = DIGITS.get(len(text), "") if text.isdigit() else ""
    return form if form and _parses(text, form) and 1900 <= int(text[:4]) <= 2100 else ""


def _decided(
    readings: dict[str, set[str]], samples: Sequence[str], preferred: str, compare: Compare, where: str
) -> set[str]:
    """The formats of the one order of day and month that reads the whole file."""
    fitting = {order: forms for order, forms in readings.items() if _reads_most(samples, forms, readings)}
    if len(fitting) < 2:
        return next(iter(fitting.values()), set().union(*readings.values()))
    (first, first_forms), (second, second_forms), *_ = fitting.items()
    only_first, only_second = compare(sorted(first_forms), sorted(second_forms))
    if only_first and only_second:
        raise PermanentError(
            f"{where}: expected one order of day and month; found times that are {first} and times that are {second}; "
            "write them alike"
        )
    if only_first or only_second:
        return first_forms if only_first else second_forms
    if preferred in fitting:
        return fitting[preferred]
    raise PermanentError(_both_readings(samples, fitting, where))


def _reads_most(samples: Sequence[str], forms: set[str], readings: dict[str, set[str]]) -> bool:
    counts = [sum(any(_parses(text, form) for form in each) for text in samples) for each in readings.values()]
    return sum(any(_parses(text, form) for form in forms) for text in samples) * 2 > max(counts)


def _both_readings(samples: Sequence[str], fitting: dict[str, set[str]], where: str) -> str:
    def read(text: str, forms: set[str]) -> str:
        return next((f"{datetime.strptime(text, form):%Y-%m-%d}" for form in forms if _parses(text, form)), "")  # noqa: DTZ007

    def differs(text: str) -> bool:
        return len({read(text, forms) for forms in fitting.values()}) > 1

    text = next(filter(differs, samples), samples[0])
    shown = " or ".join(f"{read(text, forms)} ({order})" for order, forms in fitting.items())
    named = " or ".join(f'"{sorted(forms)[0]}"' for forms in fitting.values())
    return (
        f"{where}: {text!r} can be read as {shown}, and no row of the file decides it; set time: {named} below source"
    )


def _parses(text: str, form: str) -> bool:
    try:
        datetime.strptime(text, form)  # noqa: DTZ007
    except ValueError:
        return False
    return True


def _readings(text: str) -> dict[str, str]:
    """The formats of one text by the order of day and month; under "" where its format has but one reading."""
    if form := _date_in_digits(text):
        return {"": form}
    if text[:8].isdigit() and (date := DIGITS[8]) and text[8:9] in (" ", "T", ";"):
        clock = _clock(text[9:])
        return {"": f"{date}{text[8]}{clock}"} if clock else {}
    weekday = WEEKDAY.match(text)
    before = (
        (("%a" if len(weekday[0].strip(" ,")) == 3 else "%A") + ("," if "," in weekday[0] else "") + " ")
        if weekday
        else ""
    )
    rest = text[weekday.end() :] if weekday else text
    for pattern, dates in ((TRIPLE, _triple), (MONTH_NAMED, _month_first), (DAY_MONTH_NAMED, _day_first)):
        if match := pattern.match(rest):
            after = _after(rest[match.end() :])
            return {} if after is None else {order: f"{before}{date}{after}" for order, date in dates(match).items()}
    return {}


def _triple(match: re.Match[str]) -> dict[str, str]:
    first, separator, _, last = match.groups()
    if len(first) == 4:
        return {"": f"%Y{separator}%m{separator}%d"}
    if len(first) == 3:
        return {}
    year = "%Y" if len(last) == 4 else "%y"
    orders = (DAY_FIRST, MONTH_FIRST) if year == "%Y" else tuple(FIELDS)
    dates = {order: FIELDS[order].format(separator, year) for order in orders}
    return {order: date for order, date in dates.items() if _parses(match[0], date)}


def _month_first(match: re.Match[str]) -> dict[str, str]:
    month = _month(match[1])
    return {"": f"{month}{match[2]} %d{match[4]} %Y"} if month else {}


def _day_first(match: re.Match[str]) -> dict[str, str]:
    month, year = _month(match[3]), "%Y" if len(match[5]) == 4 else "%y"
    return {"": f"%d{match[2]}{month}{match[4]}{match[2]}{year}"} if month else {}


def _month(name: str) -> str:
    return next((form for form in ("%b", "%B") if _parses(name.lower(), form)), "")


def _after(text: str) -> str | None:
    """The format of what follows a date, None where it is no time of day."""
    if not text:
        return ""
    separator = next((each for each in (", ", " ", "T", "-", ";") if text.startswith(each)), None)
    if separator is None:
        return None
    clock = _clock(text[len(separator) :])
    return f"{separator}{clock}" if clock else None


def _clock(text: str) -> str | None:
    """The format of a time of day, with the zone behind it."""
    digits = text.removesuffix("Z")
    if digits.isdigit() and len(digits) in CLOCK_DIGITS:
        return f"{CLOCK_DIGITS[len(digits)]}{text[len(digits) :]}"
    if match := HOUR_ALONE.fullmatch(text):
        return f"%I{match[2]}%p"
    match = CLOCK.match(text)
    zone = ZONE.fullmatch(text[match.end() :].rstrip("Z")) if match else None
    if match is None or zone is None:
        return None
    hour = "%I:%M" if match[5] else "%H:%M"
    fraction = f"{match[3][0]}%f" if match[3] else ""
    named, offset = zone[1] or "", "%z" if zone[2] else ""
    blank = " " if zone[0].startswith(" ") else ""
    end = (zone[3] or "") + text[len(text.rstrip("Z")) :]
    half = f"{match[4]}%p" if match[5] else match[4]
    return f"{hour}{':%S' if match[2] else ''}{fraction}{half}{blank}{named}{offset}{end}"
