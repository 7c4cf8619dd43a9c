"""What the user chose: the only module that reads the environment, and the files that choices are kept in.

Priority: command line (the caller's part), environment, ~/.refresh/config.json, ./.env, ~/.env, defaults.
"""

import atexit
import difflib
import json
import logging
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import has_magic
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TextIO
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

PACKAGE = Path(__file__).resolve().parent
# The module that Dagster loads.
DEFINITIONS = f"{PACKAGE.name}.definitions"

# The collection of APIs that commands write.
CUSTOM = "custom"
# One planned event an asset instead of one a partition, and materialization events written in batches: without them a
# wide run spends ten times its work on Dagster's event log. Set wherever Dagster is started.
DAGSTER_VARIABLES = {"DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS": "1", "DAGSTER_EVENT_BATCH_SIZE": "1000"}


PREFIX = "REFRESH_"
SHORTEST_KEY = 16
# A variable between our own processes, hence no setting: digests of messages that are printed already.
SAID = "_REFRESH_SAID"
# "sqlite:x", "md:x", "http://x": DuckDB loads an extension for such a name. One letter is a drive of Windows.
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]+:")
LAKE_SCHEME, EXAMPLE_OF_A_LAKE = "ducklake:", "ducklake:postgresql://user@host/database?data=s3://bucket/prefix"
# Keys that open a door of ours; no neighbour is ever given one.
OWN_KEYS = (
    "REFRESH_API_KEY",
    "REFRESH_API_READ_KEY",
    "REFRESH_POSTGRES_URL",
    "REFRESH_REDIS_URL",
    "REFRESH_WAREHOUSE",
)
# Credentials that are names: a short one is an ordinary word, and no secret.
NAMES_OF_ACCOUNTS = ("REDIS_USERNAME", "SMTP_USERNAME", "AZURE_STORAGE_ACCOUNT_NAME", "GOOGLE_APPLICATION_CREDENTIALS")
SHORTEST_NAME = 8
# What a market's YAML may name besides the variables of REFRESH_YAML_VARIABLES: it may come from somebody else, and
# sends what it names to the address that it names.
VENUES_OWN = ("OANDA_TOKEN", "DHAN_CLIENT_ID", "DHAN_ACCESS_TOKEN")
SECRET_PREFIX = "REFRESH_SECRET_"  # noqa: S105 (a prefix of names)
PRIVATE_UMASK, PRIVATE_FOLDER = 0o077, 0o700
# Lists of secrets, and addresses whose parts are secrets.
PARTS = re.compile(r"[\s,]+")
SHORTEST_PART = 8

# What Kubernetes sets for a service of this name.
OF_SERVICES = "REFRESH_PIPELINE_"
# Names that begin like ours in a file of settings are meant for us; in the environment they may be another program's.
OUR_PREFIXES = (PREFIX, "OANDA_", "DHAN_", "DROPBOX_", "SLACK_", "SMTP_", "ALERT_")
ENVIRONMENT, DEFAULT = "environment", "default"
# Where object stores' clients find other addresses than the cloud's own.
CLOUD_ADDRESSES = (
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_METADATA_ENDPOINT",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_AUTHORITY_HOST",
    "IDENTITY_ENDPOINT",
    "MSI_ENDPOINT",
)

log = logging.getLogger("refresh_pipeline")
# It says that a line is wrong, not of which file; `setting_faults` does.
logging.getLogger("dotenv.main").setLevel(logging.ERROR)

# The secrets that this process has read: of the settings, and by name for markets.
_of_settings: list[str] = []
_by_name: dict[str, str] = {}
# What the newest settings were read from, and the settings: a refresh asks for them a dozen times, 7 ms each.
_newest: "tuple[tuple[object, ...], Settings] | None" = None


class SettingsError(ValueError):
    """A setting is wrong; the message names it, what was found and what is allowed."""


