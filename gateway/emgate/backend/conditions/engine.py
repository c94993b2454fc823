"""The engine: judges a span of evidence anew and brings the violations of that span up to date.

A judgement depends on the evidence and the time alone, never on the order of arrival: every span is widened until
nothing outside it can matter, judged as a whole, and its findings replace the earlier ones. A finding keeps its
alertId as long as its cause is the same; one whose cause is gone is withdrawn, not deleted.
"""

import json
import sqlite3
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from emgate.backend.conditions import alcohol, curfew, evidence, exclusion_zone, power, tamper
from emgate.backend.conditions.evidence import Activation
from emgate.backend.conditions.finding import Finding
from emgate.backend.orders import FOR_EVER_MS, EnforcementZone, Order
from emgate.backend.vocabulary import State, iso

ALERT_NAMESPACE = uuid.UUID("6a3f5f0e-5d0b-5c3a-9a55-2f1b3d1c7e60")  # any fixed one: same cause, same alertId


@dataclass(slots=True)
class Judgement:
    """One person and one condition within one span, inside a transaction. `changed` counts violations that changed."""

    database: sqlite3.Connection
    person_id: str
    condition: str
    from_ms: int
    to_ms: int
    now_ms: int
    changed: int = 0

    def run(self) -> int:
        """Judge; returns how many violations changed."""
        own = evidence.activations(self.database, self.person_id)
        orders = evidence.orders(self.database, self.person_id)
        judge: dict[str, Callable[[list[Activation], list[Order]], set[str]]] = {
            "curfew": self._curfew,
            "exclusion_zone": self._zones,
            "alcohol": self._alcohol,
            "tamper": self._tamper,
            "power": self._power,
        }
        keys = judge[self.condition](own, orders)
        self._withdraw_other_instances(keys)
        return self.changed

    def _curfew(self, own: list[Activation], orders: list[Order]) -> set[str]:
        keys = set()
        units = [item for item in own if evidence.is_home_unit(self.database, item)]
        pids = [item for item in own if item not in units and evidence.is_pid(self.database, item)]
        for order in orders:
            if order.curfew is None:
                continue
            latest = max(self.now_ms, self._latest_window([pid.device_id for pid in pids]))
            span = (self.from_ms - curfew.LOOK_BACK_MS, min(self.to_ms, latest) + curfew.LOOK_BACK_MS)
            periods = curfew.periods(order.curfew, order.timezone, order.span_ms(), span)
            rules = curfew.Rules.of(order.curfew)
            authorised = [
                order.span_ms(absence.startDate, absence.endDate) for absence in order.curfew.authorisedAbsences
            ]
            for pid in pids:
                key = f"curfew/{order.orderId}/{pid.device_activation_id}"
                keys.add(key)
                for period in periods:
                    if period.start_ms < pid.until_ms and period.end_ms > pid.from_ms:
                        self._period(order, period, pid, units, rules, authorised, key)
        return keys

    def _period(
        self,
        order: Order,
        period: curfew.Period,
        pid: Activation,
        units: list[Activation],
        rules: curfew.Rules,
        authorised: list[tuple[int, int]],
        key: str,
    ) -> None:
        at_home = [
            curfew.Unit(unit.device_id, unit.from_ms, unit.until_ms)
            for unit in units
            if unit.curfew_address is None or unit.curfew_address in period.addresses
        ]
        # The pid is the wearer's only while it is activated: clip what is judged to that.
        clipped = curfew.Period(max(period.start_ms, pid.from_ms), min(period.end_ms, pid.until_ms), period.addresses)
        heard = evidence.windows(self.database, pid, clipped.start_ms - curfew.LOOK_BACK_MS, clipped.end_ms)
        found = curfew.judge(clipped, list(heard), at_home, authorised, self.now_ms, rules, pid.wearer)
        self._replace(key, found, clipped.start_ms, clipped.start_ms, order.orderId, clipped.end_ms)

    def _latest_window(self, beacons: list[int]) -> int:
        marks = ", ".join("?" * len(beacons))
        row = self.database.execute(
            f"SELECT max(window_end_date) FROM presences WHERE beacon_id IN ({marks})", beacons
        ).fetchone()
        return int(row[0] or 0)

    def _zones(self, own: list[Activation], orders: list[Order]) -> set[str]:
        keys = set()
        for order in orders:
            for zone in order.enforcementZones:
                if zone.zoneType != "EXCLUSION":
                    continue
                from_ms, until_ms = order.span_ms(zone.startDate, zone.endDate)
                for item in own:
                    first, until = max(from_ms, item.from_ms), min(until_ms, item.until_ms)
                    if first < until:
                        key = f"exclusion_zone/{order.orderId}/{zone.zoneId}/{item.device_activation_id}"
                        keys.add(key)
                        self._zone(order, zone, item, first, until, key)
        return keys

    def _zone(
        self, order: Order, zone: EnforcementZone, item: Activation, first_ms: int, until_ms: int, key: str
    ) -> None:
        """Widen the span until an hour on either side holds no point that touches the zone; then judge it."""
        from_ms, to_ms = max(self.from_ms, first_ms), min(self.to_ms + 1, until_ms)
        if from_ms >= to_ms:
            return
        opened = self.database.execute(
            "SELECT min(scope_date) FROM violations WHERE person_id = ? AND condition_key = ? AND state = 'OPEN'",
            (self.person_id, key),
        ).fetchone()[0]
        if opened is not None:
            from_ms = min(from_ms, max(opened, first_ms))
        hour = exclusion_zone.SEPARATION_MS

        def touching(start: int, end: int) -> list[int]:
            inside = evidence.points(self.database, item.device_id, max(start, first_ms), min(end, until_ms))
            return [point.time_ms for point in inside if exclusion_zone.place(zone, point) != exclusion_zone.OUTSIDE]

        while times := touching(from_ms - hour, from_ms):
            from_ms = min(times)
        while times := touching(to_ms, to_ms + hour):
            to_ms = max(times) + 1
        start, end = max(from_ms - hour, first_ms), min(to_ms + hour, until_ms)
        points = evidence.points(self.database, item.device_id, start, end)
        points += evidence.first_point_after(self.database, item.device_id, end, until_ms)
        found = exclusion_zone.judge(zone, points, exclusion_zone.Rules.of(zone), item.wearer)
        inside = [finding for finding in found if from_ms <= finding.start_ms < to_ms]
        self._replace(key, inside, from_ms, to_ms - 1, order.orderId, until_ms)

    def _alcohol(self, own: list[Activation], orders: list[Order]) -> set[str]:
        keys = set()
        for item in own:
            every = evidence.readings(self.database, item.device_id, item.from_ms, item.until_ms)
            key = f"alcohol_contact/{item.device_activation_id}"
            keys.add(key)
            self._replace(key, alcohol.judge_contact(every, item.wearer), 0, FOR_EVER_MS, None, item.until_ms)
            for order in orders:
                if order.alcohol is None:
                    continue
                from_ms, until_ms = order.span_ms(order.alcohol.startDate, order.alcohol.endDate)
                readings = [reading for reading in every if from_ms <= reading.time_ms < until_ms]
                key = f"alcohol/{order.orderId}/{item.device_activation_id}"
                keys.add(key)
                found = alcohol.judge(readings, alcohol.threshold(order.alcohol), item.wearer)
                self._replace(key, found, 0, FOR_EVER_MS, order.orderId, min(until_ms, item.until_ms))
        return keys

    def _tamper(self, own: list[Activation], orders: list[Order]) -> set[str]:
        keys = set()
        for item in own:
            seen = evidence.observations(self.database, item, tamper.ALL_EVENTS)
            seen += evidence.beacon_observations(self.database, item)
            key = f"tamper/{item.device_activation_id}"
            keys.add(key)
            now_ms = min(self.now_ms, item.until_ms)  # a strap that is nobody's any more is not raised again
            self._replace(key, tamper.judge(seen, now_ms, item.wearer), 0, FOR_EVER_MS, None, item.until_ms)
        return keys

    def _power(self, own: list[Activation], orders: list[Order]) -> set[str]:
        keys = set()
        for item in own:
            seen = evidence.observations(self.database, item, power.EVENTS)
            levels = evidence.levels(self.database, item, seen)
            charged = evidence.is_charged(self.database, item)
            key = f"power/{item.device_activation_id}"
            keys.add(key)
            self._replace(key, power.judge(seen, levels, charged, item.wearer), 0, FOR_EVER_MS, None, item.until_ms)
        return keys

    def _replace(
        self,
        key: str,
        found: Iterable[Finding],
        scope_from: int,
        scope_to: int,
        order_id: str | None,
        until_ms: int,
    ) -> None:
        """Make the violations of an instance whose scope lies in [from, to] those that were found.

        Nothing stays open beyond `until_ms`, the end of what is monitored.
        """
        rows = self.database.execute(
            "SELECT * FROM violations WHERE person_id = ? AND condition_key = ? AND scope_date BETWEEN ? AND ?",
            (self.person_id, key, scope_from, scope_to),
        ).fetchall()
        before = {row["alert_id"]: row for row in rows}
        for finding in (self._ended(finding, until_ms) for finding in found):
            alert_id = str(uuid.uuid5(ALERT_NAMESPACE, f"{self.person_id}/{key}/{finding.key}"))
            self._write(alert_id, key, finding, order_id, before.pop(alert_id, None))
        for row in before.values():
            if row["state"] != State.WITHDRAWN:
                self._withdraw(row, "later evidence shows that it was not so")

    def _ended(self, finding: Finding, until_ms: int) -> Finding:
        if finding.end_ms is not None or until_ms >= FOR_EVER_MS:
            return finding
        if self.now_ms < until_ms:
            return replace(finding, due_ms=min(finding.due_ms or until_ms, until_ms))
        cause = f"{finding.cause} Monitoring ended meanwhile."
        return replace(finding, end_ms=max(finding.start_ms, until_ms), due_ms=None, cause=cause)

    def _write(
        self, alert_id: str, key: str, finding: Finding, order_id: str | None, before: sqlite3.Row | None
    ) -> None:
        state = State.OPEN if finding.end_ms is None else State.CLOSED
        raised = finding.raised_ms or (finding.start_ms,)
        body = json.dumps(
            {
                "orderId": order_id,
                "raisedDates": [iso(moment) for moment in raised],
                "evidence": _dated(finding.evidence),
            }
            | _dated(finding.extra),
            sort_keys=True,
            ensure_ascii=False,
        )
        values = {
            "condition": self.condition,
            "condition_key": key,
            "scope_date": finding.start_ms if finding.scope_ms is None else finding.scope_ms,
            "raised": int(finding.raised),
            "alert_code": finding.alert_code.value if finding.alert_code else None,
            "category": finding.category.value,
            "certainty": finding.certainty.value,
            "state": state.value,
            "person_id": self.person_id,
            "device_activation_id": finding.device_activation_id,
            "device_id": finding.device_id,
            "start_date": finding.start_ms,
            "end_date": finding.end_ms,
            "due_date": finding.due_ms,
            "cause": finding.cause,
            "body": body,
        }
        if before is not None and all(before[name] == value for name, value in values.items()):
            return
        self._save(alert_id, values | {"raised_date": self.now_ms if before is None else before["raised_date"]})

    def _withdraw(self, row: sqlite3.Row, why: str) -> None:
        values = dict(row)
        del values["alert_id"], values["revision"], values["changed_date"]
        values |= {
            "state": State.WITHDRAWN.value,
            "due_date": None,
            "cause": f"Withdrawn: {why}. It had said: {row['cause']}",
        }
        self._save(row["alert_id"], values)

    def _save(self, alert_id: str, values: dict[str, Any]) -> None:
        values = values | {"changed_date": self.now_ms}
        shown = {name: value for name, value in values.items() if name not in ("scope_date", "due_date")}
        revision = self.database.execute(
            "INSERT INTO violation_history (alert_id, changed_date, snapshot) VALUES (?, ?, ?)",
            (alert_id, self.now_ms, json.dumps(shown, sort_keys=True, ensure_ascii=False)),
        ).lastrowid
        values = {"alert_id": alert_id, "revision": revision} | values
        self.database.execute(
            f"INSERT OR REPLACE INTO violations ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
            tuple(values.values()),
        )
        self.changed += 1

    def _withdraw_other_instances(self, keys: set[str]) -> None:
        """Violations of orders, zones or activations that are no longer loaded; looked for only when all is judged."""
        if self.from_ms > 0:
            return
        for row in self.database.execute(
            "SELECT * FROM violations WHERE person_id = ? AND condition = ? AND state <> ?",
            (self.person_id, self.condition, State.WITHDRAWN.value),
        ).fetchall():
            if row["condition_key"] not in keys:
                self._withdraw(row, "the order or activation it belonged to is no longer loaded")


def _dated(values: dict[str, Any]) -> dict[str, Any]:
    """Keys that end in Ms hold moments: shown as ISO dates."""
    return {
        f"{name[:-2]}Date" if name.endswith("Ms") else name: iso(value) if name.endswith("Ms") else value
        for name, value in values.items()
    }
