"""The binary messages of Dhan's live market feed, version 2. How a connection is held is `dhan_stream`'s part.

Contract: dhanhq.co's live-market-feed and annexure, DhanHQ-py at 06c830c4. Little endian: response code, length of the
message, exchange segment and security id, then what the code says. Last trade times are India's clock as if it were UTC
(DhanHQ-py, issue 51).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from refresh_pipeline.sources.tick_candles import Tick

HEADER = struct.Struct("<BHBI")
# Price, time; price, quantity, time, average, the day's volume.
TICKER, QUOTE, DISCONNECT = struct.Struct("<fI"), struct.Struct("<fHIfI"), struct.Struct("<H")
TICKER_CODE, QUOTE_CODE, FULL_CODE, DISCONNECT_CODE = 2, 4, 8, 50
# Bytes of a packet by its code, header included; other codes are skipped by the length that they state.
LENGTHS = {TICKER_CODE: 16, QUOTE_CODE: 50, 5: 12, 6: 16, 7: 8, FULL_CODE: 162, DISCONNECT_CODE: 10}
SEGMENTS = {"IDX_I": 0, "NSE_EQ": 1}
# Seconds by which India's clock is ahead.
INDIA_AHEAD = 19_800
# Prices come with 24 bits; both segments have two decimals.
DECIMALS = 2

REASONS = {
    805: "more than five connections of this account are open: lower live.streams, or end what else listens",
    806: "the account has no data plan: see web.dhan.co (My Profile, Access DhanHQ APIs)",
    807: "the access token has expired: it lasts 24 hours",
    808: "the client id is not valid",
    809: "the access token is not valid for this client id",
}
# What another attempt does not help against.
PERMANENT = (806, 807, 808, 809)


@dataclass(frozen=True, slots=True)
class Traded:
    """A tick and whose it is."""

    segment: int
    security_id: int
    tick: Tick


@dataclass(frozen=True, slots=True)
class Disconnected:
    """Why the server ends the connection."""

    code: int

    @property
    def reason(self) -> str:
        """The code in words."""
        return f"Dhan ended the connection, code {self.code}: {REASONS.get(self.code, 'of unknown meaning')}"


def packets(message: bytes) -> Iterator[Traded | Disconnected]:
    """What a message says of trades and of the connection's end; other packets are skipped.

    Raises:
        ValueError: a packet is shorter than its code says.
    """
    offset = 0
    while offset < len(message):
        if len(message) - offset < HEADER.size:
            raise ValueError(f"expected a header of {HEADER.size} bytes, received {len(message) - offset}")
        code, stated, segment, security_id = HEADER.unpack_from(message, offset)
        length = LENGTHS.get(code) or max(stated, HEADER.size)
        if len(message) - offset < length:
            raise ValueError(f"expected {length} bytes of packet {code}, received {len(message) - offset}")
        body = offset + HEADER.size
        if code == DISCONNECT_CODE:
            yield Disconnected(*DISCONNECT.unpack_from(message, body))
        elif (tick := _tick(code, message, body)) is not None:
            yield Traded(segment, security_id, tick)
        offset += length


def _tick(code: int, message: bytes, body: int) -> Tick | None:
    if code == TICKER_CODE:
        price, second = TICKER.unpack_from(message, body)
        volume = None
    elif code in (QUOTE_CODE, FULL_CODE):
        price, _, second, _, volume = QUOTE.unpack_from(message, body)
    else:
        return None
    # Nothing has been traded, or it is no number.
    return Tick(second - INDIA_AHEAD, round(price, DECIMALS), volume) if 0 < price < 1e9 and second > 0 else None
