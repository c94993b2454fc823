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

from emwire.errors import WireError
from emwire.fields import (
    Enumeration,
    FixedBytes,
    ItemList,
    Message,
    PrefixedBytes,
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

VOCABULARY = "MoJ electronic monitoring vocabulary"
MICROPYTHON_GC = "MicroPython gc.mem_free, gc.mem_alloc"
NIJ_STRAP = "NIJ 1004.00 §5.4.1"
HCI_RSSI = "Bluetooth Core 5.4, Vol 4 Part E, 7.7.65.2 (RSSI)"
SACK = "RFC 2018 (selective acknowledgement)"

DEVICE_MODEL = Enumeration(
    "device_model",
    "MODEL",
    "Kind of device.",
    "emtag",
    (
        ("ANKLE_GPS", 1, "Ankle tag with GNSS and cellular"),
        ("HOME_UNIT", 2, "Home monitoring unit (HMU)"),
        ("ALCOHOL", 3, "Transdermal alcohol tag"),
        ("PID", 4, "Personal identification device, the RF tag a home unit hears"),
    ),
)
RESET_CAUSE = Enumeration(
    "reset_cause",
    "RESET",
    "Why the device started.",
    "MicroPython machine.reset_cause()",
    (
        ("UNKNOWN", 0, "Not known"),
        ("POWER_ON", 1, "Power was applied"),
        ("HARD", 2, "Reset pin or command"),
        ("WATCHDOG", 3, "The watchdog was not fed"),
        ("DEEP_SLEEP", 4, "Woke from deep sleep"),
        ("SOFT", 5, "Restart by the firmware itself"),
        ("BROWNOUT", 6, "Supply voltage fell too low"),
    ),
)
CLOCK_SOURCE = Enumeration(
    "clock_source",
    "CLOCK",
    "What last set the device's clock.",
    "emtag",
    (
        ("UNKNOWN", 0, "Never set since the boot: time is unknown"),
        ("GNSS", 1, "Satellite time"),
        ("NETWORK", 2, "Cellular network time"),
        ("GATEWAY", 3, "A time message of the gateway"),
        ("RETAINED", 4, "Kept by the device over a reset"),
    ),
)
CAPABILITY = Enumeration(
    "capabilities",
    "CAPABILITY",
    "What the device has fitted.",
    "emtag",
    (
        ("GNSS", 1, "Satellite receiver"),
        ("CELLULAR", 2, "Cellular modem"),
        ("BLE", 4, "Bluetooth LE data link"),
        ("SERIAL", 8, "Serial data link"),
        ("BEACON_SENDER", 16, "Sends presence beacons"),
        ("BEACON_RECEIVER", 32, "Hears presence beacons"),
        ("ALCOHOL_CELL", 64, "Transdermal alcohol cell"),
        ("STRAP", 128, "Strap continuity sensor"),
        ("CASE", 256, "Case switch"),
        ("MAINS", 512, "Runs on mains with a battery behind"),
        ("VIBRATION", 1024, "Can alert the wearer by vibration"),
        ("MOTION", 2048, "Motion sensor"),
    ),
    flags=True,
)
AUTHENTICITY = Enumeration(
    "authenticity",
    "AUTHENTICITY",
    "Judgement of the beacon that was heard.",
    "emtag",
    (
        ("UNKNOWN", 0, "Nothing heard, or no key to judge by"),
        ("AUTHENTIC", 1, "Opened with the device's key, counter fresh"),
        ("COPIED", 2, "The same token heard again later, or two counters advancing at once"),
        ("REPLAYED", 3, "A token from the past"),
    ),
)
STRAP = Enumeration(
    "strap",
    "STRAP",
    "State of a strap.",
    "emtag",
    (("CLOSED", 0, "Closed"), ("OPEN", 1, "Open"), ("UNKNOWN", 255, "Not heard, or not fitted")),
)
QUALITY = Enumeration(
    "quality",
    "QUALITY",
    "Doubts about an alcohol reading.",
    "emtag",
    (
        ("CONTACT_LOST", 1, "Infrared contact differs from its own baseline"),
        ("WET_SENSOR", 2, "Sensor wet: noise"),
        ("INTERFERENT_SUSPECTED", 4, "Fast isolated spike: perfume, cleaning fluid"),
        ("TEMPERATURE_OUT_OF_RANGE", 8, "Skin temperature outside the cell's range"),
        ("CELL_FAULT", 16, "The cell failed its own check"),
    ),
    flags=True,
)
EVENT_TYPE = Enumeration(
    "event_type",
    "EVENT",
    "What the device saw.",
    "emtag; names after the " + VOCABULARY,
    (
        ("STRAP_CUT", 1, "Strap opened"),
        ("STRAP_RESTORED", 2, "Strap closed again"),
        ("CASE_OPEN", 3, "Case opened"),
        ("HOME_UNIT_MOVED", 4, "Home unit moved"),
        ("MAINS_LOST", 5, "Mains power lost"),
        ("MAINS_RESTORED", 6, "Mains power back"),
        ("BATTERY_LOW", 7, "Battery low; value: percent"),
        ("BATTERY_CRITICAL", 8, "Battery nearly empty; value: percent"),
        ("CHARGE_STARTED", 9, "Charger connected"),
        ("CHARGE_STOPPED", 10, "Charger disconnected"),
        ("STRAP_FAULT", 11, "Strap flickers: a fault of the device, not a cut; value: edges seen"),
        ("BEACON_COPIED", 12, "Another sender uses the pid's beacons"),
        ("CLOCK_JUMPED", 13, "Clock corrected; value: milliseconds"),
        ("RESET", 14, "Device restarted; value: reset cause"),
        ("SELF_TEST_FAILED", 15, "Self test failed"),
        ("RECEIVER_DEAF", 16, "Radio receiver did not listen; value: seconds"),
        ("WAN_LOST", 17, "Wide area link lost"),
        ("WAN_RESTORED", 18, "Wide area link back; value: seconds without"),
        ("GNSS_FAULT", 19, "Satellite receiver gives no sense"),
        ("NO_FIX", 20, "Receiver works, no position: when begun, hourly, when over; value: seconds without"),
    ),
)
GAP_CAUSE = Enumeration(
    "cause",
    "GAP",
    "Why records are missing.",
    "emtag",
    (
        ("STORAGE_FULL", 1, "Dropped for want of flash"),
        ("STORAGE_DAMAGED", 2, "Found damaged at recovery"),
        ("RADIO_DEAF", 3, "The radio did not listen"),
        ("RESET", 4, "Lost by a reset"),
    ),
)
MECHANISM = Enumeration(
    "mechanism",
    "MECHANISM",
    "How a position was found (inside position blocks).",
    VOCABULARY,
    (
        ("GPS", 1, "Satellites"),
        ("RF", 4, "Radio beacon"),
        ("LBS", 5, "Cellular network"),
        ("WIFI", 6, "Wireless networks"),
    ),
)
ENUMERATIONS = (
    DEVICE_MODEL,
    RESET_CAUSE,
    CLOCK_SOURCE,
    CAPABILITY,
    AUTHENTICITY,
    STRAP,
    QUALITY,
    EVENT_TYPE,
    GAP_CAUSE,
    MECHANISM,
)

TIME = "s since 2010-01-01T00:00:00Z"
UNKNOWN_TIME = {0: "unknown"}
# A datagram's 1024 bytes less device id (4), frame header and tag (14), type and record header (12).
LONGEST_BLOCK = 1024 - 4 - 14 - 12
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


def _record(name: str, message_type: int, description: str, *fields: Any) -> Message:
    return message(name, message_type, "up", "record", description, (*RECORD_HEADER, *fields))


MESSAGES = (
    _record(
        "hello",
        0x01,
        "First record of a boot: who the device is and how the last boot ended.",
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
    _record(
        "position_block",
        0x02,
        "Positions in one self-contained compressed block.",
        "block" / RestBytes(1, LONGEST_BLOCK, "Block as emwire.positions encodes it"),
    ),
    _record(
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
    _record(
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
    _record(
        "event",
        0x05,
        "Something the device saw: tamper, power, fault.",
        "event_type" / u16("What was seen", enumeration=EVENT_TYPE, source=VOCABULARY),
        "event_time_s" / u32("When (strap: within 5 s)", unit=TIME, special=UNKNOWN_TIME, source=NIJ_STRAP),
        "subject_id" / u32("Device the event is about", special={0: "the sender itself"}),
        "value" / i32("Meaning by event type", special={0: "none"}),
        "evidence" / PrefixedBytes(64, "Raw evidence, e.g. times between strap edges"),
    ),
    _record(
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
    _record(
        "gap",
        0x07,
        "Records that will never come, and why.",
        "gap_epoch" / u16("Boot epoch of the missing records"),
        "first_sequence" / u24("First missing sequence"),
        "last_sequence" / u24("Last missing sequence"),
        "cause" / u8("Why", enumeration=GAP_CAUSE),
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
