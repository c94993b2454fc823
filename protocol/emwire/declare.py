"""Words that declarations of several files share: units, special values, the record header."""

from __future__ import annotations

from typing import Any

from emwire.enumerations import CLOCK_SOURCE
from emwire.fields import Message, message, u8, u16, u32

TIME = "s since 2010-01-01T00:00:00Z"
UNKNOWN_TIME = {0: "unknown"}
PERCENT: dict[str, Any] = {"unit": "%", "highest": 100, "special": {255: "unknown"}}
SATURATED = {65535: "as many or more"}
NOT_HEARD_S = {65535: "not heard"}
NOT_HEARD_DBM = {127: "not heard"}

# What every record begins with: when it was made, by which clock, how far that clock is to be believed.
RECORD_HEADER = (
    "clock_source" / u8("What last set the clock", enumeration=CLOCK_SOURCE),
    "clock_uncertainty_ms" / u16("Bound of the clock's error", unit="ms", special={65535: "unknown or more"}),
    "recorded_time_s" / u32("When the record was made", unit=TIME, special=UNKNOWN_TIME),
    "uptime_s" / u32("Time since this boot", unit="s"),
)


def record(name: str, message_type: int, description: str, *fields: Any) -> Message:
    """Declare a record: the record header, then its own fields."""
    return message(name, message_type, "up", "record", description, (*RECORD_HEADER, *fields))


def down(name: str, message_type: int, description: str, *fields: Any) -> Message:
    """Declare a link message to the device."""
    return message(name, message_type, "down", "link", description, fields)
