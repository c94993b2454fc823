"""The rig: steps simulated devices in lock-step virtual time among models that talk to the real world outside.

Virtual time moves from one due moment to the next, at most `speed` times real time (None: as fast as it goes). While a
device waits for an answer from outside (a gateway, a broker), the rig *holds* virtual time for a moment of real time,
so that a real round trip of milliseconds does not look like minutes to a device that lives 480 times faster.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from emrig.clock import VirtualClock
from emrig.interpreter import Interpreter, Spawner
from emrig.paths import firmware_folder, protocol_folder
from emrig.target import Device, DeviceDead

# Real time that an unanswered output may hold virtual time. A round trip through broker, gateway, fsync and back takes
# 10 to 60 ms on a small machine; a cut link costs this once per retransmission.
HOLD_S = 0.3
# After an answer more may follow it at once (an acknowledgement, then the time): let it arrive before time goes on.
SETTLE_S = 0.015
# After a hardware fault a watchdog restarts a tag in seconds.
RESTART_DELAY_MS = 5_000


class Rig:
    """Owns the clock and the devices; run() moves them."""

    def __init__(self, folder: Path, interpreter: Interpreter, clock: VirtualClock) -> None:
        self.folder = folder
        self.clock = clock
        self.devices: dict[str, Device] = {}
        self.counters: Counter[str] = Counter()
        self.on_log: Callable[[str, str], None] | None = None
        self.on_crash: Callable[[Device], None] | None = None
        """Called when a device's process has ended, before it is restarted."""
        self.hold_s = HOLD_S
        self.spawners: dict[str, Spawner] = {}
        """Of devices that are to run on another target than the simulated board, by name; put here before add()."""
        self.before_firmware: dict[str, Path] = {}
        """A folder that comes before the firmware on a device's module path, by name; put here before add()."""
        self._spawner = Spawner(interpreter)
        self._holds: dict[str, float] = {}
        self._settling: set[str] = set()
        self._woken = asyncio.Event()

    def add(self, name: str) -> Device:
        """A device with its folder under the rig's; wire its parts, then start() it."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        device = Device(
            name,
            folder,
            self.spawners.get(name, self._spawner),
            [
                *([self.before_firmware[name]] if name in self.before_firmware else []),
                firmware_folder(),
                protocol_folder(),
                Path(__file__).parent / "micropython",
            ],
            firmware_folder() / "boards" / "sim" / "start.py",
            self._log,
        )
        device.wake = self._woken.set
        device.clock = self.clock
        self.devices[name] = device
        return device

    def hold(self, key: str) -> None:
        """Something left the rig and an answer may come: hold virtual time for it, but not for long."""
        self._holds[key] = time.monotonic() + self.hold_s
        self._settling.discard(key)

    def release(self, key: str) -> None:
        """The answer came: time goes on as soon as nothing more follows it."""
        if key in self._holds:
            self._holds[key] = time.monotonic() + SETTLE_S
            self._settling.add(key)
            self._woken.set()

    @property
    def holding(self) -> bool:
        """Whether virtual time stands still for an answer."""
        now = time.monotonic()
        for key in [key for key, end in self._holds.items() if end <= now]:
            del self._holds[key]
            if key in self._settling:
                self._settling.discard(key)
            else:
                self.counters["hold_expired"] += 1
        return bool(self._holds)

    async def run(
        self,
        until_ms: int | None = None,
        speed: float | None = None,
        until: Callable[[], bool] | None = None,
    ) -> None:
        """Run to virtual time until_ms, or until the condition holds (checked after every step)."""
        real_start, virtual_start = time.monotonic(), self.clock.now_ms()
        while not (until is not None and until()):
            now = self.clock.now_ms()
            self.clock.advance(now)
            if self._step_due(now):
                await asyncio.sleep(0)
                continue
            if until_ms is not None and now >= until_ms:
                return
            if self.holding:
                await self._wait(min(self._holds.values()) - time.monotonic())
                continue
            target = self._next_due(until_ms)
            if speed is not None:
                paced = virtual_start + int((time.monotonic() - real_start) * speed * 1000)
                if target is None or paced < target:
                    self.clock.advance(max(now, paced))
                    delay = 1.0 if target is None else (target - paced) / speed / 1000
                    await self._wait(min(delay, 1.0))
                    continue
            elif target is None:
                await self._wait(1.0)
                continue
            assert target is not None
            self.clock.advance(target)
            await asyncio.sleep(0)

    def close(self) -> None:
        """Power everything off."""
        for device in self.devices.values():
            device.kill()
        for spawner in (self._spawner, *self.spawners.values()):
            spawner.close()
        self.clock.close()

    def start(self, device: Device) -> None:
        """Power a device on; one that dies at once is restarted like any other."""
        try:
            device.start()
        except DeviceDead as dead:
            self._crashed(device, dead)

    def _step_due(self, now: int) -> bool:
        stepped = False
        for device in list(self.devices.values()):
            due = device.deadline_ms is not None and device.deadline_ms <= now
            if device.running and (due or device.inbox):
                stepped = True
                try:
                    device.step(now)
                except DeviceDead as dead:
                    self._crashed(device, dead)
        return stepped

    def _crashed(self, device: Device, dead: DeviceDead) -> None:
        if device.restarts_itself:
            self.counters["device_restarts"] += 1
            self._log(device.name, "restart")
        else:
            self.counters["device_crashes"] += 1
            self._log(device.name, f"crash: {dead}")
        if self.on_crash:
            self.on_crash(device)

        def restart() -> None:
            if not device.running:
                self.start(device)

        self.clock.call_later(RESTART_DELAY_MS, restart)

    def _next_due(self, until_ms: int | None) -> int | None:
        due = [d.deadline_ms for d in self.devices.values() if d.running and d.deadline_ms is not None]
        due += [t for t in (self.clock.next_due_ms(), until_ms) if t is not None]
        return min(due) if due else None

    async def _wait(self, seconds: float) -> None:
        self._woken.clear()
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    def _log(self, name: str, text: str) -> None:
        if self.on_log:
            self.on_log(name, text)
