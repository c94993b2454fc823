"""From tables to evidence: what each condition needs of one device within one span of time, in no promised order."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emwire import constants

from emgate.backend.conditions import alcohol, curfew, exclusion_zone, power, tamper
from emgate.backend.conditions.finding import Identity
from emgate.backend.orders import FOR_EVER_MS, Order, order_from_json
from emgate.gateway_number import device_id_of

LONGEST_WINDOW_MS = 65_535_000
"""A presence window's duration is a u16 of seconds: none that began earlier reaches into a span."""


BESIDE = ("serial", "ble")
"""Links that end in the same home: what the gateway cannot hear there for foil or jamming, the unit cannot."""
SILENCE_EVENTS = (
    constants.EVENT_GATEWAY_HEARS_NOTHING,
    constants.EVENT_GATEWAY_HEARS_AGAIN,
    constants.EVENT_GATEWAY_STARTED,
)
"""What begins and ends such a time; a gateway that starts anew knows nothing of it any more."""


@dataclass(frozen=True, slots=True)
class Activation:
    """A device of a person for a time, unix ms [from, until)."""

    device_activation_id: str
    device_id: int
    person_id: str
    from_ms: int
    until_ms: int
    curfew_address: str | None
    charged: bool | None
    model: int | None  # as the device says of itself; None: it never did

    @property
    def wearer(self) -> tuple[int, str]:
        """(deviceId, deviceActivationId), as findings name it."""
        return self.device_id, self.device_activation_id


def activations(database: sqlite3.Connection, person_id: str) -> list[Activation]:
    """A person's activations."""
    return [
        Activation(
            row["device_activation_id"],
            row["device_id"],
            row["person_id"],
            row["device_activation_date"],
            row["device_deactivation_date"] or FOR_EVER_MS,
            row["curfew_address"],
            None if row["charged"] is None else bool(row["charged"]),
            row["device_model"],
        )
        for row in database.execute(
            "SELECT a.*, d.device_model FROM activations a LEFT JOIN devices d USING (device_id)"
            " WHERE person_id = ? ORDER BY device_activation_id",
            (person_id,),
        )
    ]


def orders(database: sqlite3.Connection, person_id: str) -> list[Order]:
    """A person's orders."""
    rows = database.execute("SELECT body FROM orders WHERE person_id = ? ORDER BY order_id", (person_id,))
    return [order_from_json(row["body"]) for row in rows]


def _identity(row: sqlite3.Row) -> Identity:
    return Identity(row["device_id"], row["epoch"], row["sequence"])


def windows(database: sqlite3.Connection, pid: Activation, from_ms: int, until_ms: int) -> Iterator[curfew.Window]:
    """Presence windows about a pid that overlap the span; not listened when a gateway beside the unit was deaf."""
    deaf: dict[str, list[tuple[int, int]]] = {}
    for row in database.execute(
        "SELECT p.*, r.epoch, r.sequence, r.gateway_id, r.link FROM presences p JOIN records r USING (record_id)"
        " WHERE p.beacon_id = ? AND p.window_start_date > ? AND p.window_start_date < ? AND p.window_end_date > ?",
        (pid.device_id, from_ms - LONGEST_WINDOW_MS, until_ms, from_ms),
    ):
        start, end, gateway_id = row["window_start_date"], row["window_end_date"], row["gateway_id"]
        listened_ms = row["listened_s"] * 1000
        if row["link"] in BESIDE:
            if gateway_id not in deaf:
                deaf[gateway_id] = silences(database, gateway_id, from_ms - LONGEST_WINDOW_MS)
            listened_ms -= sum(max(0, min(end, until) - max(start, since)) for since, until in deaf[gateway_id])
        # A beacon judged copied or replayed proves nothing either way: a pid that lost its counter sounds the same.
        heard = row["heard_count"] > 0 and row["first_heard_s"] is not None and row["last_heard_s"] is not None
        authentic = heard and row["authenticity"] == constants.AUTHENTICITY_AUTHENTIC
        yield curfew.Window(
            row["device_id"],
            start,
            end,
            max(0, listened_ms),
            start + row["first_heard_s"] * 1000 if authentic else None,
            start + row["last_heard_s"] * 1000 if authentic else None,
            heard and not authentic,
            _identity(row),
        )


