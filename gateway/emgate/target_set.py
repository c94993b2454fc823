"""All uplink targets of a gateway: each with its supervisor, its drain, its budget, and its requests from above."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from emgate.clock import Clock
from emgate.config import UplinkSection
from emgate.down_requests import Requests
from emgate.own_records import OwnRecords
from emgate.store import Record, Store
from emgate.supervisor import Supervisor
from emgate.uplinks import Uplink
from emgate.uplinks.asked import AskedDown
from emgate.uplinks.drain import Drain, Marks
from emgate.uplinks.meter import Meter

log = structlog.get_logger(__name__)

Delivered = Callable[[list[Record]], None]


def consumers(sections: tuple[UplinkSection, ...]) -> dict[str, bool]:
    """For Store.open: name → whether it counts for *delivered*."""
    return {section.name: section.required for section in sections}


class Target:
    """One target and what belongs to it."""

    def __init__(self, section: UplinkSection, uplink: Uplink, drain: Drain, meter: Meter, asked: AskedDown) -> None:
        self.section = section
        self.uplink = uplink
        self.drain = drain
        self.meter = meter
        self.asked = asked
        self.supervisor: Supervisor

    async def drain_for_ever(self) -> None:
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


class TargetSet:
    """Made once; `load`, then `start` … `stop`."""

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
        self._tasks: list[asyncio.Task[None]] = []
        self.targets: list[Target] = []
        for section in sections:
            meter = Meter(section.name, section.metered.limits() if section.metered else {}, store, clock)
            asked = AskedDown(section.name, requests)
            uplink = _make(section, gateway_id, state_directory, clock, meter, asked)
            drain = Drain(
                store,
                section.name,
                uplink,
                clock,
                gateway_id,
                section.batch_records,
                delivered,
                marks,
                batch_bytes=meter.largest,
                asked=asked,
            )
            target = Target(section, uplink, drain, meter, asked)
            target.supervisor = Supervisor(uplink, maximum_s=maximum_s, events=events)
            self.targets.append(target)
        by_name = {target.section.name: target for target in self.targets}

        def changed(origin: str) -> None:
            if origin in by_name:
                by_name[origin].asked.changed.set()

        requests.changed = changed

    def __iter__(self) -> Iterator[Supervisor]:
        return iter([target.supervisor for target in self.targets])

    def restart_within(self, maximum_s: float) -> None:
        """Longest pause before a target is tried again."""
        for target in self.targets:
            target.supervisor.maximum_s = maximum_s

    async def load(self) -> None:
        """Budgets go on where the last run left them."""
        for target in self.targets:
            await target.meter.load()

    def start(self) -> None:
        """Run them all."""
        for target in self.targets:
            name = target.section.name
            self._tasks += [
                asyncio.create_task(target.supervisor.run(), name=f"uplink {name}"),
                asyncio.create_task(target.drain_for_ever(), name=f"drain {name}"),
                asyncio.create_task(target.asked.run(), name=f"requests {name}"),
            ]

    async def stop(self, timeout_s: float) -> None:
        """End them; what was not acknowledged stays in the store."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                log.warning("did not end in time", what=task.get_name())
        for target in self.targets:
            if target.section.kind == "local":
                await asyncio.to_thread(target.uplink.close)  # type: ignore[attr-defined]

    def facts(self) -> list[dict[str, Any]]:
        """For the status."""
        found = []
        for target in self.targets:
            counters = {
                **target.drain.counters,
                **target.uplink.counters,
                **target.asked.counters,
                **target.meter.counters,
                **target.meter.levels(),
            }
            plain = counters.get("bytes_plain", 0)
            found.append(
                {
                    "target": target.section.name,
                    "name": target.uplink.name,
                    "required": target.section.required,
                    "up": target.uplink.up.is_set(),
                    "reason": getattr(target.uplink, "last_problem", None) or target.supervisor.last_reason,
                    "restarts": dict(target.supervisor.restarts),
                    "compressedTo": round(counters["bytes_packed"] / plain, 3) if plain else None,
                    **counters,
                }
            )
        return found


def _make(
    section: UplinkSection, gateway_id: str, state_directory: Path, clock: Clock, meter: Meter, asked: AskedDown
) -> Uplink:
    # Each kind brings libraries of its own into memory, so that only what is configured is imported.
    if section.kind == "mqtt":
        from emgate.uplinks.mqtt import MqttUplink

        return MqttUplink(section.mqtt(), gateway_id, target=section.name, meter=meter, take_down=asked.take)
    if section.kind == "https":
        from emgate.uplinks.https import HttpsUplink

        assert section.https is not None, "as the configuration was checked"
        return HttpsUplink(section.https, gateway_id, name=section.name, meter=meter, take_down=asked.take)
    from emgate.uplinks.local import LocalUplink

    return LocalUplink(section.database or state_directory / "backend.sqlite", clock, asked.take)
