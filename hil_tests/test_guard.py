"""A home unit whose task hangs: the watchdog resets it, three such boots lead to safe mode, and all of it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from emrig import ledger
from emrig.scenario import Scenario
from emrig.station import Station
from emwire import codec, constants

HANGS = """
from common.device import Device
from drivers.serial_link import SerialLink
from emwire import constants


async def run(board):
    device = Device(board, constants.MODEL_HOME_UNIT, 0)
    device.link_over(SerialLink(board.uart("host"), device.device_id))
    device.watchdog.expect("presence", 1000)  # and never again
    await device.run()
"""
# Three boots of 900 s and what the last feed adds, then safe mode, and a fourth boot an hour later.
RUN_MS = 2 * 3_600_000


async def test_a_hung_task_leads_to_safe_mode_and_all_is_told(
    tmp_path: Path, busy_day: Scenario, make_station: Callable[..., Station]
) -> None:
    tags = tmp_path / "broken" / "tags"
    tags.mkdir(parents=True)
    (tags / "__init__.py").write_text("")
    (tags / "home_unit.py").write_text(HANGS)
    home = next(device for device in busy_day.devices if device.model == "home_unit")
    day = busy_day.model_copy(update={"devices": (home.model_copy(update={"beacons": ()}),)})
    station = make_station(day)

    def break_firmware() -> None:
        station.rig.devices[home.name]._module_path.insert(0, tmp_path / "broken")

    station.on_wired = break_firmware
    async with station:
        await station.rig.run(until_ms=RUN_MS)
        restarts = station.rig.counters["device_restarts"]
    messages = [
        codec.decode(payload)
        for (_, _, _), payload in sorted(ledger.payloads(station.database).items())
        if payload[0] in (constants.MESSAGE_HELLO, constants.MESSAGE_EVENT)
    ]
    hellos = [message for message in messages if isinstance(message, codec.Hello)]
    stuck, safe = constants.EVENT_TASK_STUCK, constants.EVENT_SAFE_MODE
    events = [message for message in messages if isinstance(message, codec.Event)]
    told = [event.event_type for event in events if event.event_type in (stuck, safe)]
    assert told[:5] == [stuck, stuck, stuck, safe, stuck], told
    assert [hello.reset_cause for hello in hellos[:5]] == [
        constants.RESET_POWER_ON,
        constants.RESET_WATCHDOG,
        constants.RESET_WATCHDOG,
        constants.RESET_WATCHDOG,
        constants.RESET_SOFT,
    ]
    assert {hello.clock_source for hello in hellos[1:4]} == {constants.CLOCK_RETAINED}, "the time goes on over a reset"
    assert restarts == 1, "safe mode tries again by itself"
