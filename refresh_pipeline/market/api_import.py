"""Catalogues of links to APIs, as the tracker that this product replaces kept them: brought in, and given out.

An entry has a base URL and endpoints with placeholders; its key stands in the file. Questions without a placeholder
come in ready to be asked. Keys never come in: the name of a setting takes the place of each.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from refresh_pipeline.market.apis import UNSAFE, VARIABLE, Api, ApiError, ApiQuestion, parse_collection

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
# Names of placeholders that stand for the key.
OF_KEYS = re.compile(r"(api[_-]?)?key|apikey|token|project[_-]?id", re.IGNORECASE)
OWN_SERVER = re.compile(r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(?=[:/]|$)")
OPTIONAL = "Optional"
DESCRIPTION = "Imported; each question is switched on where it can be asked as it is."


@dataclass(slots=True)
class ImportReport:
    """What became of a catalogue's entries.

    `questions` counts endpoints: those asked as they are, those that wait for a parameter, for a key, and POST.
    `left_out` and `renamed` give reasons and new names by entry.
    """

    read: int = 0
    own_routes: int = 0
    considered: int = 0
    with_endpoints: int = 0
    keys_removed: int = 0
    questions: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """The report for people."""
        asked = self.questions
        return [
            f"{self.read} entries read, {self.own_routes} routes of the catalogue's own server left out, "
            f"{self.considered} considered",
            f"{self.with_endpoints} have endpoints: {asked.total()} questions ({asked['ready']} asked as they are, "
            f"{asked['parameter']} wait for a parameter, {asked['key']} for a key, {asked['post']} are POST)",
            f"{self.keys_removed} keys removed",
            *(f"renamed: {before!r} is {after!r}" for before, after in self.renamed.items()),
            *(f"left out: {name}: {reason}" for name, reason in self.left_out.items()),
        ]


def import_catalogue(text: str, name: str, file: str) -> tuple[str, ImportReport]:
    """A collection's YAML from a catalogue's JSON, and the report of what became of its entries.

    Raises:
        ApiError: it is no JSON, or no entry of it has a question.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ApiError(f"{file}: found no JSON: {error}; allowed: a catalogue of APIs in JSON") from error
    report, apis = ImportReport(), {}
    taken: set[str] = set()
    for section, entry in _entries(content):
        report.read += 1
        if _is_own_route(section, entry):
            report.own_routes += 1
            continue
        report.considered += 1
        identifier = _identifier(entry, taken, report)
        apis |= _apis_of(identifier, section, entry, report)
    if not apis:
        raise ApiError(
            f"{file}: found no entry with an endpoint, allowed: lists of entries with id, base_url, endpoints"
        )
    shown = yaml.safe_dump(
        {"name": name, "description": DESCRIPTION, "apis": apis}, sort_keys=False, allow_unicode=True
    )
    parse_collection(shown, file)
    return shown, report


