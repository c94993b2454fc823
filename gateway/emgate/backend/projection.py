"""From a decoded record to the rows of the tables: pure, so that nothing is half written when a record surprises it."""

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from emwire import codec, constants, positions
from emwire.errors import WireError

from emgate import loss_evidence
from emgate.backend import vocabulary
from emgate.gateway_number import FIRST_ID

Value: TypeAlias = int | float | str | bytes | None
RecordMessage: TypeAlias = codec.Record


class Row(NamedTuple):
    """One row of one table, whose columns always come in one order. `measured` is (device it is evidence about, unix ms
    or None)."""

    table: str
    values: dict[str, Value]
    measured: tuple[tuple[int, int | None], ...] = ()


class Header(NamedTuple):
    """What every record begins with, and where it belongs."""

    record_id: int
    device_id: int
    epoch: int
    sequence: int
    recorded_date: int | None


@dataclass(slots=True)
class Decoded:
    """A payload as far as it could be understood."""

    state: str
    reason: str | None = None
    message: RecordMessage | None = None
    fixes: list[tuple[int, ...]] = field(default_factory=list)


def decode(payload: bytes) -> Decoded:
    """DECODED with the message, or UNKNOWN_TYPE or UNDECODABLE with the reason. Never raises."""
    try:
        message = codec.decode(payload)
        if isinstance(message, codec.Unknown):
            return Decoded("UNKNOWN_TYPE", f"message type 0x{message.message_type:02x} is not known here")
        if not isinstance(message, RecordMessage):
            return Decoded("UNDECODABLE", f"message type 0x{payload[0]:02x} is not a record")
        fixes = positions.decode_block(bytes(message.block)) if isinstance(message, codec.PositionBlock) else []
    except WireError as error:
        return Decoded("UNDECODABLE", str(error))
    except Exception as error:  # a fault of the decoder must not block the queue behind this record for ever
        return Decoded("UNDECODABLE", f"decoder failed: {type(error).__name__}: {error}")
    return Decoded("DECODED", message=message, fixes=fixes)


def rows(header: Header, decoded: Decoded) -> list[Row]:
    """The rows of a record; none for one that could not be decoded, or that no table is for."""
    match decoded.message:
        case codec.Hello() as hello:
            return [_hello(header, hello)]
        case codec.PositionBlock():
            return [_position(header, item, fix) for item, fix in enumerate(decoded.fixes)]
        case codec.Presence() as presence:
            return [_presence(header, presence)]
        case codec.AlcoholReading() as reading:
            return [_reading(header, reading)]
        case codec.Event() as event:
            return [_event(header, event), *_loss(header, event)]
        case codec.Status() as status:
            return _status(header, status)
        case codec.Gap() as gap:
            return [_gap(header, gap)]
    return []


def _measured(header: Header, time_s: int) -> tuple[int | None, str | None]:
    """The body's own time, else the record's: such a record is made at the moment it speaks of."""
    measured = vocabulary.unix_ms(time_s)
    if measured is not None:
        return measured, "MEASURED"
    return header.recorded_date, "RECORDED" if header.recorded_date is not None else None


def _unless(value: int, unknown: int) -> int | None:
    return None if value == unknown else value


def _hello(header: Header, hello: codec.Hello) -> Row:
    return Row(
        "hellos",
        {
            "record_id": header.record_id,
            "device_id": header.device_id,
            "epoch": header.epoch,
            "device_model": hello.device_model,
            "hardware_revision": hello.hardware_revision,
            "firmware_version": f"{hello.firmware_major}.{hello.firmware_minor}.{hello.firmware_patch}",
            "reset_cause": hello.reset_cause,
            "capabilities": hello.capabilities,
            "configuration_version": hello.configuration_version,
            "previous_epoch": hello.previous_epoch,
            "previous_epoch_records": hello.previous_epoch_records,
            "storage_dropped": hello.storage_dropped,
        },
    )


def _position(header: Header, item: int, fix: tuple[int, ...]) -> Row:
    time_s, latitude, longitude = fix[:3]
    speed, direction, precision, satellites, hdop, mechanism = fix[3:] if len(fix) > 3 else (-1,) * 6
    gps_date = vocabulary.unix_ms(time_s)
    return Row(
        "positions",
        {
            "record_id": header.record_id,
            "item": item,
            "device_id": header.device_id,
            "gps_date": gps_date,
            "latitude_microdegrees": latitude,
            "longitude_microdegrees": longitude,
            "speed": None if speed < 0 else speed / 10,
            "direction": _unless(direction, -1),
            "precision": _unless(precision, -1),
            "satellite": _unless(satellites, -1),
            "hdop": None if hdop < 0 else hdop / 10,
            "mechanism": _unless(mechanism, -1),
        },
        ((header.device_id, gps_date),),
    )