def silences(database: sqlite3.Connection, gateway_id: str, from_ms: int) -> list[tuple[int, int]]:
    """When this gateway heard nobody at all where somebody always is heard: unix ms, what ended after `from_ms`."""
    begins, *ends = SILENCE_EVENTS
    own = device_id_of(gateway_id)
    which = "FROM events WHERE device_id = ? AND event_type_id = ? AND reporting_device_id = device_id"
    (first,) = database.execute(
        f"SELECT max(event_start_date) {which} AND event_start_date < ?", (own, begins, from_ms)
    ).fetchone()
    found = []
    for row in database.execute(
        f"SELECT event_start_date, value {which} AND event_start_date >= ?",
        (own, begins, from_ms if first is None else first),
    ).fetchall():
        moment = row["event_start_date"]
        over = [
            database.execute(f"SELECT min(event_start_date) {which} AND event_start_date >= ?", (own, kind, moment))
            for kind in ends
        ]
        ended = [date for (date,) in (cursor.fetchone() for cursor in over) if date is not None]
        found.append((moment - row["value"] * 1000, min(ended, default=FOR_EVER_MS)))
    return found


def is_home_unit(database: sqlite3.Connection, activation: Activation) -> bool:
    """Whether an activation is of a home unit: by its address, its model, or what it reported."""
    if activation.curfew_address is not None or activation.model == constants.MODEL_HOME_UNIT:
        return True
    return _exists(database, "SELECT 1 FROM presences WHERE device_id = ? LIMIT 1", activation.device_id)


def is_pid(database: sqlite3.Connection, activation: Activation) -> bool:
    """Whether home units speak of the device: a pid never reports by itself."""
    return _exists(database, "SELECT 1 FROM presences WHERE beacon_id = ? LIMIT 1", activation.device_id)


def is_charged(database: sqlite3.Connection, activation: Activation) -> bool:
    """Whether the wearer charges the device."""
    if activation.charged is not None:
        return activation.charged
    if activation.model is not None:
        return activation.model != constants.MODEL_PID
    return not is_pid(database, activation)


def _exists(database: sqlite3.Connection, query: str, device_id: int) -> bool:
    return database.execute(query, (device_id,)).fetchone() is not None


def points(database: sqlite3.Connection, device_id: int, from_ms: int, until_ms: int) -> list[exclusion_zone.Point]:
    """Positions of a device within [from, until)."""
    return [
        exclusion_zone.Point(
            row["gps_date"],
            row["latitude_microdegrees"] / 1e6,
            row["longitude_microdegrees"] / 1e6,
            row["precision"],
            row["mechanism"],
            row["speed"],
            Identity(device_id, row["epoch"], row["sequence"], row["item"]),
        )
        for row in database.execute(
            "SELECT p.*, r.epoch, r.sequence FROM positions p JOIN records r USING (record_id)"
            " WHERE p.device_id = ? AND p.gps_date >= ? AND p.gps_date < ?",
            (device_id, from_ms, until_ms),
        )
    ]


def first_point_after(
    database: sqlite3.Connection, device_id: int, from_ms: int, until_ms: int
) -> list[exclusion_zone.Point]:
    """The first usable position of [from, until) and those of the same moment, if there is one."""
    row = database.execute(
        "SELECT gps_date FROM positions WHERE device_id = ? AND gps_date >= ? AND gps_date < ? AND mechanism IS NOT ?"
        " ORDER BY gps_date LIMIT 1",
        (device_id, from_ms, until_ms, constants.MECHANISM_LBS),
    ).fetchone()
    return [] if row is None else points(database, device_id, row["gps_date"], row["gps_date"] + 1)


def readings(database: sqlite3.Connection, device_id: int, from_ms: int, until_ms: int) -> list[alcohol.Reading]:
    """Alcohol readings of a device within [from, until)."""
    return [
        alcohol.Reading(row["reading_date"], row["tac_ug_per_l"], row["contact_ir_mv"], row["quality"], _identity(row))
        for row in database.execute(
            "SELECT g.*, r.epoch, r.sequence FROM readings g JOIN records r USING (record_id)"
            " WHERE g.device_id = ? AND g.reading_date >= ? AND g.reading_date < ?",
            (device_id, from_ms, until_ms),
        )
    ]


def observations(
    database: sqlite3.Connection, activation: Activation, event_types: Sequence[int]
) -> list[tamper.Observation]:
    """Events of these types about a device while it was activated."""
    found: list[tamper.Observation] = []
    for event_type in event_types:
        found.extend(
            tamper.Observation(
                row["event_start_date"],
                Identity(row["reporting_device_id"], row["epoch"], row["sequence"]),
                event_type,
                row["value"],
            )
            for row in database.execute(
                "SELECT e.*, r.epoch, r.sequence FROM events e JOIN records r USING (record_id)"
                " WHERE e.device_id = ? AND e.event_type_id = ? AND e.event_start_date >= ? AND e.event_start_date < ?",
                (activation.device_id, event_type, activation.from_ms, activation.until_ms),
            )
        )
    return found


