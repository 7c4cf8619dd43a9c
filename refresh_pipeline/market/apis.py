"""API snapshots: questions about markets that are no candles, asked at an interval, whose whole answers are kept.

A collection is one YAML file: an asset group with its schema and its schedule. Asking is `sources.any_api`'s part,
keeping `warehouse.snapshots`'.
"""

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from refresh_pipeline.market.clear_text import ALLOWED, host_in_the_clear
from refresh_pipeline.market.plain_yaml import TOO_DEEP, YamlError, plain_yaml

API_ID = re.compile(r"[a-z0-9_.]{1,80}")
COLLECTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# A credential by the name of its setting; never its value.
VARIABLE = re.compile(r"\$([A-Z][A-Z0-9_]*)")
URL = re.compile(r"https?://[^/\s@?#]+(/[^\s#]*)?")
DURATION = re.compile(r"(\d+)\s*(s|m|h|d)")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
SHORTEST, LONGEST = timedelta(seconds=10), timedelta(days=7)
# The predecessor's words for intervals.
UPDATE_TYPES = {"periodic": timedelta(minutes=1), "scheduled": timedelta(hours=1), "daily": timedelta(days=1)}
# Tables of a collection's schema; a view of columns cannot have their names.
RESERVED = {"snapshots", "api_outcomes", "versions", "schema_info"}
# What stands in a partition's name for a letter that it cannot have.
UNSAFE = re.compile(r"[^a-z0-9_]+")
AFTER_FAILURES, LONGEST_BACKOFF = 3, timedelta(hours=1)

Path = tuple[str, ...]


class ApiError(ValueError):
    """A collection's YAML is wrong; the message names the file, the key, the value found and the values allowed."""


def duration(value: object) -> timedelta:
    """An interval such as 10s, 15m, 1h or 7d.

    >>> duration("15m")
    datetime.timedelta(seconds=900)

    Raises:
        ValueError: it is none, or shorter than 10 s or longer than 7 days.
    """
    if isinstance(value, timedelta):
        length = value
    else:
        match = DURATION.fullmatch(str(value).strip())
        if match is None:
            raise ValueError("allowed: 10s to 7d, as a number and one of s, m, h, d")
        length = timedelta(**{UNITS[match[2]]: int(match[1])})
    if not SHORTEST <= length <= LONGEST:
        raise ValueError("allowed: 10s to 7d")
    return length


def _steps(value: object) -> object:
    """A dotted path, or a list of its steps; a step of digits is a position in a list."""
    if isinstance(value, str):
        return tuple(part for part in value.split(".") if part)
    return tuple(str(part) for part in value) if isinstance(value, list | tuple) else value


def _url(url: str) -> str:
    if not URL.fullmatch(url):
        raise ValueError("allowed: http:// or https://, a host, a path where needed; no user, no fragment")
    return url


