"""What happens to serial ports in a flat: wrong device, half-open, unplugged, taken, broken; over real ptys."""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import random
import shutil
import subprocess
import threading
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
from emgate import supervisor as supervisors
from emgate.config import PortMatch, SerialSection
from emgate.links import serial_port
from emgate.links.serial_identity import resolve
from emgate.links.serial_port import SerialLink, line_errors
from emwire import constants
from gateway_kit import Port
from links_kit import Heard, supervised, until, up
from pydantic import ValidationError
from serial.tools import list_ports_linux
from test_serial_link import Taker, datagram


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_port, "WATCH_S", 0.02)


def link_at(path: str, taker: Taker, heard: Heard | None = None) -> SerialLink:
    return SerialLink(SerialSection(port=path), taker, events=heard)


async def feed(port: Port, data: bytes) -> None:
    """Write all of it, as a UART would that nobody holds up."""
    while data:
        with contextlib.suppress(BlockingIOError):
            data = data[os.write(port.master, data[:2048]) :]
        await asyncio.sleep(0)


# -- another device ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("garbage", "said"),
    [
        (b"$GPGGA,092750.000,5321.6802,N,00630.3372,W,1,8,1.03,61.7,M,55.2,M,,*76\r\n" * 250, "such as b'$GPGGA"),
        (random.Random(1).randbytes(17_000), "such as b"),
        (bytes(17_000), "only zero bytes: a broken line"),
    ],
)
async def test_a_wrong_device_is_said_with_its_reason_told_once_and_tried_again(monkeypatch, garbage, said) -> None:
    monkeypatch.setattr(serial_port, "WRONG_AFTER_S", 0.01)
    monkeypatch.setattr(serial_port, "READ_BYTES_PER_S", 1 << 40)
    port, taker, heard = Port(), Taker(), Heard()
    link = link_at(port.path, taker, heard)
    async with supervised(link, events=heard) as supervisor:
        for times in (1, 2):
            await up(link)
            await feed(port, garbage)
            await until(lambda times=times: supervisor.restarts["eproto"] == times)
        assert link.counters["wrong_device"] == 2
        ((value, evidence),) = heard.of(constants.EVENT_GATEWAY_WRONG_DEVICE)
        assert all(heard.alarms), "whether somebody is absent or nobody listened is known at once"
        assert value >= serial_port.WRONG_BYTES
        assert evidence.startswith(link.name.encode() + b"\n")
        assert said in evidence.decode()
        await up(link)
        port.write(b"\0" + datagram(5, b"now the right one"))
        await taker.until(1)
        assert taker.frames == [(5, b"now the right one")]
        await until(lambda: supervisor.last_reason is None)


async def test_the_reason_of_a_wrong_device_says_what_to_check(monkeypatch) -> None:
    monkeypatch.setattr(serial_port, "WRONG_FEW_BYTES", 10)
    monkeypatch.setattr(serial_port, "WRONG_LATER_S", 0.03)
    port = Port()
    link = link_at(port.path, Taker())
    running = asyncio.create_task(link.run())
    await up(link)
    port.write(b"login: \r\nlogin: ")
    with pytest.raises(
        OSError, match=r"no tag at this port: 16 bytes .* b'login: .*Check what is plugged in, and baud"
    ):
        await asyncio.wait_for(running, 20)


async def test_a_noisy_line_with_a_tag_is_not_called_a_wrong_device(monkeypatch) -> None:
    monkeypatch.setattr(serial_port, "WRONG_AFTER_S", 0.0)
    monkeypatch.setattr(serial_port, "WRONG_LATER_S", 0.0)
    port, taker, chance = Port(), Taker(), random.Random(2)
    link = link_at(port.path, taker)
    async with supervised(link) as supervisor:
        port.write(datagram(5, b"first"))
        await taker.until(1)
        for _ in range(30):
            await feed(port, chance.randbytes(2000) + b"\0" + datagram(5, b"x"))
        await taker.until(31)
        assert not supervisor.restarts
        assert link.counters["damaged"] + link.counters["oversize"] > 30


async def fill(link: SerialLink) -> None:
    sent = True
    while sent:
        sent = await link.send(5, bytes(900))


# -- half-open --------------------------------------------------------------------------------------------------


