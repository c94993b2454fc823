"""`emtag gateway update` says what is wrong, and leaves a state directory as it was."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from emgate.clock import SystemClock
from emgate.commands import update_command
from emgate.down.downlink import Downlink
from emgate.down.requests import Requests
from emgate.down.updates import Updates
from emgate.operation.control_client import SOCKET
from emgate.operation.control_socket import ControlSocket
from emgate.store.store import Store
from emrig.images import signing as firmware_signing
from update_kit import KEY, small_image

CONFIG = """
[gateway]
id = "house"
state_directory = "state"
[protection]
at_rest = "off"
[[serial]]
port = "tty"
[[devices]]
device_id = 1
model = "home_unit"
key = "00112233445566778899aabbccddeeff"
"""


GATEWAYS_USER = 54321


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    (tmp_path / "gateway.toml").write_text(CONFIG)
    return tmp_path / "gateway.toml"


@pytest.fixture
async def requests(config: Path) -> AsyncIterator[Requests]:
    """What of a gateway the command talks to."""
    state = config.parent / "state"
    store, downlink = await Store.open(state / "store.sqlite"), Downlink()
    made = Requests(store, SystemClock(None), downlink, lambda device_id: device_id in (1, 2))
    Updates(state, made, downlink, 1e9)

    async def status(_: object) -> dict[str, Any]:
        return {"status": {"timeMs": time.time_ns() // 1_000_000}}

    server = ControlSocket(state / SOCKET, made, {"status": status})
    serving = asyncio.create_task(server.run())
    await server.up.wait()
    yield made
    serving.cancel()
    await asyncio.wait([serving])
    await store.close()


def call(config: Path, image: Any, update_id: int = 1, device: int = 1) -> int:
    path = config.with_name("new.image")
    path.write_bytes(image.data)
    manifest = config.with_name("new.manifest")
    manifest.write_bytes(firmware_signing.sign(image, KEY, update_id))
    return update_command.update(config, path, manifest, [device], 30, 0.0)


def placed(config: Path) -> set[str]:
    return {path.name for path in (config.parent / "state" / "updates").iterdir()}


def test_without_a_gateway(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(config, small_image(2)) == update_command.EXIT_NOT_RUNNING
    assert "is it running?" in capsys.readouterr().err
    assert not (config.parent / "state" / "updates").exists()


async def test_a_number_is_of_one_image(config: Path, requests: Requests, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(call, config, small_image(2)) == update_command.EXIT_OK
    kept = (config.parent / "state" / "updates" / "home_unit-1.image").read_bytes()
    assert await asyncio.to_thread(call, config, small_image(3)) == update_command.EXIT_REFUSED
    assert "higher --update-id" in capsys.readouterr().err
    assert (config.parent / "state" / "updates" / "home_unit-1.image").read_bytes() == kept


async def test_only_images_that_somebody_is_asked_to_take_stay(config: Path, requests: Requests) -> None:
    def files(*numbers: int) -> set[str]:
        return {f"home_unit-{number}.{suffix}" for number in numbers for suffix in ("image", "manifest")}

    assert await asyncio.to_thread(call, config, small_image(2), 1, 1) == update_command.EXIT_OK
    assert await asyncio.to_thread(call, config, small_image(3), 2, 2) == update_command.EXIT_OK
    assert placed(config) == files(1, 2)
    (config.parent / "state" / "updates" / ".home_unit-9.image.new").write_bytes(b"of a copy cut short")
    assert await asyncio.to_thread(call, config, small_image(4), 3, 2) == update_command.EXIT_OK
    assert placed(config) == files(1, 3), "the second device's new image took the place of its old one"


async def test_what_root_places_is_the_gateways(config: Path, requests: Requests) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.chown(config.parent / "state", GATEWAYS_USER, GATEWAYS_USER)
    folder = config.parent / "state" / "updates"
    folder.mkdir()  # root's, from an earlier program
    assert await asyncio.to_thread(call, config, small_image(2)) == update_command.EXIT_OK
    for path in (folder, *folder.iterdir()):
        facts = path.stat()
        assert (facts.st_uid, facts.st_gid) == (GATEWAYS_USER, GATEWAYS_USER), path
        assert path == folder or facts.st_mode & 0o77 == 0
    (folder / "home_unit-1.image").chmod(0o600)
    os.chown(folder / "home_unit-1.image", 0, 0)
    assert await asyncio.to_thread(call, config, small_image(2)) == update_command.EXIT_OK
    assert (folder / "home_unit-1.image").stat().st_uid == GATEWAYS_USER, "mended by a repetition"


def test_files_that_do_not_belong_together(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(config, small_image(2))
    config.with_name("new.image").write_bytes(small_image(3).data)
    paths = (config.with_name("new.image"), config.with_name("new.manifest"))
    assert update_command.update(config, *paths, [1], 30, 0.0) == update_command.EXIT_REFUSED
    assert "of another image" in capsys.readouterr().err
    assert (
        update_command.update(config, config.with_name("none"), paths[1], [1], 30, 0.0) == update_command.EXIT_REFUSED
    )
