"""How many random examples a property test tries: a few, or twenty times as many with REFRESH_TEST_EXAMPLES=many."""

import os

MORE = 20


def examples(few: int) -> int:
    """So many of them; `MORE` times as many in a thorough run.

    >>> examples(3)
    3
    """
    return few * MORE if os.environ.get("REFRESH_TEST_EXAMPLES") == "many" else few