async def test_writes_that_never_drain_end_the_link_with_their_reason(monkeypatch) -> None:
    monkeypatch.setattr(serial_port, "STALLED_S", 0.05)
    port = Port()  # nobody reads at the other end
    link = link_at(port.path, Taker())
    running = asyncio.create_task(link.run())
    await up(link)
    await fill(link)
    with pytest.raises(OSError, match=r"has taken no byte for .* s and \d+ wait") as failed:
        await asyncio.wait_for(running, 20)
    assert failed.value.errno == errno.ETIMEDOUT
    assert link.counters["write_stalled"] == 1
    assert not await link.send(5, b"closed")


async def test_a_slow_reader_is_not_a_stalled_one(monkeypatch) -> None:
    monkeypatch.setattr(serial_port, "STALLED_S", 0.5)
    monkeypatch.setattr(serial_port, "WRITE_BYTES", 200_000)  # twice as long as that, read as below
    port = Port()
    link = link_at(port.path, Taker())
    async with supervised(link) as supervisor:
        await fill(link)
        while link._outgoing:
            await asyncio.sleep(0.02)
            with contextlib.suppress(BlockingIOError):
                os.read(port.master, 4096)
        assert not supervisor.restarts


async def test_a_hang_up_while_nothing_is_read_is_seen(monkeypatch) -> None:
    """Too much waits for its commit, so that the link does not read; the port goes away under it."""
    port, taker = Port(), Taker(holding=True)
    link = link_at(port.path, taker)
    async with supervised(link) as supervisor:
        await feed(port, datagram(5, b"x") * serial_port.UNDER_WAY)
        await taker.until(serial_port.UNDER_WAY)
        port.unplug()
        for future in taker.futures:
            future.set_result(True)
        await until(lambda: bool(supervisor.restarts))
        assert not link.up.is_set()


# -- hot-plug ---------------------------------------------------------------------------------------------------