class Settings(BaseSettings):
    """Every setting there is, each under the name of its environment variable."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    data_dir: Path = Field(default=Path("data"), validation_alias="REFRESH_DATA_DIR")
    # A lake's address holds a password.
    warehouse_address: SecretStr | None = Field(default=None, validation_alias="REFRESH_WAREHOUSE")
    database_path: Path | None = Field(default=None, validation_alias="REFRESH_DATABASE")
    enabled_markets: str = Field(default="demo", validation_alias="REFRESH_MARKETS")
    markets_dir: Path | None = Field(default=None, validation_alias="REFRESH_MARKETS_DIR")
    # What a code location has: everything, markets alone, or maintenance, backup and alerts alone.
    role: Literal["all", "markets", "operations"] = Field(default="all", validation_alias="REFRESH_ROLE")
    enabled_collections: str = Field(default="", validation_alias="REFRESH_APIS")
    apis_dir: Path | None = Field(default=None, validation_alias="REFRESH_APIS_DIR")
    backup_dir: Path | None = Field(default=None, validation_alias="REFRESH_BACKUP_DIR")
    snapshot_path: Path | None = Field(default=None, validation_alias="REFRESH_SNAPSHOT")
    backups_kept: int = Field(default=3, ge=1, validation_alias="REFRESH_BACKUPS_KEPT")
    backups_kept_weekly: int = Field(default=4, ge=0, validation_alias="REFRESH_BACKUPS_KEPT_WEEKLY")
    backups_kept_monthly: int = Field(default=3, ge=0, validation_alias="REFRESH_BACKUPS_KEPT_MONTHLY")
    yaml_variables: str = Field(default="", validation_alias="REFRESH_YAML_VARIABLES")
    upload_url: str | None = Field(default=None, validation_alias="REFRESH_UPLOAD_URL")
    dropbox_refresh_token: SecretStr | None = Field(default=None, validation_alias="DROPBOX_REFRESH_TOKEN")
    dropbox_app_key: SecretStr | None = Field(default=None, validation_alias="DROPBOX_APP_KEY")
    dropbox_app_secret: SecretStr | None = Field(default=None, validation_alias="DROPBOX_APP_SECRET")
    dropbox_access_token: SecretStr | None = Field(default=None, validation_alias="DROPBOX_ACCESS_TOKEN")
    aws_access_key_id: SecretStr | None = Field(default=None, validation_alias="AWS_ACCESS_KEY_ID")
    aws_secret_access_key: SecretStr | None = Field(default=None, validation_alias="AWS_SECRET_ACCESS_KEY")
    aws_session_token: SecretStr | None = Field(default=None, validation_alias="AWS_SESSION_TOKEN")
    google_application_credentials: SecretStr | None = Field(
        default=None, validation_alias="GOOGLE_APPLICATION_CREDENTIALS"
    )
    azure_storage_account_name: SecretStr | None = Field(default=None, validation_alias="AZURE_STORAGE_ACCOUNT_NAME")
    azure_storage_account_key: SecretStr | None = Field(default=None, validation_alias="AZURE_STORAGE_ACCOUNT_KEY")
    redis_username: SecretStr | None = Field(default=None, validation_alias="REDIS_USERNAME")
    redis_password: SecretStr | None = Field(default=None, validation_alias="REDIS_PASSWORD")
    api_key: SecretStr | None = Field(default=None, validation_alias="REFRESH_API_KEY")
    api_read_key: SecretStr | None = Field(default=None, validation_alias="REFRESH_API_READ_KEY")
    api_host: str = Field(default="127.0.0.1", validation_alias="REFRESH_API_HOST")
    api_port: int = Field(default=8080, ge=1, le=65535, validation_alias="REFRESH_API_PORT")
    api_hosts: str = Field(default="", validation_alias="REFRESH_API_HOSTS")
    api_origins: str = Field(default="", validation_alias="REFRESH_API_ORIGINS")
    # Requests a second of one client; it may be ahead by four seconds.
    api_rate: float = Field(default=50.0, gt=0, le=1_000_000, validation_alias="REFRESH_API_RATE")
    # Newest candles of each series that the API keeps in memory.
    api_tail: int = Field(default=1000, ge=1, le=100_000, validation_alias="REFRESH_API_TAIL")
    dagster_url: str = Field(default="http://127.0.0.1:3000", validation_alias="REFRESH_DAGSTER_URL")
    # What runs print on the console; unset, what dagster.yaml says.
    run_log: Literal["warning", "info", "debug"] | None = Field(default=None, validation_alias="REFRESH_RUN_LOG")
    # Dagster's records of several machines: dagster-cluster.yaml reads it.
    postgres_url: SecretStr | None = Field(default=None, validation_alias="REFRESH_POSTGRES_URL")
    # What several machines share: the queue of runs and the limits of venues, which are in a folder without it.
    redis_url: SecretStr | None = Field(default=None, validation_alias="REFRESH_REDIS_URL")
    oanda_token: SecretStr | None = Field(default=None, validation_alias="OANDA_TOKEN")
    dhan_client_id: SecretStr | None = Field(default=None, validation_alias="DHAN_CLIENT_ID")
    dhan_access_token: SecretStr | None = Field(default=None, validation_alias="DHAN_ACCESS_TOKEN")
    slack_webhook_url: SecretStr | None = Field(default=None, validation_alias="SLACK_WEBHOOK_URL")
    alert_urls: SecretStr | None = Field(default=None, validation_alias="ALERT_URLS")
    smtp_host: str | None = Field(default=None, validation_alias="SMTP_HOST")
    smtp_port: int = Field(default=587, ge=1, le=65535, validation_alias="SMTP_PORT")
    smtp_security: Literal["starttls", "tls", "none"] | None = Field(default=None, validation_alias="SMTP_SECURITY")
    smtp_username: SecretStr | None = Field(default=None, validation_alias="SMTP_USERNAME")
    smtp_password: SecretStr | None = Field(default=None, validation_alias="SMTP_PASSWORD")
    smtp_from: str | None = Field(default=None, validation_alias="SMTP_FROM")
    alert_recipients: str | None = Field(default=None, validation_alias="ALERT_EMAIL_RECIPIENTS")

    @field_validator("api_key", "api_read_key")
    @classmethod
    def _is_long_enough(cls, keys: SecretStr | None) -> SecretStr | None:
        for key in (keys.get_secret_value() if keys else "").split(","):
            if 0 < len(key.strip()) < SHORTEST_KEY:
                raise ValueError(f"a key of {len(key.strip())} characters; allowed: {SHORTEST_KEY} or more")
        return keys

    @field_validator("dagster_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^/@?#\s]+/?", url):
            raise ValueError("allowed: http:// or https://, a host and a port, for instance http://127.0.0.1:3000")
        return url.rstrip("/")

    @field_validator("warehouse_address")
    @classmethod
    def _is_a_path_or_a_lake(cls, address: SecretStr | None) -> SecretStr | None:
        scheme = scheme_of(address.get_secret_value()) if address else ""
        if scheme not in ("", LAKE_SCHEME):
            raise ValueError(f"allowed: a path without a scheme, or {EXAMPLE_OF_A_LAKE}")
        return address

    @field_validator("data_dir", "database_path", "backup_dir", "snapshot_path", mode="before")
    @classmethod
    def _is_a_path(cls, path: object) -> object:
        if scheme_of(str(path)):
            raise ValueError("allowed: a path without a scheme")
        return path

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """See the module's docstring for the order."""
        config, *env_files = settings_files()
        return (
            init_settings,
            env_settings,
            InitSettingsSource(settings_cls, _config_file(config)),
            DotEnvSettingsSource(settings_cls, env_file=env_files),
        )

    @property
    def collection_names(self) -> list[str]:
        """The enabled collections of APIs, in order; last the one that commands write, where it exists."""
        names = [name.strip() for name in self.enabled_collections.split(",") if name.strip()]
        return [*names, *([CUSTOM] if CUSTOM not in names and self.custom_apis.is_file() else [])]

    @property
    def custom_apis(self) -> Path:
        """The file of the collection that commands write."""
        return self.data / "apis" / f"{CUSTOM}.yaml"

    @cached_property
    def data(self) -> Path:
        """The folder that everything is kept in."""
        return self.data_dir.expanduser().absolute()

    @cached_property
    def database(self) -> Path:
        """The DuckDB file; for what copies or restores it. Everybody else goes by `warehouse`.

        Raises:
            SettingsError: the warehouse is a lake.
        """
        if self.is_lake:
            raise SettingsError("the warehouse is a lake, and no file: a lake is copied and restored with its database")
        chosen = Path(self.warehouse_address.get_secret_value()) if self.warehouse_address else self.database_path
        return (chosen or self.data / "refresh.duckdb").expanduser().absolute()

    @cached_property
    def warehouse(self) -> str:
        """The address of the warehouse, which may hold a password: what `place_of` and `connect` take."""
        address = self.warehouse_address.get_secret_value() if self.is_lake and self.warehouse_address else ""
        return address or str(self.database)

    @property
    def is_lake(self) -> bool:
        """Whether the warehouse is a lake, which several machines may share."""
        return bool(self.warehouse_address) and scheme_of(self.warehouse_address.get_secret_value()) == LAKE_SCHEME

    @property
    def exports_dir(self) -> Path:
        """Where export files are written."""
        return self.data / "exports"

    @property
    def backups(self) -> Path:
        """Where backups are kept, a folder each."""
        return (self.backup_dir or self.data / "backups").expanduser().absolute()

    @property
    def snapshot(self) -> Path | None:
        """The readers' copy of the warehouse, renewed after each publish; None for no copy."""
        return self.snapshot_path.expanduser().absolute() if self.snapshot_path else None

    @property
    def limits_dir(self) -> Path:
        """Where processes share what they used of a venue's limits."""
        return self.data / "limits"

    @property
    def live_dir(self) -> Path:
        """Where live runs say how the API reaches their memory."""
        return self.data / "live"

    @cached_property
    def market_names(self) -> list[str]:
        """The markets that are loaded."""
        return [name.strip() for name in self.enabled_markets.split(",") if name.strip()]


