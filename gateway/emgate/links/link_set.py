"""The links of a gateway as they run: one supervisor each, taken up, let go and restarted alone."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

import structlog

from emgate.clock import Clock
from emgate.config import Config, Section
from emgate.devices.counter_share import CounterShare
from emgate.links import Events, Link, Received
from emgate.links.limits import Gate
from emgate.supervisor import Supervisor

log = structlog.get_logger(__name__)

LET_GO_S = 5.0
"""A link that is taken away closes its port and says goodbye to its broker within this, or is left behind."""


class LinkSet:
    """Everything that a configuration names as a link. `start`, then `apply` as often as it changes, then `stop`."""

    def __init__(
        self,
        config: Config,
        received: Received,
        clock: Clock,
        events: Events,
        known: Callable[[int], bool],
        counter_share: CounterShare,
    ) -> None:
        """`known`: whether a device is registered."""
        self._received = self._gate = Gate(received, known, config.limits, events)
        self._clock = clock
        self._counter_share = counter_share
        self._events = events
        self._maximum_s = config.gateway.restart_maximum_s
        self._running: dict[str, tuple[Section, Supervisor, asyncio.Task[None]]] = {}
        self._config = config

    def __iter__(self) -> Iterator[Supervisor]:
        return iter([supervisor for _, supervisor, _ in self._running.values()])

    def start(self) -> None:
        """All of them."""
        for name, (section, make) in self._wanted(self._config).items():
            self._start(name, section, make)

    async def apply(self, config: Config) -> list[str]:
        """Go by another configuration; the names of the links that were started, stopped or restarted for it."""
        self._config = config
        self._gate.limits = config.limits
        self._maximum_s = config.gateway.restart_maximum_s
        wanted = self._wanted(config)
        stale = [name for name, (section, _, _) in self._running.items() if self._changed(name, section, wanted)]
        fresh = [name for name in wanted if name in stale or name not in self._running]
        await self._stop([self._running.pop(name) for name in stale])
        for name in fresh:
            self._start(name, *wanted[name])
        for supervisor in self:
            supervisor.maximum_s = self._maximum_s
        return [*fresh, *(name for name in stale if name not in fresh)]

    async def stop(self) -> None:
        """All of them; what they counted can still be read."""
        await self._stop(list(self._running.values()))

    @staticmethod
    def _changed(name: str, section: Section, wanted: dict[str, tuple[Section, Callable[[], Link]]]) -> bool:
        return name not in wanted or wanted[name][0] != section

    def _wanted(self, config: Config) -> dict[str, tuple[Section, Callable[[], Link]]]:
        """Each link's section and how to make it, by a name that stays while the section's other values change."""
        wanted: dict[str, tuple[Section, Callable[[], Link]]] = {}
        # Each kind brings libraries of its own into memory, so that only what is configured is imported.
        if config.serial:
            from emgate.links.serial_port import SerialLink

            for serial in config.serial:
                make_serial = partial(SerialLink, serial, self._received, events=self._events)
                wanted[f"serial:{serial.name}"] = (serial, make_serial)
        if config.mqtt is not None:
            from emgate.brokers.client_name import unguessed
            from emgate.links.mqtt import MqttLink

            name = config.gateway.id, self._received, self._events, unguessed(config.gateway.state_directory)
            make_mqtt = partial(MqttLink, config.mqtt, *name, counter_share=self._counter_share)
            wanted["mqtt"] = (config.mqtt, make_mqtt)
        if config.ble is not None:
            from emgate.links import ble_known
            from emgate.links.ble import BleLink

            kept = config.gateway.state_directory / ble_known.FILE
            make_ble = partial(BleLink, config.ble, self._received, self._clock, events=self._events, kept=kept)
            wanted["ble"] = (config.ble, make_ble)
        return wanted

    def _start(self, name: str, section: Section, make: Callable[[], Link]) -> None:
        link = make()
        supervisor = Supervisor(link, maximum_s=self._maximum_s, events=self._events)
        self._running[name] = (section, supervisor, asyncio.create_task(supervisor.run(), name=link.name))

    async def _stop(self, running: list[tuple[Section, Supervisor, asyncio.Task[None]]]) -> None:
        tasks = [task for _, _, task in running]
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=LET_GO_S)
        for task in late:
            log.warning("did not end in time", what=task.get_name())
