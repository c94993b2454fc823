"""The serial link over real ptys."""

import asyncio
import contextlib
import os
import random
import struct
from pathlib import Path

import pytest
from emgate.config import SerialSection
from emgate.links.serial_port import UNDER_WAY, SerialLink
from emgate.supervisor import Supervisor
from emwire.framing import encode_stream
from gateway_kit import PATIENCE_S, Port


class Taker:
    """What a session is to a link."""

    def __init__(self, *, holding: bool = False) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.futures: list[asyncio.Future[bool]] = []
        self.holding = holding
        self.more = asyncio.Event()

    def __call__(self, link: object, device_id: int, frame: bytes) -> "asyncio.Future[bool]":
        self.frames.append((device_id, frame))
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if not self.holding:
            future.set_result(True)
        self.futures.append(future)
        self.more.set()
        return future

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.frames) < count:
                self.more.clear()
                await self.more.wait()


@contextlib.asynccontextmanager
async def running(path: str, taker: Taker):
    link = SerialLink(SerialSection(port=path), taker)
    supervisor = Supervisor(link, maximum_s=0.05)
    task = asyncio.create_task(supervisor.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await supervisor.tried.wait()
        yield link, supervisor
    finally:
        task.cancel()
        await asyncio.wait([task])


def datagram(device_id: int, frame: bytes) -> bytes:
    return encode_stream(struct.pack("<I", device_id) + frame)


async def test_frames_arrive_whole_however_the_bytes_are_split() -> None:
    port, taker, chance = Port(), Taker(), random.Random(1)
    frames = [(chance.randrange(1, 1 << 32), chance.randbytes(chance.randrange(1, 900))) for _ in range(40)]
    stream = b"".join(datagram(*each) for each in frames)
    async with running(port.path, taker):
        while stream:
            size = chance.choice([1, 2, 3, 50, 700])
            with contextlib.suppress(BlockingIOError):
                stream = stream[os.write(port.master, stream[:size]) :]
            await asyncio.sleep(0)
        await taker.until(len(frames))
    assert taker.frames == frames


async def test_garbage_and_another_devices_chatter_only_count() -> None:
    port, taker = Port(), Taker()
    async with running(port.path, taker) as (link, _):
        port.write(b"\r\n$GPGGA,this is not for us*00\r\nlogin: \0")
        port.write(bytes([7]) * 3000)
        port.write(b"\0" + datagram(5, b"x")[:-3] + b"\0")
        port.write(encode_stream(b"abc"))
        port.write(datagram(9, b"good"))
        await taker.until(1)
        assert taker.frames == [(9, b"good")]
        assert link.counters["damaged"] == 2
        assert link.counters["oversize"] == 1
        assert link.counters["short_datagram"] == 1


async def test_an_unplugged_port_comes_back(tmp_path: Path) -> None:
    name = tmp_path / "tty-home-unit"
    first, second, taker = Port(), Port(), Taker()
    name.symlink_to(first.path)
    async with running(str(name), taker) as (link, supervisor):
        first.write(datagram(1, b"before"))
        await taker.until(1)
        name.unlink()
        os.close(first.master)
        async with asyncio.timeout(PATIENCE_S):
            while not supervisor.restarts:  # noqa: ASYNC110 - a counter of the code under test
                await asyncio.sleep(0.01)
        assert not link.up.is_set()
        assert not await link.send(1, b"nobody there")
        name.symlink_to(second.path)
        async with asyncio.timeout(PATIENCE_S):
            await link.up.wait()
        second.write(datagram(1, b"after"))
        await taker.until(2)
    assert [frame for _, frame in taker.frames] == [b"before", b"after"]


async def test_a_port_in_use_is_refused_with_its_reason_and_taken_when_free() -> None:
    port, taker = Port(), Taker()
    async with running(port.path, Taker()) as (_, holder):
        assert holder.what.up.is_set()
        async with running(port.path, taker) as (link, supervisor):
            assert not link.up.is_set()
            assert "is in use by another program (process" in supervisor.last_reason
            assert supervisor.restarts["eagain"] >= 1


async def test_frames_go_down_and_a_reader_that_stalls_bounds_the_queue() -> None:
    port, taker = Port(), Taker()
    async with running(port.path, taker) as (link, _):
        port.attach()
        assert await link.send(5, b"hello")
        async with asyncio.timeout(PATIENCE_S):
            while not port.frames:  # noqa: ASYNC110 - filled by the reader of the far end
                await asyncio.sleep(0.01)
        assert port.frames == [b"hello"]
        asyncio.get_running_loop().remove_reader(port.master)
        results = [await link.send(5, bytes(900)) for _ in range(60)]
        assert False in results
        assert link.counters["send_queue_full"] == results.count(False)


async def test_reading_stops_while_too_much_waits_for_its_commit() -> None:
    port, taker = Port(), Taker(holding=True)
    async with running(port.path, taker):
        stream = datagram(5, b"x" * 20) * 1000
        total = 0
        while total < len(stream) and len(taker.frames) < UNDER_WAY:
            with contextlib.suppress(BlockingIOError):
                total += os.write(port.master, stream[total : total + 500])
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        held = len(taker.frames)
        assert UNDER_WAY <= held < 1000
        taker.holding = False
        for future in taker.futures[:held]:
            future.set_result(True)
        while total < len(stream):
            with contextlib.suppress(BlockingIOError):
                total += os.write(port.master, stream[total : total + 500])
            await asyncio.sleep(0)
        await taker.until(1000)


async def test_a_missing_port_is_tried_again_until_it_is_there(tmp_path: Path) -> None:
    name = tmp_path / "tty"
    taker = Taker()
    async with running(str(name), taker) as (link, supervisor):
        assert supervisor.last_reason == "No such file or directory"
        port = Port()
        name.symlink_to(port.path)
        async with asyncio.timeout(PATIENCE_S):
            await link.up.wait()


def test_a_pty_is_not_set_to_raw_again_after_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the mode of a tty after its peer has written loses bytes: once, by pyserial's open, is enough."""
    import termios

    calls: list[int] = []
    set_attributes = termios.tcsetattr
    monkeypatch.setattr(termios, "tcsetattr", lambda *arguments: (calls.append(1), set_attributes(*arguments))[1])

    async def check() -> None:
        port, taker = Port(), Taker()
        calls.clear()
        async with running(port.path, taker):
            opened = len(calls)
            port.write(datagram(1, b"x"))
            await taker.until(1)
            assert len(calls) == opened

    asyncio.run(check())
