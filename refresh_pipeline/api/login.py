"""Keys, sessions, and the page on which a person gives a key. Pure: bytes and text, no server, no clock."""

import hashlib
import hmac
import html
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote

LOGIN = "/login"
COOKIE = "refresh_session"
# 12 hours: a working day.
SESSION_SECONDS = 12 * 3600
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;display:grid;place-items:center;min-height:90vh;margin:0;"
    "background:#f6f7f9;color:#16202c}form{background:#fff;border:1px solid #d9dee5;border-radius:10px;padding:32px;"
    "width:min(320px,80vw)}h1{font-size:20px;margin:0 0 16px}label{display:block;font-size:14px;margin-bottom:6px}"
    "input,button{font:inherit;box-sizing:border-box;width:100%;padding:9px 12px;border-radius:6px;"
    "border:1px solid #b6bfca;margin-bottom:14px}button{background:#1f5fbf;border-color:#1f5fbf;color:#fff;"
    "cursor:pointer;margin:0}p{color:#b3261e;font-size:14px;margin:0 0 12px}"
    "@media(prefers-color-scheme:dark){body{background:#12161c;color:#e6eaf0}form{background:#1b212a;border-color:#323b47}"
    "input{background:#12161c;color:#e6eaf0;border-color:#4a5563}p{color:#ff8a80}}"
)

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Refresh Pipeline: log in</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body><form method="post" action="{action}"><h1>Refresh Pipeline</h1>{alert}
<label for="key">Key (REFRESH_API_KEY)</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<button>Log in</button></form></body></html>
"""


class Role(StrEnum):
    """What a key may do: everything, or read."""

    full = "full"
    read = "read"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that open a server; none of them: it is open to whoever reaches it."""

    keys: tuple[str, ...] = ()
    read_keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str | None, read_text: str | None = None) -> "Keys":
        """Keys of comma lists; `settings` has looked at their length."""
        return cls(_listed(text), _listed(read_text))

    def __bool__(self) -> bool:
        return bool(self.keys or self.read_keys)

    def match(self, given: str) -> bool:
        """Whether this key may do everything; takes as long for a wrong key as for a right one."""
        return self.role(given) is Role.full

    def role(self, given: str) -> Role | None:
        """What this key may do; None for a key that is none of ours."""
        digest = hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest()
        # Every key is looked at: an answer that comes sooner would tell which one.
        matches = [
            role for key, role in self._roles if hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest())
        ]
        return matches[0] if matches else None

    def session(self, now: float, key: str | None = None) -> str:
        """A session's value: the second it ends at, signed by the key that opened it (default: the first)."""
        until = str(int(now) + SESSION_SECONDS)
        return f"{until}.{_signature(key or self._roles[0][0], until)}"

    def session_is_valid(self, session: str, now: float) -> bool:
        """Whether a session was given here, by a key that may do everything and still is one, and has not ended."""
        return self.session_role(session, now) is Role.full

    def session_role(self, session: str, now: float) -> Role | None:
        """What a session may do: as much as its key; None where it has ended or was not given here."""
        until, _, signature = session.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) <= 12):
            return None
        given = signature.encode()
        matches = [role for key, role in self._roles if hmac.compare_digest(given, _signature(key, until).encode())]
        # One that ends later than any of ours could was made while the clock was ahead.
        is_current = now < int(until) <= now + SESSION_SECONDS + 60
        return matches[0] if matches and is_current else None

    @property
    def _roles(self) -> list[tuple[str, Role]]:
        return [*((key, Role.full) for key in self.keys), *((key, Role.read) for key in self.read_keys)]


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _signature(key: str, until: str) -> str:
    return hmac.new(f"session {key}".encode(), until.encode(), hashlib.sha256).hexdigest()


def session_cookie(session: str, *, secure: bool) -> str:
    """The Set-Cookie header of a session.

    >>> session_cookie("1.ab", secure=False)
    'refresh_session=1.ab; Max-Age=43200; Path=/; HttpOnly; SameSite=Strict'
    """
    cookie = f"{COOKIE}={session}; Max-Age={SESSION_SECONDS}; Path=/; HttpOnly; SameSite=Strict"
    return f"{cookie}; Secure" if secure else cookie


def ended_cookie() -> str:
    """The Set-Cookie header that ends a session."""
    return f"{COOKIE}=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict"


def login_page(following: str, message: str) -> str:
    """The page that asks for a key; `following` is where a right one leads."""
    alert = f'<p role="alert">{html.escape(message)}</p>' if message else ""
    return PAGE.format(style=STYLE, action=f"{LOGIN}?next={quote(following)}", alert=alert)