_PRESENCE = "SELECT p.*, r.epoch, r.sequence FROM presences p JOIN records r USING (record_id) WHERE p.beacon_id = ?"
_ACTIVE = " AND p.window_start_date >= ? AND p.window_start_date < ?"


def beacon_observations(database: sqlite3.Connection, activation: Activation) -> list[tamper.Observation]:
    """What home units say of a pid, as events: its strap (believed of an authentic beacon only), and copies of it."""
    span = (activation.device_id, activation.from_ms, activation.until_ms)
    found: list[tamper.Observation] = []
    opened = database.execute(
        _PRESENCE + _ACTIVE + " AND p.beacon_strap = 1 AND p.authenticity = 1 ORDER BY p.window_start_date", span
    ).fetchall()
    for number, row in enumerate(opened):
        found.append(tamper.Observation(_heard_ms(row), _identity(row), constants.EVENT_STRAP_CUT))
        until = opened[number + 1]["window_start_date"] if number + 1 < len(opened) else activation.until_ms
        # The first that says closed, before the next that says open: one row by the index, however long that took.
        closed = database.execute(
            _PRESENCE + " AND p.window_start_date > ? AND p.window_start_date < ? AND p.beacon_strap = 0"
            " AND p.authenticity = 1 ORDER BY p.window_start_date LIMIT 1",
            (activation.device_id, row["window_start_date"], until),
        ).fetchone()
        if closed is not None:
            found.append(tamper.Observation(_heard_ms(closed), _identity(closed), constants.EVENT_STRAP_RESTORED))
    found.extend(
        tamper.Observation(row["window_start_date"], _identity(row), constants.EVENT_BEACON_COPIED)
        for row in database.execute(_PRESENCE + _ACTIVE + " AND p.authenticity IN (2, 3)", span)
    )
    return found


def _heard_ms(row: sqlite3.Row) -> int:
    last = row["last_heard_s"]
    return int(row["window_end_date"] if last is None else row["window_start_date"] + last * 1000)


def levels(
    database: sqlite3.Connection, activation: Activation, observed: Sequence[tamper.Observation]
) -> list[power.Level]:
    """Battery levels that matter for the power events: the day before each, and the first one that ends it."""
    found: set[power.Level] = set()
    warnings = (constants.EVENT_BATTERY_LOW, constants.EVENT_BATTERY_CRITICAL)
    for item in observed:
        if item.event_type in warnings:
            from_ms = item.time_ms - power.CHARGE_LOOK_BACK_MS
            found.update(_status_levels(database, activation, from_ms, item.time_ms, -1, ""))
            found.update(_status_levels(database, activation, item.time_ms, activation.until_ms, 1, _ENDING))
    low = database.execute(
        _PRESENCE + _ACTIVE + " AND p.beacon_battery_percent <= 20 AND p.authenticity = 1 ORDER BY p.window_start_date",
        (activation.device_id, activation.from_ms, activation.until_ms),
    ).fetchall()
    after = -1
    for row in low:
        if row["window_start_date"] < after:
            continue  # the same low battery
        found.add(power.Level(row["window_start_date"], row["beacon_battery_percent"], False, _identity(row)))
        better = database.execute(
            _PRESENCE + _ACTIVE + " AND p.beacon_battery_percent > 20 AND p.authenticity = 1"
            " ORDER BY p.window_start_date LIMIT 1",
            (activation.device_id, row["window_start_date"], activation.until_ms),
        ).fetchone()
        if better is None:
            break
        after = better["window_start_date"]
        found.add(power.Level(after, better["beacon_battery_percent"], False, _identity(better)))
    return list(found)


_ENDING = f" AND (s.charging = 1 OR s.battery_percent > {power.LOW_PERCENT})"


def _status_levels(
    database: sqlite3.Connection, activation: Activation, from_ms: int, until_ms: int, limit: int, extra: str
) -> list[power.Level]:
    return [
        power.Level(row["status_date"], row["battery_percent"], bool(row["charging"]), _identity(row))
        for row in database.execute(
            "SELECT * FROM statuses s WHERE s.device_id = ? AND s.status_date > ? AND s.status_date <= ?"
            f"{extra} ORDER BY s.status_date LIMIT ?",
            (activation.device_id, max(from_ms, activation.from_ms), until_ms, limit),
        )
    ]
