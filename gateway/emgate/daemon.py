"""The gateway: builds links, sessions, store and uplink from a configuration, runs them, and stops them in order."""

import asyncio
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import structlog

from emgate.config import Config
from emgate.errors import ConfigError
from emgate.links import Link
from emgate.links.mqtt import MqttLink
from emgate.links.serial_port import SerialLink
from emgate.own_records import OwnRecords, device_id_of
from emgate.sessions import Sessions
from emgate.store import Store
from emgate.supervisor import Supervisor
from emgate.uplinks import Uplink
from emgate.uplinks.drain import Drain
from emgate.uplinks.local import LocalUplink
from emgate.uplinks.mqtt import MqttUplink

log = structlog.get_logger(__name__)

STOP_S = 1.5
"""What a stop may take: the commit of what came in, its acknowledgements, and goodbyes to the brokers."""
PRUNE_S = 60.0
"""How often to look for old delivered records."""
CONSUMER = "uplink"
"""Whose cursor in the store the uplink moves."""


class Gateway:
    """One gateway process. `await run(stop)`; it says when it is ready by the callback."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._state = config.gateway.state_directory
        self._clock = config.clock.make()
        self._registry = config.make_registry()
        self._started = time.monotonic()

    async def run(self, stop: asyncio.Event, ready: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """Until `stop` is set. ConfigError or StoreError when it cannot start at all."""
        own_id = device_id_of(self._config.gateway.id)
        if self._registry.get(own_id) is not None:
            raise ConfigError(f"device {own_id} has the number of this gateway: give gateway.id another name")
        lock = _lock(self._state)
        try:
            await self._run_locked(stop, ready)
        finally:
            lock.close()

    async def _run_locked(self, stop: asyncio.Event, ready: Callable[[dict[str, Any]], None]) -> None:
        settings = self._config.store
        self._store = await Store.open(
            self._state / "store.sqlite",
            consumers={CONSUMER: True},
            alarm_reserve_bytes=settings.alarm_reserve_bytes,
            maximum_bytes=settings.maximum_bytes,
        )
        self._own = OwnRecords(self._config.gateway.id, self._store, self._clock)
        try:
            await self._own.open()
            self._sessions = Sessions(
                self._registry,
                self._store,
                self._clock,
                acknowledge_within_ms=self._config.gateway.acknowledge_within_ms,
            )
            await self._sessions.load()
            self._uplink = self._make_uplink()
            self._drain = Drain(
                self._store,
                CONSUMER,
                self._uplink,
                self._clock,
                self._config.gateway.id,
                self._config.uplink.batch_records,
                self._sessions.delivered,
                self._sessions.marks,
            )
            maximum_s = self._config.gateway.restart_maximum_s
            self._supervisors = [Supervisor(link, maximum_s=maximum_s, events=self._own) for link in self._make_links()]
            self._uplink_supervisor = Supervisor(self._uplink, maximum_s=maximum_s, events=self._own)
            await self._serve(stop, ready)
        finally:
            await self._own.close()
            await self._store.close()

    def _make_links(self) -> list[Link]:
        config = self._config
        received = self._sessions.received
        links: list[Link] = [SerialLink(section, received, events=self._own) for section in config.serial]
        if config.mqtt is not None:
            links.append(MqttLink(config.mqtt, config.gateway.id, received))
        if config.ble is not None:
            from emgate.links.ble import BleLink  # bleak's stack is heavy, and wanted only here

            links.append(BleLink(config.ble, received, self._clock))
        return links

    def _make_uplink(self) -> Uplink:
        if self._config.uplink.kind == "mqtt":
            return MqttUplink(self._config.uplink.mqtt(), self._config.gateway.id)
        return LocalUplink(self._config.uplink.database or self._state / "backend.sqlite", self._clock)

    async def _serve(self, stop: asyncio.Event, ready: Callable[[dict[str, Any]], None]) -> None:
        uplink_tasks = [
            asyncio.create_task(self._uplink_supervisor.run(), name="uplink"),
            asyncio.create_task(self._drain_for_ever(), name="drain"),
        ]
        link_tasks = [asyncio.create_task(each.run(), name=each.what.name) for each in self._supervisors]
        house_tasks = [
            asyncio.create_task(self._write_status(), name="status"),
            asyncio.create_task(self._prune(), name="prune"),
        ]
        try:
            for supervisor in (*self._supervisors, self._uplink_supervisor):
                await _first(supervisor.tried.wait(), stop.wait())
            if not stop.is_set():
                log.info("ready", gateway=self._config.gateway.id, devices=len(self._registry))
                ready(self._readiness())
            await stop.wait()
            log.info("stopping")
            try:
                async with asyncio.timeout(STOP_S):
                    await self._sessions.close()
            except TimeoutError:
                log.error("not everything could be committed and acknowledged in time; devices will send it again")
        finally:
            tasks = [*link_tasks, *uplink_tasks, *house_tasks]
            for task in tasks:
                task.cancel()
            _, late = await asyncio.wait(tasks, timeout=STOP_S)
            for task in late:
                log.warning("did not end in time", what=task.get_name())
            if isinstance(self._uplink, LocalUplink):
                await asyncio.to_thread(self._uplink.close)
            await self._store.mark(self._sessions.marks())
            self._replace("status.json", json.dumps(await self._status()))
            log.info("stopped")

    def _readiness(self) -> dict[str, Any]:
        return {
            "ready": True,
            "gatewayId": self._config.gateway.id,
            "pid": os.getpid(),
            "links": {each.what.name: _state(each) for each in self._supervisors},
            "uplink": {self._uplink.name: _state(self._uplink_supervisor)},
            "status": str(self._state / "status.json"),
            "store": str(self._store.path),
        }

    async def _drain_for_ever(self) -> None:
        while True:
            try:
                await self._drain.run()
            except* Exception as errors:
                self._drain.counters["restarted"] += 1
                log.error("delivery stopped; starting it again", errors=[repr(error) for error in errors.exceptions])
            await asyncio.sleep(1)

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_S)
            try:
                await self._store.mark(self._sessions.marks())
                await self._store.prune(self._clock.now_ms(), self._config.store.keep_delivered_days)
            except Exception:
                log.exception("pruning failed")

    # -- status -----------------------------------------------------------------------------------------------

    async def _write_status(self) -> None:
        while True:
            try:
                self._replace("status.json", json.dumps(await self._status()))
            except Exception as error:
                log.warning("cannot write the status file", error=str(error))
            await asyncio.sleep(self._config.gateway.status_interval_s)

    def _replace(self, name: str, text: str) -> None:
        """Readers see the old file or the new one."""
        temporary = self._state / f".{name}.new"
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(self._state / name)

    async def _status(self) -> dict[str, Any]:
        sessions, store = self._sessions, self._store
        devices = []
        for session in sessions:
            status, link = session.status, session.link
            devices.append(
                {
                    "deviceId": session.device.device_id,
                    "model": session.device.model,
                    "link": status.link,
                    "lastReceivedMs": status.last_received_ms,
                    "lastRecordedMs": status.last_recorded_ms,
                    "batteryPercent": status.battery_percent,
                    "configurationVersion": status.configuration_version,
                    "keySlot": link.slot,
                    "keyChangePending": link.offered is not None,
                    "epoch": link.epoch,
                    "storedThrough": None if link.epoch is None else link.watermarks(link.epoch)[0],
                    "deliveredThrough": None if link.epoch is None else link.watermarks(link.epoch)[1],
                    "stored": status.stored,
                    "delivered": status.delivered,
                    "duplicates": status.duplicates,
                    "refused": dict(status.refused),
                    "gaps": status.gaps,
                    "lostRecords": status.lost_records,
                }
            )
        return {
            "gatewayId": self._config.gateway.id,
            "pid": os.getpid(),
            "timeMs": self._clock.now_ms(),
            "clockUncertaintyMs": self._clock.uncertainty_ms(),
            "runningS": round(time.monotonic() - self._started, 1),
            "frames": sessions.counters["frames"],
            "stored": sessions.counters["stored"],
            "delivered": sessions.counters["delivered"],
            "duplicates": sessions.counters["duplicates"],
            "refused": dict(sessions.refused),
            "sessions": dict(sessions.counters),
            "store": {**await store.totals(), **store.counters},
            "uplink": {
                "name": self._uplink.name,
                "up": self._uplink.up.is_set(),
                "restarts": dict(self._uplink_supervisor.restarts),
                **self._drain.counters,
                **self._uplink.counters,
            },
            "links": [
                {
                    "name": each.what.name,
                    "up": each.what.up.is_set(),
                    "reason": each.last_reason,
                    "restarts": dict(each.restarts),
                    **each.what.counters,
                }
                for each in self._supervisors
            ],
            "devices": devices,
        }


def _state(supervisor: Supervisor) -> str:
    return "up" if supervisor.what.up.is_set() else f"down: {supervisor.last_reason}"


async def _first(*awaitables: Any) -> None:
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _lock(state_directory: Path) -> IO[str]:
    """One gateway to a state directory; ConfigError when another has it."""
    try:
        state_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (state_directory / "gateway.lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"gateway.state_directory: cannot use {state_directory}: {error.strerror}; name another folder"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigError(
            f"gateway.state_directory: {state_directory} is in use by another gateway: stop it, or name another folder"
        ) from None
    return file


async def run_until_signal(config: Config, ready: Callable[[dict[str, Any]], None]) -> None:
    """Run a gateway until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Gateway(config).run(stop, ready)
