"""Who may ask the API, as the settings say."""

from refresh_pipeline.api.guard import OpenDoor, Rules, host_names, is_loopback
from refresh_pipeline.api.login import Keys
from refresh_pipeline.settings import Settings

# No key is needed to look whether the process lives.
PUBLIC = frozenset({"/health", "/api/v1/health", "/api/v1/ready", "/api/v1/session"})
PUBLIC_FOLDERS = ("/static/",)


def keys_of(settings: Settings) -> Keys:
    """The keys of the settings."""
    full, read = settings.api_key, settings.api_read_key
    return Keys.of(full.get_secret_value() if full else None, read.get_secret_value() if read else None)


def rules_of(settings: Settings, host: str, port: int) -> Rules:
    """What the guard of the API goes by.

    Raises:
        OpenDoor: other machines or all sites would reach it, and no key is set.
    """
    keys, origins = keys_of(settings), frozenset(_listed(settings.api_origins))
    if not keys and not is_loopback(host):
        raise OpenDoor(
            f"--host {host}: other machines would reach the API, and no key is set; "
            "set REFRESH_API_KEY (16 characters or more), or leave --host and REFRESH_API_HOST out"
        )
    if not keys and "*" in origins:
        raise OpenDoor(
            "REFRESH_API_ORIGINS: found *, so every site could ask, and no key is set; set REFRESH_API_KEY, or name "
            "the sites"
        )
    return Rules(
        hosts=host_names(port, settings.api_hosts.split(",")),
        public=PUBLIC,
        public_folders=PUBLIC_FOLDERS,
        origins=origins,
        is_api=True,
        rate=settings.api_rate,
    )


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
