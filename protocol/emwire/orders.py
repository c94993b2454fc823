"""Declarations of what a device is told about the order it serves, of commands, and of their results.

An order of conditions is one `order_conditions` and as many `order_zone` as that says, in parts where a zone has
many vertices; each fits a datagram. All carry activation and version: a device takes the order into force when
the last part of a version is there and well formed, keeps the old one until then, and reports it with an event.
"""

from __future__ import annotations

from emwire.declare import TIME, UNKNOWN_TIME, down, record
from emwire.enumerations import COMMAND_KIND, CURFEW_ADDRESS, OUTCOME, PARAMETER, VOCABULARY, ZONE_SHAPE, ZONE_TYPE
from emwire.fields import ItemList, PrefixedBytes, i16, i32, u8, u16, u32

DAY = "ISO 8601 (1 Monday … 7 Sunday)"
WGS84 = "WGS 84; " + VOCABULARY
TIME_ZONE = "IANA tz database, worked out by the sender"
AS_CONFIGURED = {0: "as configured"}
# UTC-12:00 … UTC+14:00, the offsets in use.
OFFSET_MINUTES = {"unit": "min", "lowest": -720, "highest": 840}
MOST_ENTRIES = 42  # six a day; 42 * 6 bytes
MOST_ZONES = 32
MOST_VERTICES = 64  # a part; 64 * 8 bytes
MOST_PARAMETERS = 64  # 64 * 5 bytes: two BLE packets
MOST_PARTS = 4  # 256 vertices a zone: 2 KiB of a device's memory

_IDENTITY = (
    "activation_id" / u32("Device activation it is bound to; a device fitted anew drops it", source=VOCABULARY),
    "order_version" / u16("Version of the order, counted up per activation", lowest=1),
)

MESSAGES = (
    down(
        "order_conditions",
        0x83,
        "The order's conditions as far as a device serves them: curfew timetable and sampling regime.",
        *_IDENTITY,
        "zone_count" / u8("Zones of this version, numbered from 0, in order_zone", highest=MOST_ZONES),
        "starts_s" / u32("When the order begins", unit=TIME, special={0: "at once"}),
        "ends_s" / u32("When it ends", unit=TIME, special={0: "no end is known"}),
        "utc_offset_minutes" / i16("Local time less UTC now", **OFFSET_MINUTES, source=TIME_ZONE),
        "offset_change_s" / u32("When that changes", unit=TIME, special={0: "no change is known"}, source=TIME_ZONE),
        "next_utc_offset_minutes" / i16("Local time less UTC from then on", **OFFSET_MINUTES, source=TIME_ZONE),
        "fix_interval_s"
        / u16("Between positions", unit="s", special=AS_CONFIGURED, source="NIJ 1004.00: one point a minute"),
        "violation_fix_interval_s"
        / u16("Between positions while a zone is violated", unit="s", special=AS_CONFIGURED, source="3M: every 15 s"),
        "violation_report_interval_s"
        / u16("Between reports while a zone is violated", unit="s", special=AS_CONFIGURED, source="NIJ 1004.00 §5.3.5"),
        "sample_interval_s"
        / u16("Between alcohol samples", unit="s", special=AS_CONFIGURED, source="SCRAM: hourly in ordinary use"),
        "raised_sample_interval_s"
        / u16("The same after alcohol or tamper", unit="s", special=AS_CONFIGURED, source="SCRAM: every 30 min"),
        "curfew_entries"
        / ItemList(
            "curfew_entry",
            MOST_ENTRIES,
            "Curfew timetable in local time; an end at or before the start is on the next day",
            "day_of_week" / u8("Day on which it starts", lowest=1, highest=7, source=DAY),
            "start_minute" / u16("Start, from local midnight", unit="min", highest=1439, source=VOCABULARY),
            "end_minute" / u16("End, from local midnight", unit="min", highest=1439, source=VOCABULARY),
            "curfew_address" / u8("Where", enumeration=CURFEW_ADDRESS, source=VOCABULARY),
            source=VOCABULARY,
        ),
    ),
    down(
        "command",
        0x84,
        "One thing to do once. A number that was carried out is answered again, never carried out again.",
        "command_number" / u32("Number of the command, counted up per device", lowest=1),
        "command_kind" / u8("What to do", enumeration=COMMAND_KIND),
        "argument" / i32("Meaning by kind", special={0: "none, or the device's default"}),
        "expires_s" / u32("Not to be begun after this", unit=TIME, special={0: "never expires"}),
    ),
    down(
        "order_zone",
        0x88,
        "One zone of an order, or one part of its vertices.",
        *_IDENTITY,
        "zone_number" / u8("Number of the zone within the version", highest=MOST_ZONES - 1),
        "zone_type" / u8("What it means", enumeration=ZONE_TYPE, source=VOCABULARY),
        "zone_shape" / u8("How it is drawn", enumeration=ZONE_SHAPE),
        "starts_s" / u32("When it begins", unit=TIME, special={0: "with the order"}),
        "ends_s" / u32("When it ends", unit=TIME, special={0: "with the order"}),
        "points_inside"
        / u8("Consecutive positions that make a violation", lowest=1, highest=5, source="Field practice: 1 … 5"),
        "radius_m" / u16("Radius of a circle", unit="m", special={0: "polygon"}),
        "part_number" / u8("Number of this part of the vertices, from 0", highest=MOST_PARTS - 1),
        "part_count" / u8("How many parts", lowest=1, highest=MOST_PARTS),
        "vertices"
        / ItemList(
            "vertex",
            MOST_VERTICES,
            "Vertices of this part, following those of the part before",
            "latitude_microdegrees"
            / i32("Latitude", unit="0.000001 degree", lowest=-90_000_000, highest=90_000_000, source=WGS84),
            "longitude_microdegrees"
            / i32("Longitude", unit="0.000001 degree", lowest=-180_000_000, highest=180_000_000, source=WGS84),
            source="RFC 7946 §3.1.6 (polygon)",
        ),
    ),
    down(
        "parameters",
        0x89,
        "Tunables of the firmware; those not named stay. All or, if one is unknown or out of bounds, none are taken.",
        "version" / u16("Version of these parameters, counted up", lowest=1),
        "parameters"
        / ItemList(
            "parameter_value",
            MOST_PARAMETERS,
            "Parameters and their new values",
            "parameter" / u8("Which", enumeration=PARAMETER),
            "value" / i32("Its value, in the unit of its name"),
        ),
    ),
    record(
        "command_result",
        0x0A,
        "What became of a command; the last one of a number counts.",
        "command_number" / u32("Number of the command", lowest=1),
        "command_kind" / u8("What was asked", enumeration=COMMAND_KIND),
        "outcome" / u8("How far it came", enumeration=OUTCOME),
        "finished_time_s" / u32("When", unit=TIME, special=UNKNOWN_TIME),
        "value" / i32("By kind: range test, beacons heard; self-test, mask of failed parts", special={0: "none"}),
        "detail" / PrefixedBytes(64, "Raw evidence, e.g. RSSI of each beacon heard"),
    ),
)