async def test_a_port_that_returns_is_taken_at_once_whatever_the_back_off(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(supervisors, "FIRST_S", 3600.0)
    name, first, second, taker = tmp_path / "tty", Port(), Port(), Taker()
    name.symlink_to(first.path)
    link = link_at(str(name), taker)
    async with supervised(link, maximum_s=3600.0) as supervisor:
        await up(link)
        name.unlink()  # the driver says nothing: our file stays open
        await until(lambda: not link.up.is_set())
        assert supervisor.last_reason == f"{name} has disappeared"
        await asyncio.sleep(0.1)
        name.symlink_to(second.path)
        await up(link)
        second.write(datagram(5, b"after"))
        await taker.until(1)


async def test_a_pty_that_was_given_out_again_is_not_taken(monkeypatch) -> None:
    monkeypatch.setattr(serial_port, "WATCH_S", 0.02)
    taker = Taker()
    master, slave = os.openpty()
    path = os.ttyname(slave)
    async with supervised(link_at(path, taker), maximum_s=0.02) as supervisor:
        await up(supervisor.what)
        os.close(master)
        os.close(slave)
        await until(lambda: not supervisor.what.up.is_set())
        others = []
        async with asyncio.timeout(20):
            while not others or os.ttyname(others[-1][1]) != path:  # another test may have it for a moment
                others.append(os.openpty())
                await asyncio.sleep(0.01)
        await until(lambda: "another pty now" in (supervisor.last_reason or ""))
        assert not supervisor.what.up.is_set()
    for pair in others:
        os.close(pair[0])
        os.close(pair[1])


async def test_another_device_under_the_same_name_is_opened_anew(tmp_path: Path, monkeypatch) -> None:
    name, first, second, taker = tmp_path / "tty", Port(), Port(), Taker()
    name.symlink_to(first.path)
    link = link_at(str(name), taker)
    async with supervised(link) as supervisor:
        await up(link)
        other = tmp_path / "other"
        other.symlink_to(second.path)
        other.replace(name)
        await until(lambda: supervisor.restarts["enodev"] == 1)
        await up(link)
        second.write(datagram(5, b"second"))
        await taker.until(1)


def usb(device: str, **what) -> SimpleNamespace:
    return SimpleNamespace(
        **{"device": device, "vid": 0x10C4, "pid": 0xEA60, "serial_number": None, "location": None, **what}
    )


def section(**match) -> SerialSection:
    return SerialSection.model_validate({"match": match})


async def test_a_port_is_known_by_its_adapter_wherever_it_is_plugged_in() -> None:
    first, second, taker = Port(), Port(), Taker()
    listed = [usb("/dev/ttyUSB7", serial_number="other"), usb(first.path, serial_number="HU-12")]
    link = SerialLink(section(serial_number="HU-12"), taker, listing=lambda: listed)
    assert link.name == "serial:serial_number=HU-12"
    async with supervised(link):
        await up(link)
        first.write(datagram(5, b"before"))
        await taker.until(1)
        del listed[1]
        first.unplug()
        await until(lambda: not link.up.is_set())
        listed.append(usb(second.path, serial_number="HU-12"))
        await up(link)
        second.write(datagram(5, b"after"))
        await taker.until(2)


@pytest.mark.parametrize(
    ("match", "said"),
    [
        (
            {"serial_number": "HU-9"},
            r"no port matches serial_number=HU-9; there is /dev/ttyUSB0 \(10c4:ea60 serial_num",
        ),
        ({"vendor_id": 0x10C4}, r"2 ports match vendor_id=10c4: /dev/ttyUSB0 .*, /dev/ttyUSB1 .*add what tells them"),
        ({"vendor_id": 0x10C4, "product_id": 1}, "no port matches vendor_id=10c4,product_id=0001"),
    ],
)
def test_an_adapter_that_is_not_there_or_not_alone_is_said_with_what_is(match, said) -> None:
    ports = [usb("/dev/ttyUSB0", serial_number="A"), usb("/dev/ttyUSB1", location="1-1.2"), usb("/dev/ttyS0", vid=None)]
    with pytest.raises(OSError, match=said):
        resolve(section(**match), lambda: ports)
    with pytest.raises(OSError, match="no USB port at all"):
        resolve(section(location="1-9"), list)
    assert resolve(section(location="1-1.2"), lambda: ports) == "/dev/ttyUSB1"


@pytest.mark.parametrize("wrong", [{}, {"port": "/dev/x", "match": {"location": "1"}}, {"match": {}}])
def test_a_port_is_named_in_one_way(wrong) -> None:
    with pytest.raises(ValidationError, match="give"):
        SerialSection.model_validate(wrong)


# -- locking and the line ---------------------------------------------------------------------------------------


async def test_a_port_is_closed_to_programs_that_ask_for_no_lock(monkeypatch) -> None:
    monkeypatch.setattr(serial_port, "PTY_MAJORS", ())
    port = Port()
    os.fchmod(port._slave, 0o666)
    attempt = ["/bin/sh", "-c", ': <>"$0"', port.path]
    # Root may open it all the same.
    other = {"user": 65534} if os.geteuid() == 0 else {}
    link = link_at(port.path, Taker())
    async with supervised(link):
        await up(link)
        result = await asyncio.to_thread(subprocess.run, attempt, stderr=subprocess.PIPE, text=True, cwd="/", **other)
        assert "Device or resource busy" in result.stderr
    result = await asyncio.to_thread(subprocess.run, attempt, stderr=subprocess.PIPE, text=True, cwd="/", **other)
    assert result.returncode == 0, "released with the link"


async def test_the_second_opener_is_told_who_has_the_port() -> None:
    port = Port()
    async with supervised(link_at(port.path, Taker())) as holding:
        await up(holding.what)
        with pytest.raises(OSError, match=rf"{port.path} is in use by another program \(process \d+, .+\): stop it"):
            await link_at(port.path, Taker()).run()


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lays out /sys as the kernel does for USB adapters, below a folder that pyserial takes for it."""

    def plug(name: str, location: str, driver: str, serial: str) -> None:
        device = tmp_path / "sys/devices" / location
        interface = device / f"{location}:1.0"
        port = interface / name if driver == "usb-serial" else interface
        port.mkdir(parents=True)
        for file, text in (("idVendor", "0403"), ("idProduct", "6001"), ("serial", serial), ("bNumInterfaces", " 1")):
            (device / file).write_text(text + "\n")
        (tmp_path / "sys/bus" / driver).mkdir(parents=True, exist_ok=True)
        (port / "subsystem").symlink_to(tmp_path / "sys/bus" / driver)
        tty = tmp_path / "sys/class/tty" / name
        tty.mkdir(parents=True)
        (tty / "device").symlink_to(port)

    def mapped(path: str) -> str:
        return f"{tmp_path}{path}" if path.startswith("/sys/") else path

    paths = SimpleNamespace(
        islink=lambda path: False, exists=lambda path: os.path.exists(mapped(path)),  # noqa: PTH110
        realpath=lambda path: os.path.realpath(mapped(path)),
        join=os.path.join, basename=os.path.basename, dirname=os.path.dirname,
    )  # fmt: skip
    tty = tmp_path / "sys/class/tty"

    def names(pattern: str) -> list[str]:
        return [f"/dev/{each.name}" for each in sorted(tty.iterdir()) if fnmatch(f"/dev/{each.name}", pattern)]

    monkeypatch.setattr(list_ports_linux, "os", SimpleNamespace(path=paths))
    monkeypatch.setattr(list_ports_linux, "glob", SimpleNamespace(glob=names))
    plug.unplug_all = lambda: shutil.rmtree(tmp_path / "sys")
    return plug


def test_an_adapter_is_known_wherever_the_kernel_puts_it(sysfs) -> None:
    section = SerialSection(match=PortMatch(serial_number="A5XK3RJT"))
    sysfs("ttyUSB0", "1-1.2", "usb-serial", "A5XK3RJT")
    sysfs("ttyUSB1", "1-1.3", "usb-serial", "OTHER")
    sysfs("ttyACM0", "1-1.4", "usb", "E6614103E7")
    assert resolve(section) == "/dev/ttyUSB0"
    assert resolve(SerialSection(match=PortMatch(location="1-1.4"))) == "/dev/ttyACM0"
    with pytest.raises(OSError, match="3 ports match vendor_id=0403"):
        resolve(SerialSection(match=PortMatch(vendor_id=0x0403)))
    sysfs.unplug_all()
    sysfs("ttyUSB0", "1-1.3", "usb-serial", "OTHER")
    sysfs("ttyUSB1", "2-1", "usb-serial", "A5XK3RJT")
    assert resolve(section) == "/dev/ttyUSB1"
    sysfs.unplug_all()
    sysfs("ttyUSB0", "1-1.3", "usb-serial", "OTHER")
    with pytest.raises(OSError, match=r"no port matches serial_number=A5XK3RJT; there is /dev/ttyUSB0 .*OTHER"):
        resolve(section)


async def test_breaks_and_noise_that_the_driver_counts_are_counted_here(monkeypatch) -> None:
    """As the kernel hands them out: struct serial_icounter_struct of linux/serial.h, by its names."""

    class Counts(ctypes.Structure):
        _fields_ = [
            *((name, ctypes.c_int) for name in ("cts", "dsr", "rng", "dcd", "rx", "tx")),
            *((name, ctypes.c_int) for name in ("frame", "overrun", "parity", "brk", "buf_overrun")),
            ("reserved", ctypes.c_int * 9),
        ]

    counts, ioctl = Counts(rx=12345, cts=7), fcntl.ioctl

    def answer(descriptor, request, *arguments):
        if request != 0x545D:  # TIOCGICOUNT of asm-generic/ioctls.h
            return ioctl(descriptor, request, *arguments)
        assert len(arguments[0]) == ctypes.sizeof(Counts)
        return bytes(counts)

    monkeypatch.setattr(serial_port.fcntl, "ioctl", answer)
    port = Port()
    link = link_at(port.path, Taker())
    async with supervised(link) as supervisor:
        await up(link)
        counts.brk, counts.frame, counts.buf_overrun, counts.parity, counts.overrun = 3, 5, 1, 8, 9
        await until(lambda: link.counters["line_breaks"] == 3)
        counts.brk = 4
        await until(lambda: link.counters["line_breaks"] == 4)
        assert {name: link.counters[name] for name in link.counters if name.startswith("line_")} == {
            "line_breaks": 4, "line_framing": 5, "line_buffer_overrun": 1, "line_parity": 8, "line_overrun": 9,
        }  # fmt: skip
        assert not supervisor.restarts


def test_a_pty_has_no_line_to_count() -> None:
    port = Port()
    assert line_errors(port._slave) is None


# -- flood ------------------------------------------------------------------------------------------------------


async def test_a_port_faster_than_any_line_is_read_at_its_pace_and_nothing_is_lost(monkeypatch) -> None:
    monkeypatch.setattr(serial_port, "READ_BYTES_PER_S", 20_000)
    port, taker = Port(), Taker()
    os.set_blocking(port.master, True)
    stream = datagram(5, b"x" * 100) * 400
    link = link_at(port.path, taker)
    async with supervised(link):
        await up(link)
        writing = threading.Thread(
            target=lambda: [os.write(port.master, stream[n : n + 1000]) for n in range(0, len(stream), 1000)]
        )
        writing.start()
        await taker.until(400)
        await asyncio.to_thread(writing.join)
        assert link.counters["paced"] >= (len(stream) - 20_000) // 20_000
