"""The read side: what the backend knows, as JSON-able dicts with the public keys. Any process may read at any time."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from emgate.backend import database, vocabulary
from emgate.backend.vocabulary import iso

Row = dict[str, Any]


class Reader:
    """A read-only view of a backend's database; use one per thread. StoreError when there is none yet."""

    def __init__(self, path: Path) -> None:
        self._database = database.connect_reader(Path(path))

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        return self._database.execute(query, values).fetchall()

    def counts(self) -> dict[str, int]:
        """Rows of every table that counts something."""
        names = (
            "records",
            "conflicts",
            "devices",
            "positions",
            "events",
            "readings",
            "presences",
            "statuses",
            "gaps",
            "activations",
            "orders",
        )
        found = {name: int(self._all(f"SELECT count(*) FROM {name}")[0][0]) for name in names}
        found["alerts"] = self._all("SELECT count(*) FROM violations WHERE raised = 1 AND state <> 'WITHDRAWN'")[0][0]
        found["quarantined"] = self._all(
            "SELECT count(*) FROM records INDEXED BY records_quarantined WHERE quarantine_reason IS NOT NULL"
        )[0][0]
        found["undecoded"] = self._all(
            "SELECT count(*) FROM records INDEXED BY records_undecoded WHERE state <> 'DECODED'"
        )[0][0]
        return found

    def devices(self) -> list[Row]:
        """Every device that ever sent a record, with its newest state and its books summed over all boots."""
        books: dict[int, Row] = {}
        for book in self.completeness():
            total = books.setdefault(book["deviceId"], {"received": 0, "made": 0, "missing": 0, "duplicatesRefused": 0})
            for name in total:
                total[name] += book[name]
        return [self._device(row, books.get(row["device_id"], {})) for row in self._all(_DEVICES)]

    def _device(self, row: sqlite3.Row, book: Row) -> Row:
        status = self._database.execute(
            "SELECT * FROM statuses WHERE device_id = ? ORDER BY epoch DESC, sequence DESC LIMIT 1", (row["device_id"],)
        ).fetchone()
        return {
            "deviceId": row["device_id"],
            "deviceModelName": vocabulary.MODEL_NAMES.get(row["device_model"]),
            "deviceSerialNumber": f"{row['device_id']:08x}",
            "firmwareVersion": row["firmware_version"],
            "firmwareLastUpdatedDate": iso(row["firmware_last_updated_date"]),
            "deviceStatus": "ACTIVE" if row["device_activation_id"] else "NOT_ACTIVATED",
            "deviceActivationId": row["device_activation_id"],
            "personId": row["person_id"],
            "deviceActivationDate": iso(row["device_activation_date"]),
            "deviceDeactivationDate": iso(row["device_deactivation_date"]),
            "link": row["last_link"],
            "lastRecordDate": iso(row["last_record_date"]),
            "lastReceivedDate": iso(row["last_received_date"]),
            "batteryPercent": status["battery_percent"] if status else None,
            "batteryMillivolts": status["battery_mv"] if status else None,
            "charging": bool(status["charging"]) if status else None,
            "recordsReceived": book.get("received", 0),
            "recordsMade": book.get("made", 0),
            "recordsMissing": book.get("missing", 0),
            "gapRecords": row["gap_records"],
            "duplicatesRefused": book.get("duplicatesRefused", 0),
            "recordsQuarantined": row["quarantined"],
        }

    def alerts(
        self, since: int = 0, *, person_id: str | None = None, withdrawn: bool = False, limit: int = 10_000
    ) -> list[Row]:
        """Violation alerts changed after revision `since`, oldest change first: poll with the last one's `revision`.

        An alert that changes (closes, is raised again) comes again with a new revision and the same alertId.
        """
        return self._violations("raised = 1", since, person_id, withdrawn, limit)

    def violation_events(
        self, since: int = 0, *, person_id: str | None = None, withdrawn: bool = False, limit: int = 10_000
    ) -> list[Row]:
        """What the devices saw of a violation: those that were raised, the possible ones, and mere information."""
        return self._violations("1", since, person_id, withdrawn, limit)

    def _violations(self, which: str, since: int, person_id: str | None, withdrawn: bool, limit: int) -> list[Row]:
        rows = self._all(
            f"SELECT * FROM violations WHERE {which} AND revision > ?1 AND (?2 IS NULL OR person_id = ?2)"
            " AND (?3 OR state <> 'WITHDRAWN') ORDER BY revision LIMIT ?4",
            (since, person_id, withdrawn, limit),
        )
        return [violation(row) for row in rows]

    def alert_history(self, alert_id: str) -> list[Row]:
        """Every version of one alert, in the order in which the service said so."""
        rows = self._all("SELECT * FROM violation_history WHERE alert_id = ? ORDER BY revision", (alert_id,))
        return [
            violation({"alert_id": alert_id, "revision": row["revision"]} | json.loads(row["snapshot"])) for row in rows
        ]

    def records(self, device_id: int | None = None) -> list[Row]:
        """Raw records, by identity."""
        rows = self._all(
            "SELECT * FROM records WHERE (?1 IS NULL OR device_id = ?1) ORDER BY device_id, epoch, sequence",
            (device_id,),
        )
        return [_record(row) for row in rows]

    def quarantine(self, limit: int = 10_000) -> list[Row]:
        """Records that no activation covers or that could not be decoded, each with its reason."""
        rows = self._all(
            "SELECT * FROM records INDEXED BY records_quarantined WHERE quarantine_reason IS NOT NULL"
            " ORDER BY record_id LIMIT ?",
            (limit,),
        )
        return [_record(row) for row in rows]

    def positions(self, device_id: int, from_ms: int | None = None, until_ms: int | None = None) -> list[Row]:
        """Positions of a device by time; those without a time only when no span is asked for."""
        return [
            {
                "positionId": row["position_id"],
                "deviceId": row["device_id"],
                "gpsDate": iso(row["gps_date"]),
                "recordedDate": iso(row["recorded_date"]),
                "uploadedDate": iso(row["uploaded_date"]),
                "receivedDate": iso(row["received_date"]),
                "latitude": row["latitude_microdegrees"] / 1e6,
                "longitude": row["longitude_microdegrees"] / 1e6,
                "speed": row["speed"],
                "direction": row["direction"],
                "precision": row["precision"],
                "satellite": row["satellite"],
                "hdop": row["hdop"],
                "mechanism": row["mechanism"],
                "mechanismName": vocabulary.MECHANISM_NAMES.get(row["mechanism"]),
                "record": _identity(row),
            }
            for row in self._about("positions", "gps_date", "device_id", device_id, from_ms, until_ms)
        ]

    def events(
        self, device_id: int | None = None, from_ms: int | None = None, until_ms: int | None = None
    ) -> list[Row]:
        """What devices reported, with the published keys; `deviceId` is the device the event is about."""
        found = []
        for row in self._about("events", "event_start_date", "device_id", device_id, from_ms, until_ms):
            kind = vocabulary.event_type(row["event_type_id"])
            found.append(
                {
                    "eventId": row["event_id"],
                    "deviceId": row["device_id"],
                    "reportingDeviceId": row["reporting_device_id"],
                    "eventStartDate": iso(row["event_start_date"]),
                    "eventEndDate": iso(row["event_start_date"]),
                    "eventRecordedDate": iso(row["recorded_date"]),
                    "eventUploadedDate": iso(row["uploaded_date"]),
                    "eventReceivedDate": iso(row["received_date"]),
                    "timeSource": row["time_source"],
                    "eventTypeId": kind.event_type_id,
                    "eventTypeName": kind.name,
                    "eventTypeCode": kind.code,
                    "eventTypeCriticality": kind.criticality.value,
                    "eventStatus": row["event_status"],
                    "value": row["value"],
                    "evidence": bytes(row["evidence"]).hex(),
                    "record": _identity(row),
                }
            )
        return found

    def readings(
        self, device_id: int | None = None, from_ms: int | None = None, until_ms: int | None = None
    ) -> list[Row]:
        """Alcohol readings by time."""
        return [
            {
                "readingId": row["reading_id"],
                "deviceId": row["device_id"],
                "readingDate": iso(row["reading_date"]),
                "recordedDate": iso(row["recorded_date"]),
                "uploadedDate": iso(row["uploaded_date"]),
                "receivedDate": iso(row["received_date"]),
                "tacMicrogramsPerLitre": row["tac_ug_per_l"],
                "tacGramsPerDecilitre": row["tac_ug_per_l"] / 1e7,
                "contactMillivolts": row["contact_ir_mv"],
                "skinTemperatureCelsius": row["skin_temperature_centi_celsius"] / 100,
                "motionCount": row["motion_count"],
                "quality": [name for bit, name in vocabulary.QUALITY_BITS.items() if row["quality"] & bit],
                "record": _identity(row),
            }
            for row in self._about("readings", "reading_date", "device_id", device_id, from_ms, until_ms)
        ]

    def presences(
        self, beacon_id: int | None = None, from_ms: int | None = None, until_ms: int | None = None
    ) -> list[Row]:
        """What home units heard of a pid, by time."""
        return [
            {
                "deviceId": row["device_id"],
                "beaconId": row["beacon_id"],
                "authenticity": vocabulary.AUTHENTICITY_NAMES.get(row["authenticity"], str(row["authenticity"])),
                "windowStartDate": iso(row["window_start_date"]),
                "windowEndDate": iso(row["window_end_date"]),
                "recordedDate": iso(row["recorded_date"]),
                "uploadedDate": iso(row["uploaded_date"]),
                "receivedDate": iso(row["received_date"]),
                "listenedSeconds": row["listened_s"],
                "deafSeconds": row["deaf_s"],
                "heardCount": row["heard_count"],
                "firstHeardSeconds": row["first_heard_s"],
                "lastHeardSeconds": row["last_heard_s"],
                "rssiMinimum": row["rssi_minimum_dbm"],
                "rssiMedian": row["rssi_median_dbm"],
                "rssiMaximum": row["rssi_maximum_dbm"],
                "beaconBatteryPercent": row["beacon_battery_percent"],
                "beaconStrapOpen": None if row["beacon_strap"] is None else bool(row["beacon_strap"]),
                "record": _identity(row),
            }
            for row in self._about("presences", "window_start_date", "beacon_id", beacon_id, from_ms, until_ms)
        ]

    def _about(
        self, table: str, date: str, owner: str, device_id: int | None, from_ms: int | None, until_ms: int | None
    ) -> list[sqlite3.Row]:
        conditions, values = ["1"], []
        for condition, value in (
            (f"t.{owner} = ?", device_id),
            (f"t.{date} >= ?", from_ms),
            (f"t.{date} < ?", until_ms),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        return self._all(
            "SELECT r.epoch, r.sequence, r.device_id AS reporter, r.recorded_date, r.uploaded_date, r.received_date,"
            f" t.* FROM {table} t JOIN records r USING (record_id) WHERE {' AND '.join(conditions)}"
            f" ORDER BY t.{date}, r.device_id, r.epoch, r.sequence",
            values,
        )

    def gaps(self, device_id: int | None = None) -> list[Row]:
        """Gap records: what will never come, and why."""
        return [
            {
                "deviceId": row["device_id"],
                "gapEpoch": row["gap_epoch"],
                "firstSequence": row["first_sequence"],
                "lastSequence": row["last_sequence"],
                "cause": vocabulary.GAP_CAUSES.get(row["cause"], str(row["cause"])),
                "record": _identity(row),
            }
            for row in self._all(
                "SELECT r.epoch, r.sequence, r.device_id AS reporter, g.* FROM gaps g JOIN records r USING (record_id)"
                " WHERE (?1 IS NULL OR g.device_id = ?1)"
                " ORDER BY g.device_id, gap_epoch, first_sequence, last_sequence, record_id",
                (device_id,),
            )
        ]

    def completeness(self, device_id: int | None = None) -> list[Row]:
        """The books of every boot epoch: made, received, accounted for by gap records, and missing without a word.

        `made` is what the device says (the next boot's hello, else its newest status) or what the highest sequence
        proves; it is `final` once the next boot has told. `complete`: final, and nothing missing.
        """
        gaps = self.gaps(device_id)
        found = []
        for row in self._all(
            "SELECT * FROM epochs WHERE (?1 IS NULL OR device_id = ?1) ORDER BY device_id, epoch", (device_id,)
        ):
            identity = (row["device_id"], row["epoch"])
            made = max(row["highest_sequence"] + 1, row["records_made"], row["final_records"] or 0)
            holes = self._holes(*identity, made) if row["received"] < made else []
            told = [gap for gap in gaps if (gap["deviceId"], gap["gapEpoch"]) == identity]
            missing = holes
            for gap in told:
                missing = _without(missing, gap["firstSequence"], gap["lastSequence"])
            missing_count = _size(missing)
            found.append(
                {
                    "deviceId": identity[0],
                    "epoch": identity[1],
                    "made": made,
                    "final": row["final_records"] is not None,
                    "received": row["received"],
                    "accounted": _size(holes) - missing_count,
                    "missing": missing_count,
                    "missingRanges": missing,
                    "gaps": [{name: gap[name] for name in ("firstSequence", "lastSequence", "cause")} for gap in told],
                    "duplicatesRefused": row["duplicates_refused"],
                    "conflicts": row["conflicts"],
                    "complete": row["final_records"] is not None and missing_count == 0,
                }
            )
        return found

    def _holes(self, device_id: int, epoch: int, made: int) -> list[list[int]]:
        """Ranges [first, last] of 0 ... made-1 that did not come."""
        return [
            [int(row[0]) + 1, int(row[1]) - 1]
            for row in self._all(
                "SELECT before, sequence FROM (SELECT sequence, lag(sequence, 1, -1) OVER (ORDER BY sequence) AS before"
                " FROM (SELECT sequence FROM records WHERE device_id = ?1 AND epoch = ?2 UNION ALL SELECT ?3))"
                " WHERE sequence > before + 1 ORDER BY before",
                (device_id, epoch, made),
            )
        ]


_DEVICES = """
SELECT d.*, a.device_activation_id, a.person_id, a.device_activation_date, a.device_deactivation_date,
    (SELECT count(*) FROM gaps g WHERE g.device_id = d.device_id) AS gap_records,
    (SELECT count(*) FROM records r INDEXED BY records_quarantined
        WHERE r.quarantine_reason IS NOT NULL AND r.device_id = d.device_id) AS quarantined
FROM devices d LEFT JOIN activations a ON a.device_id = d.device_id
    AND a.device_activation_date <= d.last_received_date
    AND coalesce(a.device_deactivation_date, d.last_received_date + 1) > d.last_received_date
ORDER BY d.device_id
"""


def _identity(row: sqlite3.Row) -> str:
    """Identity of the record a row came in, as evidence names it."""
    return f"{row['reporter']}/{row['epoch']}/{row['sequence']}"


def _record(row: sqlite3.Row) -> Row:
    return {
        "deviceId": row["device_id"],
        "epoch": row["epoch"],
        "sequence": row["sequence"],
        "alarm": bool(row["alarm"]),
        "link": row["link"],
        "gatewayId": row["gateway_id"],
        "batchId": row["batch_id"],
        "messageType": row["message_type"],
        "state": row["state"],
        "reason": row["reason"],
        "quarantineReason": row["quarantine_reason"],
        "recordedDate": iso(row["recorded_date"]),
        "recordedSource": row["recorded_source"],
        "clockUncertaintyMilliseconds": row["clock_uncertainty_ms"],
        "receivedDate": iso(row["received_date"]),
        "uploadedDate": iso(row["uploaded_date"]),
        "ingestedDate": iso(row["ingested_date"]),
        "payload": bytes(row["payload"]).hex(),
    }


def violation(row: sqlite3.Row | Row) -> Row:
    """One violation with the published keys. What people decide about it (the last three) is not known here yet."""
    code, end = row["alert_code"], row["end_date"]
    rest: Row = json.loads(row["body"])
    return {
        "alertId": row["alert_id"],
        "revision": row["revision"],
        "alertCode": code,
        "alertName": vocabulary.ALERT_NAMES[vocabulary.AlertCode(code)] if code else row["category"],
        "condition": row["condition"],
        "category": row["category"],
        "certainty": row["certainty"],
        "state": row["state"],
        "personId": row["person_id"],
        "deviceActivationId": row["device_activation_id"],
        "deviceId": row["device_id"],
        "startDate": iso(row["start_date"]),
        "endDate": iso(end),
        "duration": None if end is None else (end - row["start_date"]) // 1000,
        "raisedDate": iso(row["raised_date"]),
        "changedDate": iso(row["changed_date"]),
        "cause": row["cause"],
        "includedInTotalAtvCalculation": False,
        "outForEntireCurfewPeriod": False,
        "responseAction": None,
        "reasonableExcuse": None,
        "authorisedAbsence": None,
    } | rest


def _without(ranges: list[list[int]], first: int, last: int) -> list[list[int]]:
    """Ranges [from, to] less [first, last]."""
    found = []
    for start, end in ranges:
        found += [
            piece for piece in ([start, min(end, first - 1)], [max(start, last + 1), end]) if piece[0] <= piece[1]
        ]
    return found


def _size(ranges: list[list[int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)
