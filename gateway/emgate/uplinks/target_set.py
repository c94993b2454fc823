"""All uplink targets of a gateway: each with its supervisor, its drain, its budget, and its requests from above.

They are taken up, let go and restarted alone while the gateway runs; each goes on from its own cursors in the store.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from emgate.clock import Clock
from emgate.config import UplinkSection
from emgate.down.requests import Requests
from emgate.own_records import OwnRecords
from emgate.store.store import Record, Store
from emgate.supervisor import Supervisor
from emgate.uplinks import Uplink
from emgate.uplinks.asked import AskedDown
from emgate.uplinks.drain import Drain, Marks
from emgate.uplinks.meter import Meter

log = structlog.get_logger(__name__)

Delivered = Callable[[list[Record]], None]
LET_GO_S = 5.0
"""A target that is taken away says goodbye to its broker within this, or is left behind."""


def consumers(sections: tuple[UplinkSection, ...]) -> dict[str, bool]:
    """For the store: name → whether it counts for *delivered*."""
    return {section.name: section.required for section in sections}


class Target:
    """One target and what belongs to it."""

    def __init__(
        self,
        section: UplinkSection,
        uplink: Uplink,
        drain: Drain,
        meter: Meter,
        asked: AskedDown,
        supervisor: Supervisor,
    ) -> None:
        self.section = section
        self.uplink = uplink
        self.drain = drain
        self.meter = meter
        self.asked = asked
        self.supervisor = supervisor
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Run it."""
        name = self.section.name
        self._tasks = [
            asyncio.create_task(self.supervisor.run(), name=f"uplink {name}"),
            asyncio.create_task(self._drain_for_ever(), name=f"drain {name}"),
            asyncio.create_task(self.asked.run(), name=f"requests {name}"),
        ]

    async def _drain_for_ever(self) -> None:
        """A defect in one lane must not end delivery."""
        while True:
            try:
                await self.drain.run()
            except* Exception as errors:
                self.drain.counters["restarted"] += 1
                log.error(
                    "delivery stopped; starting it again",
                    target=self.section.name,
                    errors=[repr(error) for error in errors.exceptions],
                )
            await asyncio.sleep(1)

    async def stop(self, timeout_s: float) -> None:
        """End it; what was not acknowledged stays in the store."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                log.warning("did not end in time", what=task.get_name())
        if self.section.kind == "local":
            await asyncio.to_thread(self.uplink.close)  # type: ignore[attr-defined]

    def facts(self, missed: int) -> dict[str, Any]:
        """For the status. `missed`: records that were pruned before this target had them, since the store was made."""
        counters = {
            **self.drain.counters,
            **self.uplink.counters,
            **self.asked.counters,
            **self.meter.counters,
            **self.meter.levels(),
            "missed": missed,
        }
        plain = counters.get("bytes_plain", 0)
        waits = "waits for its budget" if self.meter.waiting and not self.uplink.up.is_set() else None
        return {
            "target": self.section.name,
            "name": self.uplink.name,
            "required": self.section.required,
            "up": self.uplink.up.is_set(),
            "reason": getattr(self.uplink, "last_problem", None) or self.supervisor.last_reason or waits,
            "restarts": dict(self.supervisor.restarts),
            "databaseBytes": getattr(self.uplink, "database_bytes", None),
            "compressedTo": round(counters["bytes_packed"] / plain, 3) if plain else None,
            **counters,
        }


class TargetSet:
    """`load`, then `start`, then `apply` as often as the configuration changes, then `stop`."""

    def __init__(
        self,
        sections: tuple[UplinkSection, ...],
        gateway_id: str,
        state_directory: Path,
        store: Store,
        clock: Clock,
        requests: Requests,
        delivered: Delivered,
        marks: Callable[[], Marks],
        *,
        maximum_s: float,
        events: OwnRecords | None = None,
    ) -> None:
        self._gateway_id = gateway_id
        self._state_directory = state_directory
        self._store = store
        self._clock = clock
        self._requests = requests
        self._delivered = delivered
        self._marks = marks
        self._maximum_s = maximum_s
        self._events = events
        self._targets = {section.name: self._make(section) for section in sections}
        requests.changed = self._changed

    def __iter__(self) -> Iterator[Supervisor]:
        return iter([target.supervisor for target in self._targets.values()])

    async def load(self) -> None:
        """Before `start`: budgets go on where the last run left them."""
        for target in self._targets.values():
            await target.meter.load()

    def start(self) -> None:
        """Run them all."""
        for target in self._targets.values():
            target.start()

    async def apply(self, sections: tuple[UplinkSection, ...], maximum_s: float) -> list[str]:
        """Go by other targets, and try again within `maximum_s`; what changed. StoreError: all is as it was.

        A target that is new, or has another section, is made anew and goes on from its cursors. One that is not listed
        any more is not waited for: what only it lacked counts as delivered."""
        self._maximum_s = maximum_s
        for supervisor in self:
            supervisor.maximum_s = maximum_s
        wanted = {section.name: section for section in sections}
        running = {name: target.section for name, target in self._targets.items()}
        if tuple(wanted.values()) == tuple(running.values()):
            return []
        stale = [name for name, section in running.items() if name not in wanted or _differ(section, wanted[name])]
        fresh = [name for name in wanted if name in stale or name not in running]
        await asyncio.gather(*(self._targets[name].stop(LET_GO_S) for name in stale))
        try:
            lacked = await self._store.go_by(consumers(sections))
        except Exception:
            for name in stale:
                await self._begin(running[name])
            raise
        for name in stale:
            del self._targets[name]
        for name in fresh:
            await self._begin(wanted[name])
        said = []
        for name, rows in lacked.items():
            log.warning(
                "an uplink target was removed: nothing waits for it any more", target=name, rows_lacked_at_most=rows
            )
            said.append(f"uplink {name} (removed; nothing waits for it any more, it lacked {rows} rows at most)")
        for name, section in wanted.items():
            self._targets[name].section = section  # one may have become required, or not
            if name in fresh or running[name] != section:
                said.append(f"uplink {name}")
        self._targets = {name: self._targets[name] for name in wanted}
        await self._store.catch_up()  # which takes a while where one lagged
        return said

    async def _begin(self, section: UplinkSection) -> None:
        target = self._targets[section.name] = self._make(section)
        await target.meter.load()
        target.start()

    async def stop(self, timeout_s: float) -> None:
        """End them; what was not acknowledged stays in the store."""
        await asyncio.gather(*(target.stop(timeout_s) for target in self._targets.values()))

    def facts(self) -> list[dict[str, Any]]:
        """For the status."""
        return [target.facts(self._store.missed.get(name, 0)) for name, target in self._targets.items()]

    def _changed(self, origin: str) -> None:
        if origin in self._targets:
            self._targets[origin].asked.changed.set()

    def _make(self, section: UplinkSection) -> Target:
        meter = Meter(section.name, section.metered.limits() if section.metered else {}, self._store, self._clock)
        asked = AskedDown(section.name, self._requests)
        uplink = self._make_uplink(section, meter, asked)
        drain = Drain(
            self._store,
            section.name,
            uplink,
            self._clock,
            self._gateway_id,
            section.batch_records,
            self._delivered,
            self._marks,
            batch_bytes=meter.largest,
            asked=asked,
        )
        supervisor = Supervisor(
            uplink,
            maximum_s=self._maximum_s,
            events=self._events,
            urgent=meter.urgent if section.metered else None,
        )
        return Target(section, uplink, drain, meter, asked, supervisor)

    def _make_uplink(self, section: UplinkSection, meter: Meter, asked: AskedDown) -> Uplink:
        # Each kind brings libraries of its own into memory, so that only what is configured is imported.
        gateway_id = self._gateway_id
        if section.kind == "mqtt":
            from emgate.uplinks.mqtt import MqttUplink

            return MqttUplink(section.mqtt(), gateway_id, target=section.name, meter=meter, take_down=asked.take)
        if section.kind == "https":
            from emgate.uplinks.https import HttpsUplink

            assert section.https is not None, "as the configuration was checked"
            return HttpsUplink(section.https, gateway_id, name=section.name, meter=meter, take_down=asked.take)
        from emgate.uplinks.local import LocalUplink

        database = section.database or self._state_directory / "backend.sqlite"
        return LocalUplink(database, self._clock, asked.take, maximum_bytes=section.maximum_bytes)


def _differ(before: UplinkSection, now: UplinkSection) -> bool:
    """In more than what the store knows."""
    return before.model_copy(update={"required": now.required}) != now