def scheme_of(path: str) -> str:
    """The scheme that a path starts with, its colon included; empty for a path of this machine.

    >>> scheme_of("sqlite:x"), scheme_of("http://x/y"), scheme_of("data/x.duckdb"), scheme_of("C:/x")
    ('sqlite:', 'http:', '', '')
    """
    found = SCHEME.match(path.strip())
    return found[0] if found else ""


def settings_files() -> list[Path]:
    """The files that settings are read from, whether they are there or not; of two .env files the later one wins."""
    home = Path.home()
    return [home / ".refresh" / "config.json", home / ".env", Path(".env")]


def wants_colors(stream: TextIO | None) -> bool:
    """Whether text on this stream may be coloured: a terminal, and NO_COLOR is not set (https://no-color.org)."""
    return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")


def child_environment(
    settings: Settings, *, markets_named: bool, ignored_warning: str = "", said: Sequence[str] = ()
) -> dict[str, str]:
    """This process's environment, with what the command line chose, for processes that it starts.

    Args:
        settings: with the command line's choices.
        markets_named: whether the command line names the markets; otherwise a process that starts later reads them
            from the settings, which may have changed by then.
        ignored_warning: a filter of Python's warnings, added to those of PYTHONWARNINGS.
        said: messages that this process has printed and that the others need not repeat.
    """
    markets = {"REFRESH_MARKETS": settings.enabled_markets} if markets_named else {}
    chosen = {"REFRESH_DATA_DIR": str(settings.data), SAID: ",".join(map(_digest, said)), **markets}
    filters = [text for text in (os.environ.get("PYTHONWARNINGS"), ignored_warning) if text]
    return {**os.environ, **chosen, **({"PYTHONWARNINGS": ",".join(filters)} if filters else {})}