def _entries(content: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every entry with the name of its section, wherever the sections lie."""
    if isinstance(content, dict):
        for section, part in content.items():
            if isinstance(part, list):
                yield from ((section, entry) for entry in part if isinstance(entry, dict) and "id" in entry)
            elif isinstance(part, dict):
                yield from _entries(part)


def _is_own_route(section: str, entry: Mapping[str, Any]) -> bool:
    url = str(entry.get("base_url") or "")
    return "local" in section or "backend" in section or url.startswith("/") or bool(OWN_SERVER.match(url))


def _identifier(entry: Mapping[str, Any], taken: set[str], report: ImportReport) -> str:
    """The entry's id as letters, digits and _, another one where it is taken."""
    former = str(entry["id"])
    plain = UNSAFE.sub("_", former.lower().replace(".", "_")).strip("_")[:50] or "api"
    identifier, number = plain, 2
    while identifier in taken:
        identifier, number = f"{plain}_{number}", number + 1
    taken.add(identifier)
    if identifier != former:
        report.renamed[former] = identifier
    return identifier


def _apis_of(identifier: str, section: str, entry: Mapping[str, Any], report: ImportReport) -> dict[str, Any]:
    """The questions of one entry, by the names that they get."""
    auth = entry.get("auth") if isinstance(entry.get("auth"), dict) else {}
    key = str((auth or {}).get("key") or "")
    report.keys_removed += bool(key)
    url = str(entry.get("base_url") or "").strip()
    if not url.startswith(("http://", "https://")):
        report.left_out[identifier] = f"found the URL {url[:40]!r}, allowed: http:// and https://" if url else "no URL"
        return {}
    endpoints = list(_endpoints(entry.get("endpoints")))
    report.with_endpoints += bool(endpoints)
    variable = f"{identifier.upper()}_API_KEY"
    apis: dict[str, Any] = {}
    for name, path, is_post in endpoints:
        address = path if path.startswith("http") else f"{url.rstrip('/')}/{path.lstrip('/')}"
        address = address.replace(key, f"${variable}") if len(key) >= 8 else address
        apis |= _api(f"{identifier}.{name}", (address, is_post), auth or {}, variable, report)
    for api in apis.values():
        api |= {"name": str(entry.get("name") or identifier), "category": str(entry.get("category") or section)}
        api["docs"] = str(entry.get("docs_url") or "")
        api["notes"] = _without(str(entry.get("notes") or ""), key)
    return apis


def _without(text: str, key: str) -> str:
    return text.replace(key, "***") if len(key) >= 8 else text


def _endpoints(endpoints: Any) -> Iterator[tuple[str, str, bool]]:
    """The name, the path and whether it is a POST of each endpoint."""
    pairs: Sequence[tuple[Any, Any]] = list(endpoints.items()) if isinstance(endpoints, dict) else []
    for name, value in pairs:
        described = value if isinstance(value, dict) else {"path": value}
        path = str(described.get("path") or described.get("url") or "").strip()
        method = str(described.get("method") or ("POST" if path.upper().startswith("POST ") else "GET")).upper()
        if path:
            plain = UNSAFE.sub("_", str(name).lower()).strip("_")[:25] or "endpoint"
            yield plain, path.removeprefix("POST ").removeprefix("GET ").strip(), method == "POST"


def _api(
    name: str, endpoint: tuple[str, bool], auth: Mapping[str, Any], variable: str, report: ImportReport
) -> dict[str, dict[str, Any]]:
    """One question; nothing where it cannot be put without somebody's help."""
    address, is_post = endpoint
    kind = str(auth.get("type") or "none")
    api: dict[str, Any] = {}
    address, wants_key = _with_key(address, variable)
    if kind.startswith(("apiKeyQuery", "apiKeyHeader")) and not wants_key:
        wants_key = not kind.endswith(OPTIONAL)
        place = ("params", auth.get("param_name")) if "Query" in kind else ("headers", auth.get("header_name"))
        if wants_key and place[1]:
            api[place[0]] = {str(place[1]): f"${variable}"}
    placeholders = sorted(set(PLACEHOLDER.findall(address)))
    state = "post" if is_post else "parameter" if placeholders else "key" if wants_key else "ready"
    report.questions[state] += 1
    if is_post or len(placeholders) > 1 or any(not part.isidentifier() for part in placeholders) or " " in address:
        reason = "POST needs a body" if is_post else f"needs values for {', '.join(placeholders) or 'its address'}"
        report.left_out[name] = f"{reason}; write it by hand"
        return {}
    api = {"url": address.partition("#")[0], "every": "1h", "enabled": state == "ready", **api}
    return {name: api | ({"each": {placeholders[0]: []}} if placeholders else {})}


def _with_key(address: str, variable: str) -> tuple[str, bool]:
    """The address with the setting's name in place of placeholders for a key, and whether it has one."""
    shown = PLACEHOLDER.sub(lambda match: f"${variable}" if OF_KEYS.fullmatch(match[1]) else match[0], address)
    return shown, bool(VARIABLE.search(shown))


def tracker_entry(identifier: str, api: Api) -> dict[str, Any]:
    """An API as the tracker's catalogue had it; keys are masked.

    >>> tracker_entry("a", Api(url="https://a.example/x", params={"k": "$MY_KEY"}))["auth"]
    {'type': 'apiKeyQuery', 'key': '***', 'param_name': 'k'}
    """
    return {
        "id": identifier,
        "name": api.name or identifier,
        "category": api.category or "other",
        "base_url": VARIABLE.sub("***", api.url),
        "auth": _auth(api),
        "docs_url": api.docs or None,
        "endpoints": None,
        "notes": api.notes or None,
        "priority": 1,
        "update_type": _update_type(api),
        "enabled": api.enabled,
    }


def _auth(api: Api) -> dict[str, Any]:
    places = (("apiKeyQuery", "param_name", api.params), ("apiKeyHeader", "header_name", api.headers))
    for kind, place, values in places:
        if named := next((name for name, value in values.items() if VARIABLE.search(value)), None):
            return {"type": kind, "key": "***", place: named}
    return {
        "type": "apiKeyPath" if VARIABLE.search(api.url) else "none",
        "key": "***" if VARIABLE.search(api.url) else None,
    }


def _update_type(api: Api) -> str:
    seconds = api.every.total_seconds()
    return "daily" if seconds >= 86_400 else "scheduled" if seconds >= 3600 else "periodic"


def export_catalogue(questions: Sequence[ApiQuestion]) -> str:
    """The APIs of these questions as JSON in the tracker's shape, with keys masked."""
    apis = {question.base: question.api for question in questions}
    content = {"apis": [tracker_entry(name, api) for name, api in apis.items()], "total": len(apis)}
    return json.dumps(content, indent=2, ensure_ascii=False)