Steps = Annotated[Path, BeforeValidator(_steps)]
Interval = Annotated[timedelta, BeforeValidator(duration)]
Url = Annotated[str, AfterValidator(_url)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class SnapshotColumn(_Strict):
    """One column of a collection's view: where it lies in the payload (or its row), and its type."""

    path: Steps
    type: Literal["varchar", "double", "bigint", "boolean", "timestamp"] = "varchar"


def _column(value: object) -> object:
    return {"path": value} if isinstance(value, str | list) else value


class Keep(_Strict):
    """How much history of a payload is kept; the newest one always is."""

    payloads: int = Field(default=1000, ge=1)
    days: int = Field(default=90, ge=1)


class ApiRate(_Strict):
    """How often the host may be asked, by everybody on this machine together."""

    requests: int = Field(default=30, ge=1)
    seconds: float = Field(default=60, gt=0)


class Request(_Strict):
    """One way to put a question."""

    url: Url
    method: Literal["GET", "POST"] = "GET"
    params: Mapping[str, str] = Field(default_factory=dict)
    headers: Mapping[str, str] = Field(default_factory=dict)
    body: Any = None
    # Whether a credential may go to another machine over http://.
    insecure_http: bool = False

    @model_validator(mode="after")
    def _credentials_go_by_https(self) -> Self:
        names = [name for text in _texts(self) for name in VARIABLE.findall(text)]
        if names and not self.insecure_http and (host := host_in_the_clear(self.url)):
            raise ValueError(
                f"url: found http:// to {host}, which shows ${names[0]} to the network; allowed: {ALLOWED}"
            )
        return self


class Api(Request):
    """One question: how it is put, how often, and what of its answer is a column."""

    name: str = ""
    category: str = ""
    # Failover: further ways to put the question, in order.
    alternatives: tuple[Request, ...] = Field(default=(), alias="or")
    every: Interval = timedelta(hours=1)
    update_type: Literal["periodic", "scheduled", "daily"] | None = None
    answer: Literal["json", "text", "rss"] = "json"
    rows: Steps | None = None
    columns: Mapping[str, Annotated[SnapshotColumn, BeforeValidator(_column)]] = Field(default_factory=dict)
    ignore: tuple[Steps, ...] = ()
    keep: Keep = Keep()
    rate: ApiRate = ApiRate()
    each: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    enabled: bool = True
    docs: str = ""
    terms: str = ""
    # The year of the documentation that the entry follows.
    documented: int | None = None
    notes: str = ""

    @model_validator(mode="before")
    @classmethod
    def _interval_of_type(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "every" not in values and values.get("update_type") in UPDATE_TYPES:
            return {**values, "every": UPDATE_TYPES[values["update_type"]]}
        return values

    @model_validator(mode="after")
    def _placeholders_are_given(self) -> "Api":
        if len(self.each) > 1:
            raise ValueError(f"each: found {', '.join(self.each)}; allowed: one placeholder")
        for way in (self, *self.alternatives):
            if unknown := _placeholders(way) - set(self.each):
                raise ValueError(f"{{{min(unknown)}}} has no values; name them in each: {{{min(unknown)}: [...]}}")
        return self

    @property
    def ways(self) -> tuple[Request, ...]:
        """Every way to put the question, the preferred one first."""
        first = Request(
            url=self.url,
            method=self.method,
            params=self.params,
            headers=self.headers,
            body=self.body,
            insecure_http=self.insecure_http,
        )
        return (first, *self.alternatives)


def _placeholders(way: Request) -> set[str]:
    texts = [way.url, *way.params.values(), *way.headers.values()]
    try:
        return {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}
    except ValueError as error:
        raise ValueError(f"{error}; allowed in braces: a name of each") from None


@dataclass(frozen=True, slots=True)
class ApiQuestion:
    """One partition of a collection: an API, with the value of its placeholder where it has one."""

    id: str
    base: str
    api: Api
    values: Mapping[str, str]

    @property
    def ways(self) -> list[Request]:
        """Every way to put this question, with the placeholder filled in."""
        return [_filled(way, self.values) for way in self.api.ways]

    @property
    def variables(self) -> list[str]:
        """The names of the credentials that it needs."""
        texts = [text for way in self.api.ways for text in _texts(way)]
        return sorted({name for text in texts for name in VARIABLE.findall(text)})


def _filled(way: Request, values: Mapping[str, str]) -> Request:
    def fill(text: str) -> str:
        return text.format(**values) if values else text

    return way.model_copy(
        update={
            "url": fill(way.url),
            "params": {name: fill(text) for name, text in way.params.items()},
            "headers": {name: fill(text) for name, text in way.headers.items()},
        }
    )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Request):
        yield from (text for part in (value.url, value.params, value.headers, value.body) for text in _texts(part))
    elif isinstance(value, Mapping):
        yield from (text for part in value.values() for text in _texts(part))
    elif isinstance(value, list | tuple):
        yield from (text for part in value for text in _texts(part))


class Collection(_Strict):
    """A file of APIs: an asset group, a schema in the warehouse, and one schedule."""

    name: str
    description: str = ""
    # Whether addresses of this machine and of private networks may be asked.
    allow_private: bool = False
    # Files of the payloads of each API, written by the runs that store a new one.
    exports: tuple[Literal["ndjson", "parquet", "csv"], ...] = ()
    apis: Mapping[str, Api]

    @model_validator(mode="after")
    def _names_are_safe(self) -> "Collection":
        if not COLLECTION_NAME.fullmatch(self.name):
            raise ValueError("name: allowed: a lower-case letter, then letters, digits and _, 40 at most")
        if not self.apis:
            raise ValueError("apis: found none, allowed: one and more")
        for identifier in self.apis:
            if not API_ID.fullmatch(identifier) or identifier in RESERVED:
                raise ValueError(f"apis: found {identifier!r}, allowed: letters a to z, digits, _ and ., 80 at most")
        names = [question.id for question in self.questions]
        if doubles := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"apis: {min(doubles)!r} is the name of two questions")
        return self

    @property
    def questions(self) -> list[ApiQuestion]:
        """Every partition, in the file's order."""
        return [question for identifier, api in self.apis.items() for question in _questions(identifier, api)]


def _questions(identifier: str, api: Api) -> Iterator[ApiQuestion]:
    if not api.each:
        yield ApiQuestion(identifier, identifier, api, {})
    for name, values in api.each.items():
        for value in values:
            slug = UNSAFE.sub("_", value.lower()).strip("_") or "_"
            yield ApiQuestion(f"{identifier}.{slug}"[:80], identifier, api, {name: value})


def parse_collection(text: str, file: str) -> Collection:
    """A collection from its YAML.

    Raises:
        ApiError: the YAML is wrong.
    """
    try:
        content = plain_yaml(text)
    except YamlError as error:
        raise ApiError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise ApiError(f"{file}: found {type(content).__name__}, allowed: a mapping with name and apis")
    try:
        return Collection.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        found = first.get("input")
        shown = f": found {found!r}" if isinstance(found, str | int | float) and len(str(found)) < 80 else ""
        raise ApiError(f"{file}: {place}{shown}: {first['msg'].removeprefix('Value error, ')}") from error
    except RecursionError:
        raise ApiError(f"{file}: {TOO_DEEP}") from None


@dataclass(frozen=True, slots=True)
class Override:
    """What somebody changed of one API without editing its file."""

    every: timedelta | None = None
    enabled: bool | None = None


def overridden(question: ApiQuestion, overrides: Mapping[str, Override]) -> ApiQuestion:
    """The question with the interval and the switch that an override of it, or of its API, gives."""
    override = overrides.get(question.id) or overrides.get(question.base)
    if override is None:
        return question
    changed = {"every": override.every, "enabled": override.enabled}
    update = {name: value for name, value in changed.items() if value is not None}
    return replace(question, api=question.api.model_copy(update=update))


def wait_after(every: timedelta, failures: int) -> timedelta:
    """The time from one attempt to the next: longer after three failures, an hour at most but never below `every`.

    >>> [wait_after(timedelta(minutes=1), failures) // timedelta(minutes=1) for failures in (0, 2, 3, 4, 20)]
    [1, 1, 2, 4, 60]
    """
    if failures < AFTER_FAILURES:
        return every
    return max(min(every * 2 ** min(failures - AFTER_FAILURES + 1, 16), LONGEST_BACKOFF), every)


def shortest_interval(questions: Sequence[ApiQuestion]) -> timedelta:
    """The interval of the most frequent API; an hour where none is switched on."""
    return min((question.api.every for question in questions if question.api.enabled), default=timedelta(hours=1))