def was_said(message: str) -> bool:
    """Whether the process that started this one has printed the message already."""
    return _digest(message) in os.environ.get(SAID, "").split(",")


def _digest(message: str) -> str:
    return sha256(message.encode()).hexdigest()[:16]


def credentials(settings: Settings) -> dict[str, str]:
    """Every secret that is set and opens a neighbour, by the name of its environment variable."""
    secrets = {str(field.validation_alias): getattr(settings, name) for name, field in Settings.model_fields.items()}
    return {
        name: each.get_secret_value().strip()
        for name, each in secrets.items()
        if isinstance(each, SecretStr) and name not in OWN_KEYS
    }


def load_settings(**chosen: Any) -> Settings:
    """Settings from every place they may be in; `chosen` are the command line's.

    Raises:
        SettingsError: a value is not of its kind, or ~/.refresh/config.json cannot be read.
    """
    withdraw_injected()
    fields = Settings.model_fields
    given = {str(fields[name].validation_alias): value for name, value in chosen.items() if value is not None}
    settings = _read_settings(given)
    _of_settings[:] = _secrets_of(settings)
    for name in list(_by_name):
        secret(name)
    return settings


def _read_settings(given: dict[str, Any]) -> Settings:
    """Read anew unless every place says what it said before; folders are relative to the working directory."""
    global _newest  # noqa: PLW0603 (one process has one environment)
    places = _contents_of_places(given)
    newest = _newest
    if newest and newest[0] == places:
        return newest[1]
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsError("\n".join(_explained(fault) for fault in error.errors())) from None
    # A file that changes meanwhile has the new content the next time, which then differs.
    _newest = (places, settings) if places else None
    return settings


