"""The gateway: builds links, sessions, store and uplink from a configuration, runs them, and stops them in order."""

import asyncio
import contextlib
import fcntl
import json
import math
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import structlog
from emwire import constants

from emgate import reload
from emgate.clock_watch import ClockWatch
from emgate.config import Config
from emgate.devices.counter_share import CounterShare
from emgate.devices.registry import Registry
from emgate.devices.registry_changes import Changes, rows
from emgate.devices.sessions import Sessions
from emgate.down.downlink import Downlink
from emgate.down.requests import Requests
from emgate.down.updates import Updates
from emgate.errors import ConfigError, StoreError
from emgate.gateway_number import refuse_own
from emgate.keys import key_source, unsealed
from emgate.links.link_set import LinkSet
from emgate.loss_evidence import LostRange
from emgate.operation import logs, service_manager, status_facts
from emgate.operation.control_client import SOCKET
from emgate.operation.control_socket import ControlSocket
from emgate.operation.running import LOCK, STATUS
from emgate.own_records import OwnRecords, evidence_of
from emgate.store.audit import STEP_S
from emgate.store.store import Store
from emgate.supervisor import Supervisor
from emgate.uplinks.target_set import TargetSet, consumers

log = structlog.get_logger(__name__)

STOP_S = 1.5
"""What a stop may take: the commit of what came in, its acknowledgements, and goodbyes to the brokers."""
WRITABLE_S = 5.0
"""A store that has committed nothing for so long is not writable; the writer tries a full disk as often."""
MISSED_TOLD_S = 3600.0
"""Between two events of what targets that are not required missed: while one is down, every pruning adds to it."""
LOSSES_TOLD = 500
"""Ranges told at a time: half of what waits in memory at most (own_records)."""
STATUS_S, CARD_STATUS_S = 1.0, 60.0
"""Between two status files: in a runtime directory, which is memory; on a card, that each wears a little."""
PRUNE_S = 60.0
"""How often to look for old delivered records."""
CROWDED_S = 1.0
"""Between two attempts to make room where there may be none to be made."""


