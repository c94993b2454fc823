"""A whole station on one machine: broker, gateway process, virtual air, and the simulated devices of a scenario."""

from __future__ import annotations

import asyncio
import json
import math
import random
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emgate.brokers.broker import RunningBroker, start_broker
from emgate.keys.sealing import derive_device_key

from emrig.air import GATEWAY, Air
from emrig.air.hci_server import HciServer
from emrig.air.part import BlePart, hold_while_busy
from emrig.clock import VirtualClock
from emrig.interpreter import Interpreter
from emrig.models.alcohol_cell import AlcoholCell, RecordedReading, RecordedSchedule, Skin
from emrig.models.modem import Modem
from emrig.models.parts import AdcChannel, FibreStrap, InputPin, OutputPin, SerialCable
from emrig.models.receiver import RecordedReceiver, SyntheticReceiver
from emrig.models.ublox import Sky
from emrig.mortal import mortal
from emrig.rig import Rig
from emrig.scenario import METRES_PER_DEGREE, DeviceScenario, Scenario, position, tac_ug_per_l
from emrig.target import Device

GATEWAY_ID = "demo"
# The gateway's start includes attaching to broker and air; a slow machine takes seconds.
GATEWAY_START_S = 30.0
# Battery: 3.5 V empty, 4.15 V full, linear between (firmware/drivers/battery.py has the same two ends).
EMPTY_VOLTS, FULL_VOLTS, VOLTS_PER_COUNT = 3.5, 4.15, 0.0001
COIN_CELL_VOLTS = (2.0, 3.0)
# Scatter of a receiver under open sky, one standard deviation, metres; well inside NIJ's 10 m for 90 %.
GNSS_SCATTER_M = 2.5


class StationError(RuntimeError):
    """A part of the station did not start; the message says which and what to do."""


@dataclass(slots=True)
class Recordings:
    """Recorded input that replaces the synthetic."""

    gnss: Path | None = None
    alcohol: list[RecordedReading] | None = None
    alcohol_start_ms: int = 120_000
    """When the first reading is offered: after the tag's first contact with the gateway, which tells it the time."""
    ble_rssi_dbm: Callable[[int], int | None] | None = None