def _contents_of_places(given: dict[str, Any]) -> tuple[object, ...]:
    """Everything that settings are read from; nothing where a file cannot be read, which is told each time."""
    files: list[bytes | None] = []
    for file in settings_files():
        try:
            files.append(file.read_bytes())
        except FileNotFoundError:
            files.append(None)
        except OSError:
            return ()
    return (Path.cwd(), dict(os.environ), files, given)


def withdraw_injected() -> None:
    """Take back what Dagster has copied from ./.env over the environment, so that settings have one order everywhere.

    Dagster's programs do so, even where a variable was set. Other programs' variables stay.
    """
    copied = dotenv_values(".env")
    listed = copied.get("REFRESH_YAML_VARIABLES") or _at_start.get("REFRESH_YAML_VARIABLES") or ""
    ours = {str(field.validation_alias) for field in Settings.model_fields.values()} | set(PARTS.split(listed.upper()))
    for name, value in copied.items():
        before = _at_start.get(name)
        is_ours = name in ours or name.startswith(SECRET_PREFIX)
        if not is_ours or value is None or os.environ.get(name) != value or before == value:
            continue
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def secret(name: str) -> str | None:
    """A credential by the name of its setting, from every place that settings are kept in; None if it is not set.

    Any name is allowed: a market's YAML may name a key of its own.

    Raises:
        SettingsError: the value is no text, or ~/.refresh/config.json cannot be read.
    """
    config, *env_files = settings_files()
    places = (
        EnvSettingsSource(Settings).env_vars,
        {key.lower(): value for key, value in _config_file(config).items()},
        DotEnvSettingsSource(Settings, env_file=env_files).env_vars,
    )
    value = next((place[name.lower()] for place in places if place.get(name.lower())), None)
    if value is not None and not isinstance(value, str):
        raise SettingsError(f"{name}: found a value that is not shown; allowed: a text")
    _by_name.pop(name, None)
    if value and value.strip():
        _by_name[name] = value.strip()
    return value.strip() if value else None


