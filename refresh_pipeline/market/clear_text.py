"""Addresses to which a credential would go readable for everybody on the way: `http://` to another machine.

Which requests carry a credential is the callers' knowledge.
"""

import ipaddress
import re

# The user, if there is one, and the host of an address.
PLAIN_HTTP = re.compile(r"\s*http://(?:[^/?#]*@)?(?:\[([^\]/]*)\]|([^/:?#]*))", re.IGNORECASE)
ALLOWED = "https://, a host of this machine, or `insecure_http: true` beside it"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself.

    >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "localhost.example.com")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def host_in_the_clear(url: str) -> str:
    """The other machine to which an address goes by `http://`; empty for https:// and for this machine.

    >>> host_in_the_clear("HTTP://u@Api.example.com:80/x"), host_in_the_clear("http://[2001:db8::1]/")
    ('api.example.com', '2001:db8::1')
    >>> host_in_the_clear("http://127.0.0.1:80"), host_in_the_clear("http://[::1]"), host_in_the_clear("https://a.b")
    ('', '', '')
    """
    found = PLAIN_HTTP.match(url)
    host = (found[1] or found[2] or "").lower() if found else ""
    return "" if is_loopback(host) else host