class Station:
    """Use as an async context manager; `folder` keeps everything it wrote."""

    def __init__(
        self,
        folder: Path,
        scenario: Scenario,
        interpreter: Interpreter,
        recordings: Recordings | None = None,
        on_log: Callable[[str, str], None] | None = None,
    ) -> None:
        self.folder = folder
        self.scenario = scenario
        self.recordings = recordings or Recordings()
        self.gateway_folder = folder / "gateway"
        self.gateway_folder.mkdir(parents=True, exist_ok=True)
        self.database = self.gateway_folder / "backend.sqlite"
        self.clock = VirtualClock(scenario.start_unix_ms, self.gateway_folder / "clock")
        self.rig = Rig(folder / "devices", interpreter, self.clock)
        self.rig.on_log = on_log
        self.air = Air(self.clock)
        hold_while_busy(self.rig, self.air)
        self.air.rssi_dbm = self._rssi_dbm
        self.broker: RunningBroker | None = None
        self.gateway: asyncio.subprocess.Process | None = None
        self.modems: dict[str, Modem] = {}
        self.receivers: dict[str, SyntheticReceiver] = {}
        self.cables: dict[str, SerialCable] = {}
        self.cells: dict[str, AlcoholCell] = {}
        self.pins: dict[tuple[str, str], InputPin] = {}
        self.fibres: dict[str, FibreStrap] = {}
        self.out_of_range: set[int] = set()
        self.more_identity: dict[str, dict[str, object]] = {}
        """By the device's name: what its identity.json says besides who it is."""
        self.uplink = ["[uplink]", 'kind = "local"', 'database = "backend.sqlite"']
        """Of the gateway's file: where it delivers."""
        self.more_configuration: list[str] = []
        """Further lines of the gateway's file."""
        self.on_wired: Callable[[], None] = lambda: None
        """Called when every device is wired and none has power yet."""
        self._hci = HciServer(self.air, self.gateway_folder / "hci")
        self._random = random.Random(scenario.seed)
        self._by_id = {device.device_id: device for device in scenario.devices}
        self._keys: dict[int, bytes] = {}

    async def __aenter__(self) -> Station:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Broker, air, devices (off), gateway; then every device is powered on."""
        master = secrets.token_bytes(32)
        for device in self.scenario.devices:
            self._keys[device.device_id] = derive_device_key(master, device.device_id, 0)
        needs_broker = any(device.model == "ankle_gps" for device in self.scenario.devices)
        if needs_broker:
            self.broker = start_broker(directory=self.folder / "broker", log_file=self.folder / "broker.log")
        await self._hci.start()
        for scenario_device in self.scenario.devices:
            await self._wire(scenario_device)
        self.on_wired()
        self._write_configuration()
        await self.start_gateway()
        for device in self.scenario.devices:
            self.power_on(device.name)
        self._schedule_events()

    async def close(self) -> None:
        """Stop the gateway in order, then power everything off."""
        await self.stop_gateway()
        self.rig.close()
        for modem in self.modems.values():
            modem.close()
        for cable in self.cables.values():
            cable.close()
        for device in self.scenario.devices:
            self.air.remove_device(device.device_id)
        await self._hci.close()
        if self.broker is not None:
            await asyncio.to_thread(self.broker.stop)

    # -- gateway process

    async def start_gateway(self) -> None:
        """Start the gateway and await its ready line."""
        with (self.gateway_folder / "gateway.log").open("ab") as log:
            self.gateway = await asyncio.create_subprocess_exec(
                *mortal(
                    sys.executable,
                    "-m",
                    "emgate.cli",
                    "gateway",
                    "run",
                    "--config",
                    str(self.gateway_folder / "gateway.toml"),
                ),
                start_new_session=True,  # a Ctrl-C is for the station, which stops its parts in order
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self.gateway.stdout is not None
        try:
            async with asyncio.timeout(GATEWAY_START_S):
                line = await self.gateway.stdout.readline()
            facts = json.loads(line or b"{}")
        except (TimeoutError, ValueError):
            raise StationError(self._gateway_failed()) from None
        if not facts.get("ready"):
            raise StationError(self._gateway_failed())
        for link, state in facts["links"].items():
            if state != "up":
                raise StationError(f"the gateway's link {link} is {state}")

    def _gateway_failed(self) -> str:
        log = self.gateway_folder / "gateway.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:]) if log.exists() else ""
        return f"the gateway did not start; the end of {log}:\n{tail}"

    @property
    def gateway_process(self) -> asyncio.subprocess.Process:
        """The gateway's present process."""
        assert self.gateway is not None, "not started"
        return self.gateway

    async def kill_gateway(self) -> None:
        """SIGKILL, as a power cut would."""
        if self.gateway is not None and self.gateway.returncode is None:
            self.gateway.kill()
            await self.gateway.wait()

    async def stop_gateway(self) -> None:
        """SIGTERM and wait; SIGKILL when it does not end."""
        if self.gateway is None or self.gateway.returncode is not None:
            return
        self.gateway.terminate()
        try:
            async with asyncio.timeout(10):
                await self.gateway.wait()
        except TimeoutError:
            await self.kill_gateway()

    def _write_configuration(self) -> None:
        lines = [
            "[gateway]",
            f'id = "{GATEWAY_ID}"',
            'state_directory = "."',
            "restart_maximum_s = 1",
            "[clock]",
            'source = "shared"',
            'path = "clock"',
            "[protection]",  # the keys are a scenario's, and so are the wearers
            'at_rest = "off"',
            *self.uplink,
            *self.more_configuration,
        ]
        for cable in self.cables.values():
            lines += ["[[serial]]", f"port = {json.dumps(str(cable.path.resolve()))}"]
        if self.broker is not None:
            lines += ["[mqtt]", f'host = "{self.broker.host}"', f"port = {self.broker.port}"]
        lines += ["[ble]", 'backend = "bumble"', f"transport = {json.dumps(f'unix:{self._hci.path}')}"]
        for device in self.scenario.devices:
            lines += [
                "[[devices]]",
                f"device_id = {device.device_id}",
                f'model = "{device.model}"',
                f'key = "{self._keys[device.device_id].hex()}"',
            ]
            if device.configuration or device.beacons:
                lines += ["[devices.configuration]", "version = 1"]
                lines += [f"{name} = {value}" for name, value in device.configuration.items()]
                for beacon in device.beacons:
                    number = self.device(beacon).device_id
                    lines += [
                        "[[devices.configuration.beacons]]",
                        f"beacon_id = {number}",
                        f'key = "{self._keys[number].hex()}"',
                    ]
        (self.gateway_folder / "gateway.toml").write_text("\n".join(lines) + "\n")

    # -- devices

    def key(self, name: str) -> bytes:
        """The key that the device was provisioned with."""
        return self._keys[self.device(name).device_id]

    def device(self, name: str) -> DeviceScenario:
        """The scenario's entry of that name."""
        return next(device for device in self.scenario.devices if device.name == name)

    def power_on(self, name: str) -> None:
        """Start a device (again)."""
        self.rig.start(self.rig.devices[name])

    def kill_device(self, name: str) -> None:
        """Take a device's power away at this instant; its flash stays."""
        self.rig.devices[name].kill()

    def cut_link(self, name: str) -> None:
        """Cut the link between a device and the gateway."""
        if name in self.modems:
            self.modems[name].cut()
        elif name in self.cables:
            self.cables[name].cut()
        else:
            self.out_of_range.add(self.device(name).device_id)

    def restore_link(self, name: str) -> None:
        """Mend it."""
        if name in self.modems:
            self.modems[name].restore()
        elif name in self.cables:
            self.cables[name].restore()
        else:
            self.out_of_range.discard(self.device(name).device_id)

    async def _wire(self, scenario_device: DeviceScenario) -> None:
        device = self.rig.add(scenario_device.name)
        identity: dict[str, object] = {
            "device_id": scenario_device.device_id,
            "model": scenario_device.model,
            "key": self._keys[scenario_device.device_id].hex(),
        }
        if self.broker is not None:
            identity["mqtt"] = {"host": self.broker.host, "port": self.broker.port}
        if self.recordings.gnss is not None:
            identity["not_before_day"] = 0  # an old recording is not a receiver whose week count rolled over
        settings = dict(scenario_device.settings or {})
        if scenario_device.model == "alcohol" and self.recordings.alcohol is not None:
            # The recording paces the readings, and has none for whoever asks in between.
            settings["raised_sample_interval_s"] = 65_535
        if settings:
            identity["settings"] = settings
        identity |= self.more_identity.get(scenario_device.name, {})
        AdcChannel(device, "battery", lambda: self._battery_counts(scenario_device))
        for channel, level in (("strap", 1), ("case", 0), ("mains", 1), ("charger", 0), ("motion", 0)):
            self.pins[scenario_device.name, channel] = InputPin(device, channel, level)
        OutputPin(device, "vibration")
        if scenario_device.model in ("ankle_gps", "alcohol"):
            identity["fibre"] = True
            self.fibres[scenario_device.name] = FibreStrap(device, self.pins[scenario_device.name, "strap"])
        await BlePart.add(device, self.air, scenario_device.device_id)
        (device.folder / "identity.json").write_text(json.dumps(identity))
        if scenario_device.model == "ankle_gps":
            self._wire_ankle(scenario_device, device)
        if scenario_device.model == "home_unit":
            self.cables[scenario_device.name] = SerialCable(
                self.rig, device, "host", self.folder / f"{scenario_device.name}.tty"
            )
        if scenario_device.model == "alcohol":
            self.cells[scenario_device.name] = AlcoholCell(
                self.rig, device, lambda: Skin(tac_ug_per_l(self.scenario, scenario_device, self.clock.now_ms()))
            )

    def _wire_ankle(self, scenario_device: DeviceScenario, device: Device) -> None:
        def sky() -> Sky:
            now = self.clock.now_ms()
            latitude, longitude, speed_kph, direction = position(self.scenario, scenario_device, now)
            north, east = (self._random.gauss(0, GNSS_SCATTER_M) for _ in range(2))
            return Sky(
                latitude + north / METRES_PER_DEGREE,
                longitude + east / METRES_PER_DEGREE / math.cos(math.radians(latitude)),
                speed_kph,
                direction,
                fix=not self.scenario.within(scenario_device.no_sky, now),
            )

        self.modems[scenario_device.name] = Modem(
            self.rig, device, lambda: position(self.scenario, scenario_device, self.clock.now_ms())[:2]
        )
        if self.recordings.gnss is not None:
            RecordedReceiver(self.rig, device, self.recordings.gnss)
        else:
            self.receivers[scenario_device.name] = SyntheticReceiver(self.rig, device, sky, scenario_device.receiver)

    def _sense_motion(self, device: DeviceScenario) -> None:
        """The accelerometer, at a waypoint: from it to the next the wearer moves or does not."""
        speed_kph = position(self.scenario, device, self.clock.now_ms())[2]
        self.pins[device.name, "motion"].set(1 if speed_kph > 0 else 0)

    def _battery_counts(self, scenario_device: DeviceScenario) -> float:
        hours = self.clock.now_ms() / 3_600_000
        percent = scenario_device.battery_percent + scenario_device.battery_percent_per_h * hours
        share = max(0.0, min(100.0, percent)) / 100
        empty, full = COIN_CELL_VOLTS if scenario_device.model == "pid" else (EMPTY_VOLTS, FULL_VOLTS)
        return (empty + (full - empty) * share) / VOLTS_PER_COUNT

    def _schedule_events(self) -> None:
        now = self.clock.now_ms()

        def at(clock_time: str, action: Callable[[], None]) -> None:
            self.clock.call_at(now + self.scenario.offset_ms(clock_time), action)

        for device in self.scenario.devices:
            for begin, end in device.strap_open:
                strap = self.fibres.get(device.name) or self.pins[device.name, "strap"]
                at(begin, lambda strap=strap: strap.set(0))  # type: ignore[misc]
                at(end, lambda strap=strap: strap.set(1))  # type: ignore[misc]
            for point in device.track if self.recordings.gnss is None else ():
                at(point.at, lambda device=device: self._sense_motion(device))  # type: ignore[misc]
            for begin, end in device.mains_lost:
                mains = self.pins[device.name, "mains"]
                at(begin, lambda mains=mains: mains.set(0))  # type: ignore[misc]
                at(end, lambda mains=mains: mains.set(1))  # type: ignore[misc]
            for begin, end in device.link_cut:
                at(begin, lambda name=device.name: self.cut_link(name))  # type: ignore[misc]
                at(end, lambda name=device.name: self.restore_link(name))  # type: ignore[misc]
            if device.model == "alcohol" and self.recordings.alcohol is not None:
                schedule = RecordedSchedule(self.rig, self.cells[device.name], self.recordings.alcohol)
                schedule.start(now + self.recordings.alcohol_start_ms)

    def _rssi_dbm(self, transmitter_id: int, receiver_id: int, now_ms: int) -> int | None:
        for number, other in ((transmitter_id, receiver_id), (receiver_id, transmitter_id)):
            device = self._by_id.get(number)
            if device is None:
                continue
            if other == GATEWAY and number in self.out_of_range:
                return None
            if device.away and self.scenario.within(device.away, now_ms):
                return None
        if self.recordings.ble_rssi_dbm is not None and GATEWAY not in (transmitter_id, receiver_id):
            return self.recordings.ble_rssi_dbm(now_ms)
        return -62 + round(self._random.gauss(0, 4))