@dataclass(frozen=True, slots=True)
class SettingOrigin:
    """A setting, the value that counts, and the place that it comes from; a secret's value is not shown."""

    name: str
    value: str
    place: str


def setting_origins(settings: Settings) -> list[SettingOrigin]:
    """Every setting with its value and place: environment, a file, or default.

    Raises:
        SettingsError: ~/.refresh/config.json cannot be read.
    """
    places = list(_places())
    return [
        SettingOrigin(
            str(field.validation_alias),
            _shown_value(settings, name),
            next((place for place, values in places if values.get(str(field.validation_alias))), DEFAULT),
        )
        for name, field in Settings.model_fields.items()
    ]


def setting_faults() -> list[str]:
    """A sentence for each setting that does nothing, as no setting has its name, and each line that is none.

    Raises:
        SettingsError: ~/.refresh/config.json cannot be read.
    """
    known = [str(field.validation_alias) for field in Settings.model_fields.values()]
    allowed = {*known, *(part.strip().upper() for part in load_settings().yaml_variables.split(","))}
    sentences = [sentence for file in settings_files()[1:] for sentence in _wrong_lines(file)]
    for place, values in _places():
        for name in values:
            if name not in allowed and _is_meant_for_us(name, place, known):
                sentences.append(f"{name} ({place}) is no setting and does nothing{_nearest(name, known)}")
    return sentences


def _places() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every place of settings, the most important first, with the names (upper case) and values that it has."""
    config, *env_files = settings_files()
    places: list[tuple[str, Mapping[str, Any]]] = [(ENVIRONMENT, EnvSettingsSource(Settings).env_vars)]
    places.append((str(config), _config_file(config)))
    places += [(str(file), DotEnvSettingsSource(Settings, env_file=file).env_vars) for file in reversed(env_files)]
    for place, values in places:
        yield place, {name.upper(): value for name, value in values.items()}


def _shown_value(settings: Settings, name: str) -> str:
    paths: dict[str, object] = {"data_dir": settings.data, "backup_dir": settings.backups}
    if not settings.is_lake:
        paths["database_path"] = settings.database
    if name == "warehouse_address" and settings.warehouse_address:
        return re.sub(r"(//[^/@:]*):[^@]*@", r"\1:***@", settings.warehouse)
    value = paths.get(name, getattr(settings, name))
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    return "" if value is None else str(value)


def _is_meant_for_us(name: str, place: str, known: list[str]) -> bool:
    if name.startswith((SECRET_PREFIX, OF_SERVICES)):
        return False
    if place == ENVIRONMENT:
        return name.startswith(PREFIX)
    is_config = place.endswith(".json")
    return name.startswith(OUR_PREFIXES) or (is_config and bool(_close(name, known)))


def _nearest(name: str, known: list[str]) -> str:
    near = _close(name, known)
    return f"; did you mean {near[0]}?" if near else "; refresh settings lists every setting"


def _close(name: str, known: list[str]) -> list[str]:
    return difflib.get_close_matches(PREFIX + _short(name), known, n=1, cutoff=0.8) or difflib.get_close_matches(
        name, known, n=1, cutoff=0.8
    )


def _wrong_lines(file: Path) -> Iterator[str]:
    """A sentence for each line of a .env file that is no setting; the line may hold a secret and is not shown."""
    try:
        text = file.open(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    with text:
        for binding in parse_stream(text):
            if binding.error:
                yield f"{file}: line {binding.original.line} is no setting and does nothing; write NAME=value"


def is_open_to_markets(name: str) -> bool:
    """Whether a market's YAML may name this variable: a venue's own, REFRESH_SECRET_..., or REFRESH_YAML_VARIABLES.

    Raises:
        SettingsError: the settings cannot be read.
    """
    name = name.upper()
    if name in VENUES_OWN or name.startswith(SECRET_PREFIX):
        return True
    return name in {listed.strip().upper() for listed in load_settings().yaml_variables.split(",")}


def keep_files_private() -> None:
    """Make every file that this process and its children write readable by this user alone."""
    os.umask(PRIVATE_UMASK)


def end_quietly() -> None:
    """Send what libraries print while the interpreter ends to nowhere.

    DuckDB's bindings list objects that Dagster still holds then ("nanobind: leaked 27 instances"), 39 lines after a
    program that has succeeded. Call it first: what is registered first runs last.
    """
    atexit.register(_close_standard_error)


def _close_standard_error() -> None:
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def make_private(folder: Path) -> None:
    """Make the data folder, or shut an existing one of this user's for other users; says so in the log.

    Another user who reads the warehouse's file can hold its lock, and stops every refresh. Not shut are this user's
    home, the folders above it, and folders that are made for everybody, such as /tmp.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    found = folder.stat()
    above = {Path.home(), *Path.home().parents, *Path.cwd().parents}
    is_open, is_for_all = found.st_mode & PRIVATE_UMASK, found.st_mode & stat.S_ISVTX
    if not is_open or is_for_all or folder in above or found.st_uid != os.geteuid():
        return
    folder.chmod(PRIVATE_FOLDER)
    log.warning("%s was open to other users of this machine; its mode is 0700 now", folder)


