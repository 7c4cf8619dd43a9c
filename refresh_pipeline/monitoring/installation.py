"""What `refresh doctor` examines: the installation, its files, its ports, its markets and their venues. No Dagster."""

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile

from refresh_pipeline.destinations.upload_url import OFF
from refresh_pipeline.instance.data_lock import holder_of
from refresh_pipeline.instance.instance_file import missing_instance_keys
from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.monitoring.status import calendar_warnings
from refresh_pipeline.pipeline.market_validation import missing_credentials, require_usable
from refresh_pipeline.pipeline.uploads_off import former_uploads, markets_without_uploads
from refresh_pipeline.settings import Settings, dagster_home, setting_faults, shipped
from refresh_pipeline.sources.registry import base_urls
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable, connect, place_of

PACKAGES = ("dagster", "duckdb", "numpy", "TA-Lib", "httpx")
OPTIONAL = ("pandas", "ccxt", "obstore", "arro3-io", "redis", "apprise")
OLDEST_PYTHON = (3, 11)
# Below it a refresh of many series may not fit: exports are written beside the older ones.
LOW_SPACE = 2_000_000_000
WEB_PORT = 3000
SECONDS_FOR_VENUE = 5.0
CLOCK_OFF = timedelta(seconds=5)


class Health(StrEnum):
    """How a finding is judged."""

    ok = "ok"
    warning = "warning"
    failed = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined."""

    subject: str
    health: Health
    text: str


def examine(settings: Settings, markets: Sequence[Market], *, offline: bool) -> Iterator[Finding]:
    """Every finding, the slow ones last.

    Args:
        settings: where the files are.
        markets: the enabled markets whose files are right.
        offline: leave the venues alone.
    """
    yield _python()
    yield from _packages()
    yield from _settings()
    yield _folder("data folder", settings.data)
    yield _space(settings.data)
    yield _warehouse(settings.warehouse)
    yield _service(settings.data)
    yield from _ports(settings)
    yield _instance_file(settings)
    for market in markets:
        yield from _market(settings, market)
    yield from _uploads(settings, markets)
    if not offline:
        for host, names in _venues(settings, markets).items():
            yield from _venue(host, names)


# ---- the program


def _python() -> Finding:
    text = f"{platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    is_old = sys.version_info[:2] < OLDEST_PYTHON
    return Finding("python", Health.failed if is_old else Health.ok, text)


def _packages() -> Iterator[Finding]:
    installed = {name: _version(name) for name in (*PACKAGES, *OPTIONAL)}
    missing = [name for name in PACKAGES if not installed[name]]
    text = ", ".join(f"{name} {installed[name]}" for name in PACKAGES if installed[name])
    if missing:
        yield Finding("packages", Health.failed, f"missing: {', '.join(missing)}; install refresh-pipeline again")
    else:
        yield Finding("packages", Health.ok, text)
    extras = [f"{name} {installed[name]}" for name in OPTIONAL if installed[name]]
    yield Finding("optional packages", Health.ok, ", ".join(extras) or "none")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _settings() -> Iterator[Finding]:
    sentences = setting_faults()
    if not sentences:
        yield Finding("settings", Health.ok, "every name is known")
    for sentence in sentences:
        yield Finding("settings", Health.warning, sentence)


# ---- files


def _folder(subject: str, folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(subject, Health.failed, f"{existing} is no folder that this user can write")
    if existing != folder:
        return Finding(subject, Health.ok, f"{folder} does not exist yet; the first refresh creates it")
    try:
        NamedTemporaryFile(dir=folder).close()
    except OSError as error:
        return Finding(subject, Health.failed, f"{folder}: {error.strerror}")
    return Finding(subject, Health.ok, f"{folder} is writable")


def _space(folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / 1e9:,.1f} GB free"
    if free < LOW_SPACE:
        return Finding("disk", Health.warning, f"{text}; make room, or set REFRESH_DATA_DIR to another disk")
    return Finding("disk", Health.ok, text)


def _warehouse(address: str) -> Finding:
    place = place_of(address)
    if not place.exists:
        return Finding("warehouse", Health.ok, f"{place.name} does not exist yet; the first refresh creates it")
    try:
        with connect(address, read_only=True, patience=1.0) as connection:
            connection.execute("select 1").fetchall()
    except WarehouseBusy as error:
        return Finding("warehouse", Health.warning, str(error))
    except WarehouseUnreadable as error:
        return Finding("warehouse", Health.failed, str(error))
    return Finding("warehouse", Health.ok, f"{place.name}, {place.bytes / 1e6:,.1f} MB, opens")


def _instance_file(settings: Settings) -> Finding:
    missing = missing_instance_keys(dagster_home(settings) / "dagster.yaml")
    if missing:
        text = f"dagster.yaml lacks {', '.join(missing)}; compare it with {shipped('dagster.yaml')}"
        return Finding("dagster.yaml", Health.warning, text)
    return Finding("dagster.yaml", Health.ok, f"{dagster_home(settings)}")


# ---- processes


def _service(folder: Path) -> Finding:
    holder = holder_of(folder)
    return Finding("service", Health.ok, f"{holder} runs on the data folder" if holder else "refresh up does not run")


def _ports(settings: Settings) -> Iterator[Finding]:
    if holder_of(settings.data):
        return
    for port, what in {WEB_PORT: "the web UI", settings.api_port: "the API"}.items():
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                server.bind(("127.0.0.1", port))
            except OSError as error:
                yield Finding(f"port {port}", Health.warning, f"{error.strerror}; {what} needs another port")
            else:
                yield Finding(f"port {port}", Health.ok, f"free for {what}")


# ---- markets


def _market(settings: Settings, market: Market) -> Iterator[Finding]:
    subject = f"market {market.name}"
    try:
        require_usable(settings, market)
    except MarketError as error:
        yield Finding(subject, Health.failed, str(error))
        return
    if unset := missing_credentials(market):
        yield Finding(subject, Health.failed, f"{', '.join(unset)} not set; {market.source.kind} refuses without")
    warnings = calendar_warnings([market], datetime.now(UTC))
    for warning in warnings:
        yield Finding(subject, Health.warning, warning.partition(": ")[2])
    if not unset and not warnings:
        yield Finding(subject, Health.ok, f"{len(market.series)} series of {market.source.kind}")


def _uploads(settings: Settings, markets: Sequence[Market]) -> Iterator[Finding]:
    without = markets_without_uploads(settings, markets)
    if not without:
        return
    names = ", ".join(market.name for market in without)
    yield Finding("uploads", Health.ok, f"{names}: {OFF}")
    if sentence := former_uploads(settings):
        yield Finding("uploads", Health.warning, sentence)


def _venues(settings: Settings, markets: Sequence[Market]) -> dict[str, list[str]]:
    """The addresses of the markets' sources, each with the markets that ask it."""
    addresses: dict[str, list[str]] = {}
    for market in markets:
        for url in base_urls(market, settings.limits_dir):
            addresses.setdefault(url, []).append(market.name)
    return addresses


def _venue(url: str, names: Sequence[str]) -> Iterator[Finding]:
    """Whether the host answers, and how far this machine's clock is from its."""
    import httpx  # noqa: PLC0415 (imports take a while)

    subject = f"venue of {', '.join(names)}"
    try:
        response = httpx.head(url, timeout=SECONDS_FOR_VENUE)
    except httpx.HTTPError as error:
        yield Finding(subject, Health.failed, f"{url} does not answer: {error or type(error).__name__}")
        return
    yield Finding(subject, Health.ok, f"{url} answers")
    if date := response.headers.get("date"):
        yield _clock(subject, datetime.now(UTC) - parsedate_to_datetime(date))


def _clock(subject: str, lead: timedelta) -> Finding:
    # The header counts whole seconds.
    if abs(lead) > CLOCK_OFF:
        text = f"this machine's clock differs by {lead.total_seconds():+,.0f} s; set it by NTP"
        return Finding(f"clock ({subject})", Health.failed, text)
    return Finding(f"clock ({subject})", Health.ok, "agrees within 5 s")