def _presence(header: Header, presence: codec.Presence) -> Row:
    duration_ms = presence.window_duration_s * 1000
    start = vocabulary.unix_ms(presence.window_start_s)
    source: str | None = "MEASURED"
    if start is None:  # made when its window ended
        source = None
        if header.recorded_date is not None:
            start, source = header.recorded_date - duration_ms, "RECORDED"
    end = None if start is None else start + duration_ms
    return Row(
        "presences",
        {
            "record_id": header.record_id,
            "device_id": header.device_id,
            "beacon_id": presence.beacon_id,
            "authenticity": presence.authenticity,
            "window_start_date": start,
            "window_end_date": end,
            "time_source": source,
            "listened_s": presence.listened_s,
            "deaf_s": presence.deaf_s,
            "heard_count": presence.heard_count,
            "first_heard_s": _unless(presence.first_heard_s, 65535),
            "last_heard_s": _unless(presence.last_heard_s, 65535),
            "rssi_minimum_dbm": _unless(presence.rssi_minimum_dbm, 127),
            "rssi_median_dbm": _unless(presence.rssi_median_dbm, 127),
            "rssi_maximum_dbm": _unless(presence.rssi_maximum_dbm, 127),
            "beacon_battery_percent": _unless(presence.beacon_battery_percent, 255),
            "beacon_strap": _unless(presence.beacon_strap, constants.STRAP_UNKNOWN),
        },
        tuple((device, moment) for device in (header.device_id, presence.beacon_id) for moment in (start, end)),
    )


def _reading(header: Header, reading: codec.AlcoholReading) -> Row:
    date, source = _measured(header, reading.measured_time_s)
    return Row(
        "readings",
        {
            "record_id": header.record_id,
            "device_id": header.device_id,
            "reading_date": date,
            "time_source": source,
            "tac_ug_per_l": reading.tac_ug_per_l,
            "contact_ir_mv": reading.contact_ir_mv,
            "skin_temperature_centi_celsius": reading.skin_temperature_centi_celsius,
            "motion_count": reading.motion_count,
            "quality": reading.quality,
        },
        ((header.device_id, date),),
    )


def _event(header: Header, event: codec.Event) -> Row:
    date, source = _measured(header, event.event_time_s)
    subject = event.subject_id or header.device_id
    return Row(
        "events",
        {
            "record_id": header.record_id,
            "device_id": subject,
            "reporting_device_id": header.device_id,
            "event_type_id": event.event_type,
            "event_type_code": vocabulary.event_type(event.event_type).code,
            "event_start_date": date,
            "time_source": source,
            "value": event.value,
            "event_status": None,
            "evidence": bytes(event.evidence),
        },
        ((subject, date),),
    )


def _status(header: Header, status: codec.Status) -> list[Row]:
    percent = _unless(status.battery_percent, 255)
    made = [
        Row(
            "statuses",
            {
                "record_id": header.record_id,
                "device_id": header.device_id,
                "epoch": header.epoch,
                "sequence": header.sequence,
                "status_date": header.recorded_date,
                "battery_percent": percent,
                "battery_mv": status.battery_mv,
                "charging": status.charging,
                "temperature_centi_celsius": status.temperature_centi_celsius,
                "memory_free_bytes": status.memory_free_bytes,
                "memory_peak_bytes": status.memory_peak_bytes,
                "journal_records": status.journal_records,
                "journal_bytes": status.journal_bytes,
                "records_made": status.records_made,
                "frames_sent": status.frames_sent,
                "frames_refused": status.frames_refused,
                "configuration_version": status.configuration_version,
                "clock_error_ms": status.clock_error_ms,
            },
            ((header.device_id, header.recorded_date),),
        )
    ]
    if percent is not None:  # published as an event with the percentage in its status flags
        made.append(
            Row(
                "events",
                {
                    "record_id": header.record_id,
                    "device_id": header.device_id,
                    "reporting_device_id": header.device_id,
                    "event_type_id": vocabulary.BATTERY_EVENT_TYPE_ID,
                    "event_type_code": vocabulary.EV_BATTERY_PERCENTAGE,
                    "event_start_date": header.recorded_date,
                    "time_source": "RECORDED" if header.recorded_date is not None else None,
                    "value": percent,
                    "event_status": str(percent),
                    "evidence": b"",
                },
            )
        )
    return made


def _loss(header: Header, event: codec.Event) -> list[Row]:
    """What a gateway lost of a device: accounted for as a gap of that device, until the device sends it again."""
    lost = loss_evidence.decode(bytes(event.evidence))
    if event.event_type != constants.EVENT_GATEWAY_RECORDS_LOST or lost is None or header.device_id < FIRST_ID:
        return []  # of others' records only a gateway may say so
    return [
        Row(
            "gaps",
            {
                "record_id": header.record_id,
                "device_id": event.subject_id or header.device_id,
                "gap_epoch": lost.epoch,
                "first_sequence": lost.first,
                "last_sequence": lost.last,
                "cause": lost.cause,
            },
        )
    ]


def _gap(header: Header, gap: codec.Gap) -> Row:
    return Row(
        "gaps",
        {
            "record_id": header.record_id,
            "device_id": header.device_id,
            "gap_epoch": gap.gap_epoch,
            "first_sequence": gap.first_sequence,
            "last_sequence": gap.last_sequence,
            "cause": gap.cause,
        },
    )