def known_secrets() -> list[str]:
    """The secrets that this process has read last, lists and addresses also by their parts."""
    return [*_of_settings, *_by_name.values()]


def _secrets_of(settings: Settings) -> list[str]:
    values: set[str] = set()
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        text = value.get_secret_value().strip() if isinstance(value, SecretStr) else ""
        if name == "warehouse_address":
            # Its other parts are names.
            text = unquote(urlsplit(text.removeprefix(LAKE_SCHEME)).password or "") if settings.is_lake else ""
        if field.validation_alias in NAMES_OF_ACCOUNTS and len(text) < SHORTEST_NAME:
            continue
        values |= {text, *PARTS.split(text)}
        if "://" in text:
            # A scheme is no secret: messages name PostgreSQL.
            parts = re.split(r"[/?&=@:,\s]+", re.sub(r"[a-zA-Z][\w+.-]*://", " ", text))
            values |= {part for part in parts if len(part) >= SHORTEST_PART and "." not in part}
    return sorted(filter(None, values))


def _explained(fault: Any) -> str:
    name = str(fault["loc"][0])
    # What is not our own setting is somebody's credential.
    found = repr(fault["input"]) if name.startswith(PREFIX) and name not in OWN_KEYS else "a value that is not shown"
    return f"{name}: found {found}; {fault['msg']}"


def _config_file(file: Path) -> dict[str, Any]:
    """What the user's config.json says; REFRESH_MARKETS may be called markets in it."""
    if not file.is_file():
        return {}
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(said, dict):
        raise SettingsError(
            f'{file}: found {type(said).__name__}, allowed: an object, for instance {{"markets": "demo"}}'
        )
    names = {_short(str(field.validation_alias)): field.validation_alias for field in Settings.model_fields.values()}
    return {str(names.get(_short(name), name)): value for name, value in said.items() if value is not None}


def _short(name: str) -> str:
    return name.upper().removeprefix(PREFIX)


