"""The known name that somebody may have meant, for the end of an error. What names there are is the caller's part."""

import difflib
from collections.abc import Iterable

# How alike two names are, from 0 to 1, before one is suggested for the other.
ALIKE = 0.6


def did_you_mean(text: str, names: Iterable[str], alike: float = ALIKE) -> str:
    """The end of a sentence that suggests the nearest of the names; empty where none is near.

    >>> did_you_mean("demmo", ["demo", "oanda"]), did_you_mean("x", ["demo"])
    ("; did you mean 'demo'?", '')
    """
    near = difflib.get_close_matches(text, list(dict.fromkeys(names)), n=1, cutoff=alike)
    return f"; did you mean {near[0]!r}?" if near else ""