class Gateway:
    """One gateway process. `await run(stop)`; it says when it is ready by the callback."""

    def __init__(self, config: Config, config_path: Path | None = None) -> None:
        """`config_path`: where a reload reads the configuration anew."""
        self._config = config
        self._config_path = config_path
        self._state = config.gateway.state_directory
        self._clock = config.clock.make()
        self._vault = config.open_vault(create=True)
        if self._vault is not None:
            key_source.leave_no_core()
            unsealed.refuse(config, config_path)
            for place, problem in unsealed.plain_keys(config, config_path):
                log.warning("not sealed", place=place, problem=problem, remedy=unsealed.KEYS_REMEDY)
        self._registry = config.make_registry()
        self._ready = False
        self._clock_watch: ClockWatch | None = None
        self._reloads = reload.Reloads()
        self._reload_asked = asyncio.Event()
        self._http: asyncio.Task[None] | None = None
        self._one_change = asyncio.Lock()
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]  # systemd.exec(5)
        self._status_path = (Path(runtime) if runtime else self._state) / STATUS
        self._started = time.monotonic()
        self._tell_missed_s = -math.inf  # not before

    async def run(self, stop: asyncio.Event, ready: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """Until `stop` is set. ConfigError or StoreError when it cannot start at all."""
        refuse_own(self._config.gateway.id, self._registry)
        lock = _lock(self._state, self._status_path)
        try:
            while await self._run_locked(stop, ready):
                log.error("starting again with what can be read of the store")
        finally:
            lock.close()

    async def _run_locked(self, stop: asyncio.Event, ready: Callable[[dict[str, Any]], None]) -> bool:
        """True: the store was found damaged, and its next opening will salvage it."""
        settings = self._config.store
        goes_on = service_manager.LongWork()
        self._store = await Store.open(
            self._state / "store.sqlite",
            consumers=consumers(self._config.uplink),
            alarm_reserve_bytes=settings.alarm_reserve_bytes,
            maximum_bytes=settings.maximum_bytes,
            payload_cipher=None if self._vault is None else self._vault.payloads,
            moves=lambda: None if stop.is_set() else goes_on(),  # no longer than a stop may take
        )
        self._own = OwnRecords(self._config.gateway.id, self._store, self._clock)
        try:
            await self._own.open()
            downlink = Downlink()
            share = CounterShare(*self._config.counter_share)
            self._requests = Requests(
                self._store, self._clock, downlink, lambda device_id: self._sessions.knows(device_id)
            )
            self._updates = Updates(self._state, self._requests, downlink, self._config.updates.bytes_per_s)
            await self._requests.load()
            self._sessions = Sessions(
                self._registry,
                self._store,
                self._clock,
                acknowledge_within_ms=self._config.gateway.acknowledge_within_ms,
                downlink=downlink,
                counter_share=share,
            )
            await self._sessions.load()
            self._targets = TargetSet(
                self._config.uplink,
                self._config.gateway.id,
                self._state,
                self._store,
                self._clock,
                self._requests,
                self._sessions.delivered,
                self._sessions.marks,
                maximum_s=self._config.gateway.restart_maximum_s,
                events=self._own,
            )
            await self._targets.load()
            doings = {
                "status": self._say_status,
                "reload": self._do_reload,
                "devices": self._say_devices,
                "change": self._change_registry,
            }
            self._control = ControlSocket(self._state / SOCKET, self._requests, doings)
            self._links = LinkSet(
                self._config,
                self._sessions.received,
                self._clock,
                self._own,
                lambda device_id: self._registry.get(device_id) is not None,
                share,
            )
            await self._serve(stop, ready)
        except sqlite3.Error as error:
            if self._store.damage is None:
                raise StoreError(
                    f"{self._store.path}: the store cannot be read: {error}; see whether its disk works"
                ) from None
        finally:
            await self._own.close()
            await self._store.close()
        return self._store.damage is not None and not stop.is_set()

    async def _tell_losses(self, after: int = 0) -> int:
        """What the store gave up, or a damaged one had, is asked of the devices again, and told to the backend.

        Returns the last one told. An entry goes when its record is committed: killed in between, it is told twice."""
        while found := await self._store.losses(after, LOSSES_TOLD):
            for loss in found:
                self._sessions.take_back(loss.device_id, loss.epoch, loss.first, loss.last)
                self._store.taken_back(loss)
                self._own.event(
                    constants.EVENT_GATEWAY_RECORDS_LOST,
                    subject_id=loss.device_id,
                    value=loss.last - loss.first + 1,
                    evidence=LostRange(loss.epoch, loss.first, loss.last, loss.cause).encode(),
                    alarm=True,
                    stored=partial(self._store.told, loss),
                )
            after = found[-1].number
            await self._store.drain()  # no more of them at once than the own records can hold
        return after

    async def _tell_missed(self) -> None:
        """What was pruned that a target, which is not required, lacks. Killed in between, it is told twice."""
        if time.monotonic() < self._tell_missed_s:
            return
        for target, (records, all_records) in (await self._store.missed_untold()).items():
            self._tell_missed_s = time.monotonic() + MISSED_TOLD_S
            self._own.event(
                constants.EVENT_GATEWAY_TARGET_MISSED,
                value=records,
                evidence=evidence_of(target),
                stored=partial(self._store.told_missed, target, all_records),
            )

    async def _serve(self, stop: asyncio.Event, ready: Callable[[dict[str, Any]], None]) -> None:
        self._targets.start()
        self._links.start()
        house_tasks = [
            asyncio.create_task(self._write_status(), name="status"),
            asyncio.create_task(self._prune(), name="prune"),
            asyncio.create_task(self._audit(), name="audit"),
            asyncio.create_task(self._reload_when_asked(), name="reload"),
            asyncio.create_task(self._requests.run(), name="requests"),
            asyncio.create_task(self._control.run(), name="control"),
        ]
        if self._config.clock.source == "system":  # a shared clock goes as its owner likes
            self._clock_watch = ClockWatch(self._clock, self._clock_stepped)
            house_tasks.append(asyncio.create_task(self._clock_watch.run(), name="clock"))
        allowed_s = service_manager.watchdog_s()
        if allowed_s is not None:
            feeding = service_manager.feed_watchdog(self._store, allowed_s)
            house_tasks.append(asyncio.create_task(feeding, name="watchdog"))
        self._serve_http()
        try:
            for supervisor in (*self._links, *self._targets):
                await _first(supervisor.tried.wait(), stop.wait(), self._store.damaged.wait())
            if not stop.is_set():
                self._ready = True
                service_manager.notify("READY=1", f"STATUS={len(self._registry)} devices")
                log.info("ready", gateway=self._config.gateway.id, devices=len(self._registry))
                ready(self._readiness())
            await _first(stop.wait(), self._store.damaged.wait())
            if stop.is_set():
                log.info("stopping")
                service_manager.notify("STOPPING=1")
            try:
                async with asyncio.timeout(STOP_S):
                    await self._sessions.close()
            except TimeoutError:
                log.error("not everything could be committed and acknowledged in time; devices will send it again")
        finally:
            tasks = [*house_tasks, asyncio.create_task(self._links.stop(), name="links")]
            if self._http is not None:
                tasks.insert(0, self._http)
            for task in tasks[:-1]:
                task.cancel()
            _, late = await asyncio.wait(tasks, timeout=STOP_S)
            for task in late:
                log.warning("did not end in time", what=task.get_name())
            await self._targets.stop(STOP_S)
            await self._store.mark(self._sessions.marks())
            self._replace(self._state / STATUS, self._on_card(json.dumps(await self._status())))
            log.info("stopped")

    def _serve_http(self) -> None:
        """By the present configuration, instead of what was served before."""
        if self._http is not None:
            self._http.cancel()
            self._http = None
        if self._config.http is not None:
            from emgate.operation.http_server import HttpServer  # only where it is wanted: with its metrics 1.2 MB

            http = HttpServer(self._config.http, self._status, self._health)
            self._http = asyncio.create_task(http.run(), name="http")

    def _readiness(self) -> dict[str, Any]:
        return {
            "ready": True,
            "gatewayId": self._config.gateway.id,
            "pid": os.getpid(),
            "links": {each.what.name: _state(each) for each in self._links},
            "uplink": {each.what.name: _state(each) for each in self._targets},
            "status": str(self._status_path),
            "store": str(self._store.path),
        }

    async def _prune(self) -> None:
        told = 0
        while True:
            try:
                if await self._store.catch_up():  # at the start: a target that lagged is not waited for any more
                    await self._sessions.heed_deliveries()
                told = await self._tell_losses(told)
                await self._tell_missed()
            except Exception:
                log.exception("losses and deliveries could not be told")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PRUNE_S):
                    await self._store.crowded.wait()
            settings = self._config.store
            try:
                await self._store.mark(self._sessions.marks())
                await self._store.prune(self._clock.now_ms(), settings.keep_delivered_days, settings.undelivered_days)
            except Exception:
                log.exception("pruning failed")
            if self._store.crowded.is_set():
                await asyncio.sleep(CROWDED_S)

    async def _audit(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            try:
                await self._store.audit()
            except Exception as error:  # the disk does not answer: whoever needs it says so
                log.warning("the store cannot be checked", error=str(error))

    # -- status -----------------------------------------------------------------------------------------------

    async def _write_status(self) -> None:
        on_card = self._status_path.parent == self._state
        if not on_card:  # the last one is of another run
            (self._state / STATUS).unlink(missing_ok=True)
        while True:
            interval_s = self._config.gateway.status_interval_s or (CARD_STATUS_S if on_card else STATUS_S)
            try:
                text = json.dumps(await self._status())
                self._replace(self._status_path, self._on_card(text) if on_card else text)
            except Exception as error:
                log.warning("cannot write the status file", error=str(error))
            await asyncio.sleep(interval_s)

    def _on_card(self, text: str) -> str:
        """Where keys are sealed, this is too: it says when devices were heard, and how they are."""
        if self._vault is None:
            return text
        return json.dumps({"sealed": self._vault.payloads.seal_bytes(STATUS.encode(), text.encode()).hex()})

    def _replace(self, path: Path, text: str) -> None:
        """Readers see the old file or the new one."""
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)

    async def _status(self) -> dict[str, Any]:
        watch = self._clock_watch
        payload_bytes = self._store.counters["payload_bytes"]
        return {
            "gatewayId": self._config.gateway.id,
            **status_facts.process_facts(self._started, payload_bytes),
            "ready": self._ready,
            "timeMs": self._clock.now_ms(),
            "clockUncertaintyMs": self._clock.uncertainty_ms(),
            "clockSteps": {**watch.counters, "lastMs": watch.last_step_ms} if watch is not None else {},
            "keysAtRest": None if self._vault is None else self._vault.source,
            "reload": self._reloads.facts(),
            **status_facts.session_facts(self._sessions),
            "ownRecords": dict(self._own.counters),
            "store": await status_facts.store_facts(self._store),
            "uplink": self._targets.facts(),
            "requests": self._requests.summary(),
            "updates": self._updates.summary(),
            "control": dict(self._control.counters),
            "links": status_facts.link_facts(self._links),
            "devices": [status_facts.device_facts(session) for session in self._sessions],
        }

    async def _health(self) -> list[str]:
        """Why this gateway is not ready to do its work, in words; nothing when it is."""
        reasons = [] if self._ready else ["not every link and uplink has been tried yet"]
        if not any(each.what.up.is_set() for each in self._links):
            reasons.append("no link is up")
        reasons += [full for each in self._targets if (full := getattr(each.what, "full", None))]
        try:
            async with asyncio.timeout(WRITABLE_S):
                if not await self._store.write(lambda _: True, refused=False):
                    reasons.append("the store is closing")
        except TimeoutError:
            reasons.append(f"the store has not committed anything for {WRITABLE_S:.0f} s")
        return reasons

    # -- what changes while it runs ---------------------------------------------------------------------------

    def ask_reload(self) -> None:
        """Soon, in a task of its own."""
        self._reload_asked.set()

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            await self._do_reload({})

    async def _do_reload(self, _: dict[str, Any]) -> dict[str, Any]:
        async with self._one_change:
            service_manager.reloading()
            try:
                self._reloads.note(await self._reload())
            except ConfigError as error:
                log.error("the new configuration is refused; the old one stays in force", reason=str(error))
                self._reloads.note(None, str(error))
            except Exception as error:
                log.exception("reloading failed")
                self._reloads.note(None, f"defect: {error!r}")
            service_manager.notify("READY=1", f"STATUS={len(self._registry)} devices")
            return {"reload": self._reloads.facts()}

    async def _change_registry(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Write a change to the registry file, and go by it. Nothing else that waits in files for a reload is applied,
        and nothing that a reload would refuse keeps a stolen device from being revoked."""
        device_id = asked.get("deviceId")
        async with self._one_change:
            said = await asyncio.to_thread(lambda: Changes(self._config, self._vault).make(asked))
            log.info("registry changed", change=asked.get("change"), device=device_id)
            try:
                written = {device.device_id: device for device in await asyncio.to_thread(self._config.make_registry)}
                devices = {device.device_id: device for device in self._registry}
                if device_id in written:
                    before, now = devices.get(device_id), written[device_id]
                    kept = now.configuration if before is None else before.configuration
                    devices[device_id] = now.model_copy(update={"configuration": kept})
                elif device_id is not None:
                    devices.pop(device_id, None)
                registry = Registry(devices.values())
                await self._sessions.apply(registry)
                self._registry = registry
            except Exception as error:
                log.exception("a change of the registry could not be applied")
                raise ConfigError(f"{said}, in the file; it could not be applied ({error}): reload") from None
            service_manager.notify(f"STATUS={len(self._registry)} devices")
        return {"said": said}

    async def _say_devices(self, _: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(TimeoutError):  # a disk that takes nothing: then as of its last commit
            async with asyncio.timeout(WRITABLE_S):
                await self._store.drain()
        return {"devices": await asyncio.to_thread(rows, self._config, self._registry)}

    async def _say_status(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"status": await self._status()}

    async def _reload(self) -> list[str]:
        """Go by what the file says now; what changed."""
        if self._config_path is None:
            raise ConfigError("this gateway was not started from a file")
        sealed = self._vault is not None
        config, registry = await asyncio.to_thread(
            reload.read, self._config_path, self._config, self._registry, sealed=sealed
        )
        refuse_own(config.gateway.id, registry)
        try:
            targets = await self._targets.apply(config.uplink, config.gateway.restart_maximum_s)
        except StoreError as error:
            raise ConfigError(str(error)) from None
        before, self._config = self._config, config
        changed = [f"device {device_id}" for device_id in await self._sessions.apply(registry)]
        self._registry = registry
        if targets:
            await self._sessions.heed_deliveries()
            changed += targets
        if config.gateway != before.gateway:
            logs.configure(config.gateway.log_level, config.gateway.log_file)
            self._sessions.acknowledge_within(config.gateway.acknowledge_within_ms)
            changed.append("gateway")
        if config.updates != before.updates:
            self._updates.limit(config.updates.bytes_per_s)
            changed.append("updates")
        if config.http != before.http:
            self._serve_http()
            changed.append("http")
        if config.store != before.store:
            self._store.limit(config.store.maximum_bytes)
            changed.append("store")
        if config.limits != before.limits:
            changed.append("limits")
        changed += await self._links.apply(config)
        log.info("reloaded", changed=changed)
        return changed

    def _clock_stepped(self, step_ms: int) -> None:
        self._own.event(constants.EVENT_GATEWAY_CLOCK_STEPPED, value=round(step_ms / 1000))


def _state(supervisor: Supervisor) -> str:
    return "up" if supervisor.what.up.is_set() else f"down: {supervisor.last_reason}"


async def _first(*awaitables: Any) -> None:
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _lock(state_directory: Path, status_path: Path) -> IO[str]:
    """One gateway to a state directory; ConfigError when another has it."""
    try:
        state_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (state_directory / LOCK).open("a+")
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
    with contextlib.suppress(OSError):  # a full disk: it is for people to read
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), f"{os.getpid()} {status_path.absolute()}\n".encode())
    return file


async def run_until_signal(
    config: Config, ready: Callable[[dict[str, Any]], None], config_path: Path | None = None
) -> None:
    """Run a gateway until SIGTERM or SIGINT; SIGHUP reads its configuration anew."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gateway = Gateway(config, config_path)
    loop.add_signal_handler(signal.SIGHUP, gateway.ask_reload)
    await gateway.run(stop, ready)
