"""A device is updated through the real gateway, in spite of kills on both sides; bad firmware is rolled back."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import books
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from emrig import ledger, target
from emrig.images import firmware_image
from emrig.images import signing as firmware_signing
from emrig.images.firmware_image import Image
from emrig.scenario import Scenario
from emrig.station import Station
from emwire import codec, constants

NAME = "home"
KEY = ec.generate_private_key(ec.SECP256R1())
# A pty takes more than a line at 115,200 Bd; the rig's time goes on slowly enough for the gateway's patience to count.
MORE_CONFIGURATION = ["[updates]", "bytes_per_s = 1000000"]
SPEED = 60.0
HOUR_MS = 3_600_000


def offer(station: Station, update_id: int, image: Image) -> str:
    """Put an update's files where the gateway finds them; its name."""
    folder = station.gateway_folder / "updates"
    folder.mkdir(exist_ok=True)
    name = f"{image.model}-{update_id}"
    (folder / f"{name}.image").write_bytes(image.data)
    (folder / f"{name}.manifest").write_bytes(firmware_signing.sign(image, KEY, update_id))
    return name


async def ask(station: Station, **asked: Any) -> dict[str, Any]:
    """One question to the gateway's control socket."""
    reader, writer = await asyncio.open_unix_connection(str(station.gateway_folder / "control.sock"))
    writer.write(json.dumps(asked).encode() + b"\n")
    answer: dict[str, Any] = json.loads(await reader.readline())
    writer.close()
    assert answer["ok"], answer
    return answer


async def request(station: Station, update_id: int, image: Image, name: str = NAME) -> None:
    body = {
        "requestId": f"update-{update_id}",
        "deviceId": station.device(name).device_id,
        "kind": "update",
        "update": offer(station, update_id, image),
        "expiresMs": station.scenario.start_unix_ms + 100 * 24 * HOUR_MS,
    }
    await ask(station, do="submit", request=body)


async def roll_out(station: Station, update_id: int, image: Image) -> None:
    """The same by the operator's command."""
    file = station.folder / "new.image"
    file.write_bytes(image.data)
    file.with_suffix(".manifest").write_bytes(firmware_signing.sign(image, KEY, update_id))
    config = str(station.gateway_folder / "gateway.toml")
    device = f"{station.device(NAME).device_id:#x}"
    command = [sys.executable, "-m", "emgate.cli", "gateway", "update", "--config", config, str(file), device]
    done = await asyncio.create_subprocess_exec(*command)
    assert await done.wait() == 0


def identity() -> dict[str, object]:
    """What the devices know of updates. The healthy hour is five minutes here: tests/update has the hour."""
    return {"update_key": firmware_signing.public_bytes(KEY).hex(), "settings": {"update_confirm_s": 300}}


def states(station: Station, update_id: int) -> list[codec.UpdateState]:
    """What the device reported of an update, in the order it was made."""
    arrived = ledger.payloads(station.database)
    messages = [codec.decode(payload) for _, payload in sorted(arrived.items())]
    return [m for m in messages if isinstance(m, codec.UpdateState) and m.update_id == update_id]


def phases(station: Station, update_id: int) -> list[tuple[int, int]]:
    said = [(state.update_phase, state.update_cause) for state in states(station, update_id)]
    return [entry for index, entry in enumerate(said) if index == 0 or said[index - 1] != entry]


def mains_lost(station: Station) -> bool:
    """Whether the backend knows."""
    messages = [codec.decode(payload) for payload in ledger.payloads(station.database).values()]
    return any(isinstance(m, codec.Event) and m.event_type == constants.EVENT_MAINS_LOST for m in messages)


def versions(station: Station) -> list[tuple[int, int, int]]:
    """Of every boot that said hello."""
    messages = [codec.decode(payload) for _, payload in sorted(ledger.payloads(station.database).items())]
    return [(m.firmware_major, m.firmware_minor, m.firmware_patch) for m in messages if isinstance(m, codec.Hello)]


async def until_told(station: Station, update_id: int, phase: int) -> None:
    end = station.clock.now_ms() + 48 * HOUR_MS
    while phase not in [entry[0] for entry in phases(station, update_id)]:
        assert station.clock.now_ms() < end, f"the update did not get there: {phases(station, update_id)}"
        await station.rig.run(until_ms=station.clock.now_ms() + 5_000, speed=SPEED)