def prepare_dagster(settings: Settings) -> Path:
    """Let this process and its children use the project's Dagster instance; gives its folder.

    Without DAGSTER_HOME that is `<data dir>/dagster`, with a copy of the shipped dagster.yaml, which stays the user's
    to change.

    Raises:
        SettingsError: Dagster would read the folder's path as another one.
    """
    set_dagster_variables()
    chosen = os.environ.get("DAGSTER_HOME")
    home = dagster_home(settings)
    name = "DAGSTER_HOME" if chosen else "REFRESH_DATA_DIR or --data-dir"
    if has_magic(str(home)):
        raise SettingsError(
            f"{name}: found {home}; allowed: a path without * ? [, as Dagster finds no dagster.yaml in such a folder"
        )
    if unquote(str(home)) != str(home):
        raise SettingsError(
            f"{name}: found {home}; allowed: a path without % before two hex digits, which Dagster reads as one letter"
        )
    keep_files_private()
    make_private(settings.data)
    home.mkdir(parents=True, exist_ok=True)
    # Dagster itself takes an absolute path alone, and reads no settings but the environment.
    os.environ["DAGSTER_HOME"] = str(home)
    shared = {"REFRESH_POSTGRES_URL": settings.postgres_url, "REFRESH_REDIS_URL": settings.redis_url}
    os.environ |= {name: url.get_secret_value() for name, url in shared.items() if url}
    if not chosen and not (home / "dagster.yaml").exists():
        # Another process that starts at the same time must not read half of it.
        part = home / f"dagster.yaml.{os.getpid()}"
        part.write_text(shipped("dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        part.replace(home / "dagster.yaml")
    return home


def dagster_home(settings: Settings) -> Path:
    """The folder of Dagster's own files: DAGSTER_HOME, or `<data dir>/dagster`."""
    chosen = os.environ.get("DAGSTER_HOME")
    return Path(chosen or settings.data / "dagster").expanduser().absolute()


def set_dagster_variables() -> None:
    """Set what makes wide runs cheap, unless the user set it otherwise."""
    for name, value in DAGSTER_VARIABLES.items():
        os.environ.setdefault(name, value)


def environment_with(**variables: str) -> dict[str, str]:
    """This process's environment with these variables set, for a child process."""
    return os.environ | variables


def cloud_addresses() -> list[str]:
    """The addresses that the environment sets for object stores and for the services that issue their credentials."""
    return [address for name in CLOUD_ADDRESSES if "://" in (address := os.environ.get(name, ""))]


def object_store_access() -> dict[str, str]:
    """What DuckDB's client of S3 is to be told: key, secret, token, region, endpoint; only what is set."""
    settings, named = load_settings(), os.environ.get
    endpoint = urlsplit(named("AWS_ENDPOINT_URL_S3") or named("AWS_ENDPOINT_URL") or named("AWS_ENDPOINT") or "")
    secrets = {
        "key_id": settings.aws_access_key_id,
        "secret": settings.aws_secret_access_key,
        "session_token": settings.aws_session_token,
    }
    access = {name: value.get_secret_value() for name, value in secrets.items() if value}
    access["region"] = named("AWS_REGION") or named("AWS_DEFAULT_REGION") or ""
    if endpoint.netloc:
        access |= {"endpoint": endpoint.netloc, "url_style": "path", "use_ssl": str(endpoint.scheme == "https").lower()}
    return {name: value for name, value in access.items() if value}


def system_proxy(url: str) -> str:
    """The proxy that this machine's settings (HTTPS_PROXY, NO_PROXY and others) name for an address; empty for none."""
    parts = urlsplit(url)
    proxies = getproxies()
    return "" if proxy_bypass(parts.netloc) else proxies.get(parts.scheme, proxies.get("all", ""))


def event_log_dir() -> Path:
    """Where Dagster keeps its event log unless dagster.yaml says otherwise: the same folder as the shipped class.

    Without DAGSTER_HOME, `dagster dev` and its like have just made a temporary home in the current folder.
    """
    made = sorted(Path.cwd().glob(".tmp_dagster_home_*"), key=lambda path: path.stat().st_ctime_ns)
    home = os.environ.get("DAGSTER_HOME") or (made[-1] if made else load_settings().data / "dagster")
    return Path(home) / "history" / "runs"


def shipped(name: str) -> Path:
    """A file that lies beside the package in the repository, and inside it once installed."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name


def _starting_environment() -> dict[str, str]:
    """The environment that this process was started with; where the system does not keep it, the one of now."""
    try:
        pairs = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    return dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)


_at_start = _starting_environment()
# Dagster's daemon imports this module through its storages: the programs that it starts get an environment as it was.
withdraw_injected()
