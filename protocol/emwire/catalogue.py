"""The catalogue of messages: the one declaration from which codecs, constants and reference are generated.

Ranges are inclusive and hold for encoding and decoding alike; they are narrower than the type only where a
value outside has no meaning. Enumerations are open: encoder and decoder accept any value of the field's type,
so that an older receiver passes on what a newer sender means. Trailing bytes are refused: a message grows by
a new type. An integer is exactly an `int`: bool, float and string are refused, on MicroPython as on CPython.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import construct as c

from emwire import declare, enumerations, orders, updates
from emwire.declare import (
    NOT_HEARD_DBM,
    NOT_HEARD_S,
    PERCENT,
    SATURATED,
    UNKNOWN_TIME,
    record,
)
from emwire.enumerations import (
    AUTHENTICITY,
    CAPABILITY,
    DEAF_CAUSE,
    DEVICE_MODEL,
    EVENT_TYPE,
    GAP_CAUSE,
    LOG_LEVEL,
    QUALITY,
    RECEIVER,
    RESET_CAUSE,
    STRAP,
    VOCABULARY,
)
from emwire.errors import WireError
from emwire.fields import (
    FixedBytes,
    ItemList,
    PrefixedBytes,
    PrefixedText,
    Refused,
    RestBytes,
    i8,
    i16,
    i32,
    message,
    u8,
    u16,
    u24,
    u32,
)

# 2010-01-01T00:00:00Z: seconds stay 31-bit small integers on the boards until 2044, and recordings of receivers and
# bracelets made since then can be replayed through the whole stack.
TIME_EPOCH_UNIX_S = 1262304000

# For readers of the catalogue, beside MESSAGES and ENUMERATIONS.
TIME = declare.TIME
RECORD_HEADER = declare.RECORD_HEADER

MICROPYTHON_GC = "MicroPython gc.mem_free, gc.mem_alloc"
NIJ_STRAP = "NIJ 1004.00 §5.4.1"
HCI_RSSI = "Bluetooth Core 5.4, Vol 4 Part E, 7.7.65.2 (RSSI)"
SACK = "RFC 2018 (selective acknowledgement)"

# A datagram's 1024 bytes less device id (4), frame header and tag (14), type and record header (12).
LONGEST_BLOCK = 1024 - 4 - 14 - 12
# One record with its seal and a BLE fragment's header then fits the 244 bytes of one full data packet
# (Bluetooth Core 5.4, Vol 6 Part B, 2.4: 251 less L2CAP and ATT headers): 244 - 1 - 2 - 4 - 14 - 14 = 209.
LONGEST_LOG_TEXT = 200

_MESSAGES = (
    record(
        "hello",
        0x01,
        "First record of a boot, whose count is the epoch of its frame. The clock's state is in the record header.",
        "device_model" / u8("Kind of device", enumeration=DEVICE_MODEL),
        "hardware_revision" / u8("Revision of the hardware"),
        "firmware_major" / u8("Firmware version, major", source="semver.org"),
        "firmware_minor" / u8("Firmware version, minor", source="semver.org"),
        "firmware_patch" / u8("Firmware version, patch", source="semver.org"),
        "reset_cause" / u8("Why the device started", enumeration=RESET_CAUSE, source=RESET_CAUSE.source),
        "capabilities" / u32("What is fitted", enumeration=CAPABILITY),
        "configuration_version" / u16("Configuration in force", special={0: "built-in defaults"}),
        "previous_epoch" / u16("Boot epoch before this one"),
        "previous_epoch_records" / u24("Records journalled in that epoch", special={0: "none"}),
        "storage_dropped" / u16("Damaged bytes found at recovery", unit="B", special=SATURATED),
    ),
    record(
        "position_block",
        0x02,
        "Positions in one self-contained compressed block.",
        "block" / RestBytes(1, LONGEST_BLOCK, "Block as emwire.positions encodes it"),
    ),
    record(
        "presence",
        0x03,
        "What a home unit heard of one beacon in one window, and how well it listened.",
        "beacon_id" / u32("Device id of the pid"),
        "authenticity" / u8("Judgement of what was heard", enumeration=AUTHENTICITY),
        "window_start_s" / u32("Start of the window", unit=TIME, special=UNKNOWN_TIME),
        "window_duration_s" / u16("Length of the window", unit="s"),
        "listened_s" / u16("Time the receiver listened", unit="s"),
        "deaf_s" / u16("Time the receiver could not hear", unit="s"),
        "heard_count" / u16("Beacons heard", special=SATURATED),
        "first_heard_s" / u16("First heard, from the window's start", unit="s", special=NOT_HEARD_S),
        "last_heard_s" / u16("Last heard, from the window's start", unit="s", special=NOT_HEARD_S),
        "rssi_minimum_dbm" / i8("Weakest", unit="dBm", special=NOT_HEARD_DBM, source=HCI_RSSI),
        "rssi_median_dbm" / i8("Median", unit="dBm", special=NOT_HEARD_DBM, source=HCI_RSSI),
        "rssi_maximum_dbm" / i8("Strongest", unit="dBm", special=NOT_HEARD_DBM, source=HCI_RSSI),
        "beacon_battery_percent" / u8("Battery of the pid", **PERCENT),
        "beacon_strap" / u8("Strap of the pid", enumeration=STRAP),
    ),
    record(
        "alcohol_reading",
        0x04,
        "One transdermal alcohol reading with what is needed to doubt it.",
        "measured_time_s" / u32("When it was measured", unit=TIME, special=UNKNOWN_TIME),
        "tac_ug_per_l" / u32("Transdermal alcohol concentration (0.020 g/dL = 200000)", unit="µg/L"),
        "contact_ir_mv" / u16("Infrared contact sensor", unit="mV"),
        "skin_temperature_centi_celsius" / i16("Skin temperature", unit="0.01 °C"),
        "motion_count" / u16("Movements since the last reading", special=SATURATED),
        "quality" / u16("Doubts", enumeration=QUALITY),
    ),
    record(
        "event",
        0x05,
        "Something the device saw: tamper, power, fault.",
        "event_type" / u16("What was seen", enumeration=EVENT_TYPE, source=VOCABULARY),
        "event_time_s" / u32("When (strap: within 5 s)", unit=TIME, special=UNKNOWN_TIME, source=NIJ_STRAP),
        "subject_id" / u32("Device the event is about", special={0: "the sender itself"}),
        "value" / i32("Meaning by event type", special={0: "none"}),
        "evidence" / PrefixedBytes(64, "Raw evidence, e.g. times between strap edges"),
    ),
    record(
        "status",
        0x06,
        "Health of the device.",
        "battery_percent" / u8("Battery", **PERCENT),
        "battery_mv" / u16("Battery voltage", unit="mV"),
        "charging" / u8("1 while charging", highest=1),
        "temperature_centi_celsius" / i16("Temperature inside", unit="0.01 °C"),
        "memory_free_bytes" / u32("Free heap", unit="B", source=MICROPYTHON_GC),
        "memory_peak_bytes" / u32("Most heap used in this epoch", unit="B", source=MICROPYTHON_GC),
        "journal_records" / u32("Records in flash"),
        "journal_bytes" / u32("Flash in use", unit="B"),
        "records_made" / u32("Records of this epoch"),
        "frames_sent" / u32("Frames sent in this epoch"),
        "frames_refused" / u16("Frames refused in this epoch", special=SATURATED),
        "configuration_version" / u16("Configuration in force", special={0: "built-in defaults"}),
        "clock_error_ms" / i32("Last correction of the clock", unit="ms"),
    ),
    record(
        "gap",
        0x07,
        "Records that will never come, and why.",
        "gap_epoch" / u16("Boot epoch of the missing records"),
        "first_sequence" / u24("First missing sequence"),
        "last_sequence" / u24("Last missing sequence"),
        "cause" / u8("Why", enumeration=GAP_CAUSE),
    ),
    record(
        "listening",
        0x08,
        "How long each receiver listened and was deaf in one period, and why: the ledger by which silence is judged.",
        "period_start_s" / u32("Start of the period", unit=TIME, special=UNKNOWN_TIME),
        "period_duration_s" / u16("Length of the period", unit="s"),
        "receivers"
        / ItemList(
            "receiver_time",
            16,
            "One item a receiver; one more, with listened_s 0, for each further cause of its deafness",
            "receiver" / u8("Which receiver", enumeration=RECEIVER),
            "listened_s" / u16("Time in which it could have heard", unit="s"),
            "deaf_s" / u16("Time in which it could not hear, for this cause", unit="s"),
            "deaf_cause" / u8("Why it could not", enumeration=DEAF_CAUSE),
        ),
    ),
    record(
        "log",
        0x09,
        "One line of the firmware's own log, for whoever looks for a fault; nothing is decided by it.",
        "level" / u8("How grave", enumeration=LOG_LEVEL, source=LOG_LEVEL.source),
        "text" / PrefixedText(LONGEST_LOG_TEXT, "The line"),
    ),
    message(
        "sync",
        0x40,
        "up",
        "link",
        "What the device holds of one boot epoch; one for each when a link opens.",
        (
            "sync_epoch" / u16("Boot epoch this is about"),
            "oldest_sequence" / u24("Oldest sequence still held"),
            "next_sequence" / u24("Sequence the next record of that epoch would get"),
        ),
    ),
    message("poll", 0x41, "up", "link", "Asks for time and acknowledgement.", ()),
    message(
        "acknowledgement",
        0x80,
        "down",
        "link",
        "Two watermarks: what the gateway has committed, and what the backend has committed.",
        (
            "acknowledged_epoch" / u16("Boot epoch of the sequences"),
            "stored_through" / u24("Next expected: all below are in the gateway's store"),
            "delivered_through" / u24("Next expected: all below are in the backend"),
            "ranges"
            / ItemList(
                "acknowledged_range",
                8,
                "Stored above stored_through",
                "first" / u24("First sequence", source=SACK),
                "last" / u24("Last sequence", source=SACK),
                source=SACK,
            ),
        ),
    ),
    message(
        "time",
        0x81,
        "down",
        "link",
        "The gateway's time.",
        (
            "time_s" / u32("Whole seconds", unit=TIME, special=UNKNOWN_TIME),
            "millisecond" / u16("Milliseconds within the second", unit="ms", highest=999),
            "uncertainty_ms" / u16("Bound of its error", unit="ms", special={65535: "unknown or more"}),
        ),
    ),
    message(
        "configuration",
        0x82,
        "down",
        "link",
        "How the device is to work; in force once its version appears in a record.",
        (
            "version" / u16("Version of this configuration", special={0: "built-in defaults"}),
            "report_interval_s" / u16("Between reports over a link that is not always open", unit="s"),
            "fix_interval_s" / u16("Between positions", unit="s", source="NIJ 1004.00: one point a minute"),
            "presence_window_s" / u16("Length of a presence window", unit="s"),
            "sample_interval_s" / u16("Between alcohol samples", unit="s", source="SCRAM: every 30 min"),
            "status_interval_s" / u16("Between status records", unit="s"),
            "beacon_ids"
            / ItemList(
                "beacon_key",
                8,
                "Beacons to listen for",
                "beacon_id" / u32("Device id of the pid"),
                "key" / FixedBytes(16, "Its beacon key", source="FIPS 197 (AES-128)"),
            ),
        ),
    ),
    message(
        "key_update",
        0x86,
        "down",
        "link",
        "A new key for another slot: the device keeps it, and seals everything under it from then on.",
        (
            "slot" / u8("Key slot, as in a frame's control byte", highest=3),
            "key" / FixedBytes(16, "The new key", source="FIPS 197 (AES-128)"),
        ),
    ),
)
MESSAGES = tuple(sorted((*_MESSAGES, *orders.MESSAGES, *updates.MESSAGES), key=lambda entry: entry.message_type))
ENUMERATIONS = enumerations.ENUMERATIONS
BY_NAME = {entry.name: entry for entry in MESSAGES}
BY_TYPE = {entry.message_type: entry for entry in MESSAGES}


def build(name: str, values: Mapping[str, Any]) -> bytes:
    """Encode a message by interpreting its declaration; WireError on any value outside it."""
    try:
        return bytes(BY_NAME[name].declaration.build(dict(values)))
    except Refused as error:
        raise WireError(error.reason, error.offset) from error


def parse(data: bytes) -> tuple[str, dict[str, Any]]:
    """Decode a message by interpreting its declaration: name and fields, lists as tuples of tuples.

    An unknown message type gives ("unknown", {"message_type", "raw"}). Structure is judged before values.
    """
    if not data:
        raise WireError("short", 0)
    entry = BY_TYPE.get(data[0])
    if entry is None:
        return "unknown", {"message_type": data[0], "raw": bytes(data[1:])}
    stream = io.BytesIO(data)
    faults: list[Refused] = []
    try:
        values = entry.declaration.parse_stream(stream, faults=faults)
    except Refused as error:
        raise WireError(error.reason, error.offset) from error
    except c.TerminatedError as error:
        raise WireError("trailing", stream.tell() - 1) from error
    except c.StreamError as error:
        raise WireError("short", len(data)) from error
    if faults:
        raise WireError(faults[0].reason, faults[0].offset) from faults[0]
    return entry.name, {name: values[name] for name, _ in entry.fields}