def bad_image(main: bytes) -> Image:
    """An image that gets no further than its main module, and so needs no other."""
    security_version = firmware_image.source_version()[1]
    return firmware_image.pack("home_unit", "sim", (9, 3, 0), security_version, {"main.py": main})


@pytest.mark.slow
async def test_an_update_arrives_and_a_bad_one_is_rolled_back(
    busy_day: Scenario, make_station: Callable[..., Station], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "STEP_LIMIT_S", 2.0)  # what hangs is found out soon
    (device,) = (device for device in busy_day.devices if device.name == NAME)
    station = make_station(busy_day.model_copy(update={"devices": (device.model_copy(update={"beacons": ()}),)}))
    station.more_identity[NAME] = identity()
    station.more_configuration = MORE_CONFIGURATION
    async with station:
        folder: Path = station.rig.devices[NAME].folder
        await station.rig.run(until_ms=60_000, speed=SPEED)

        good = firmware_image.build("home_unit", "sim", (9, 2, 0))
        await roll_out(station, 2, good)
        partial_image = folder / "update.image"
        await station.rig.run(until=lambda: _size(partial_image) > len(good.data) // 3, speed=SPEED)
        # An alarm in the middle of it is at the backend before the image is at the device.
        station.pins[NAME, "mains"].set(0)
        await station.rig.run(until=lambda: mains_lost(station), speed=SPEED)
        assert _size(partial_image) < len(good.data)
        station.kill_device(NAME)
        before = _size(partial_image)
        station.power_on(NAME)
        await station.rig.run(until=lambda: _size(partial_image) > before, speed=SPEED)
        await station.kill_gateway()
        await station.start_gateway()
        await until_told(station, 2, constants.UPDATE_INSTALLED)
        assert json.loads((folder / "a" / "image.json").read_text())["version"] == "9.2.0"
        await until_told(station, 2, constants.UPDATE_CONFIRMED)
        assert [phase for phase, _ in phases(station, 2)] == [
            constants.UPDATE_OFFERED,
            constants.UPDATE_RECEIVING,
            constants.UPDATE_VERIFIED,
            constants.UPDATE_INSTALLED,
            constants.UPDATE_CONFIRMED,
        ]
        assert versions(station)[-1] == (9, 2, 0)
        (answer,) = (await ask(station, do="list"))["requests"]
        assert (answer["state"], answer["result"]["phase"]) == ("answered", "CONFIRMED")

        for update_id, main in ((3, b"raise ValueError('does not start')\n"), (4, b"while True:\n    pass\n")):
            await request(station, update_id, bad_image(main))
            await until_told(station, update_id, constants.UPDATE_ROLLED_BACK)
            assert phases(station, update_id)[-1] == (constants.UPDATE_ROLLED_BACK, constants.UPDATE_CAUSE_CRASHED)
            assert versions(station)[-1] == (9, 2, 0)

        expected = books.made(station)
        await books.drain(station, expected)
        books.assert_arrived_once(expected, station)


@pytest.mark.slow
async def test_links_that_hang_up_carry_an_update(busy_day: Scenario, make_station: Callable[..., Station]) -> None:
    """The ankle tag over MQTT and the bracelet over BLE, at once; each calls when it reports, and then hangs up."""
    numbers = {"ankle": 11, "bracelet": 12}
    station = make_station(
        busy_day.model_copy(update={"devices": tuple(d for d in busy_day.devices if d.name in numbers)})
    )
    station.more_identity = {name: identity() for name in numbers}
    station.more_configuration = MORE_CONFIGURATION
    async with station:
        await station.rig.run(until_ms=60_000, speed=SPEED)
        for name, update_id in numbers.items():
            image = firmware_image.build(station.device(name).model, "sim", (9, 2, 0))
            await request(station, update_id, image, name)
        for update_id in numbers.values():
            await until_told(station, update_id, constants.UPDATE_CONFIRMED)
        assert versions(station).count((9, 2, 0)) == len(numbers)
        expected = books.made(station)
        await books.drain(station, expected)
        books.assert_arrived_once(expected, station)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
