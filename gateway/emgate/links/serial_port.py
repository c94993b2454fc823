"""The serial link: a home unit on a port, or a pty. Datagrams framed by emwire.framing, no thread, no polling of data.

A port can be lost without a word: unplugged, replaced, hung, deaf on one side, or wired to something else. Once a
second the link looks whether it still is what it opened, and ends itself with a reason when it is not.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import termios
from collections import Counter
from pathlib import Path

import serial
from emwire import constants
from emwire.errors import WireError
from emwire.framing import StreamDecoder, encode_stream
from serial.tools.list_ports import comports

from emgate.config import SerialSection
from emgate.links import Events, Received
from emgate.links.serial_identity import Listing, holder, resolve
from emgate.own_records import evidence_of

READ_BYTES = 4096  # what the kernel's tty buffer holds at most
READ_BYTES_PER_S = 400_000
"""The fastest line that can be configured, 4 Mbaud. A tty without a line (USB, pty) may be faster; reading then pauses,
the kernel's buffer fills, and the sender waits."""
WRITE_BYTES = 16384
"""Waiting to be written at most; 1.4 s at 115200 baud. A device that reads slower hears it again after it has asked."""
UNDER_WAY = 256
"""Frames waiting for their commit at which reading stops: two groups of the store and a half."""
WATCH_S = 1.0
"""How often to look at the port itself; also how soon a port is taken that was plugged in."""
STALLED_S = 15.0
"""Bytes that wait so long, with none leaving, never will: ten times what WRITE_BYTES take at 115200 baud."""
WRONG_BYTES, WRONG_AFTER_S = 16_384, 10.0
"""So many bytes without a whole frame are no tag: sixteen of the longest frames one after another damaged."""
WRONG_FEW_BYTES, WRONG_LATER_S = 256, 60.0
"""The same for a slow talker, for example another device's status line, where no tag has been heard since opening."""
PTY_MAJORS = range(136, 144)
"""Linux's Unix98 pty slaves (Documentation/admin-guide/devices.txt). Their other holders would keep TIOCEXCL's mark
after we were killed; on hardware it goes with the last file."""
# linux/serial.h, struct serial_icounter_struct: cts, dsr, rng, dcd, rx, tx, frame, overrun, parity, brk, buf_overrun
TIOCGICOUNT = 0x545D
LINE_ERRORS = {6: "line_framing", 7: "line_overrun", 8: "line_parity", 9: "line_breaks", 10: "line_buffer_overrun"}
_ICOUNT = struct.Struct("11i9i")


class SerialLink:
    """A Link (see emgate.links) on one port. Any number of devices may share it: each datagram names its own."""

    kind = "serial"

    def __init__(
        self, section: SerialSection, received: Received, *, events: Events | None = None, listing: Listing = comports
    ) -> None:
        self.name = f"serial:{section.name}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self._section = section
        self._received = received
        self._events = events
        self._listing = listing
        self._path = section.port or ""
        self._descriptor = -1
        self._lost: asyncio.Future[None] | None = None
        self._decoder = StreamDecoder()
        self._outgoing = bytearray()
        self._drained_s = 0.0  # when the last byte left, or none was waiting
        self._under_way = 0
        self._reading = False
        self._allowance = float(READ_BYTES_PER_S)
        self._refilled_s = 0.0
        self._pause: asyncio.TimerHandle | None = None
        self._stray = bytearray()  # the first of what came since the last whole frame
        self._stray_bytes = 0
        self._stray_since_s = 0.0
        self._heard = False  # a tag, since the port was opened
        self._told_wrong = False
        self._line_errors: tuple[int, ...] | None = None
        self._pty = ("", 0, 0, 0)  # its path, device, inode and time of creation, when the port is one
        self._damage = (0, 0)  # of the decoder, as already counted

    async def run(self) -> None:
        """Open the port for us alone and move frames until it vanishes (OSError) or the task is cancelled."""
        loop = asyncio.get_running_loop()
        port = await asyncio.to_thread(self._open)
        self._descriptor = port.fileno()
        self._lost = loop.create_future()
        self._decoder.reset()
        self._outgoing.clear()
        self._heard = False
        self._forget_stray()
        self._line_errors = line_errors(self._descriptor)
        self._refilled_s = loop.time()
        self._read_on()
        self.up.set()
        watching = loop.create_task(self._watch())
        try:
            await self._lost
        finally:
            self.up.clear()
            watching.cancel()
            if self._pause is not None:
                self._pause.cancel()
                self._pause = None
            loop.remove_reader(self._descriptor)
            loop.remove_writer(self._descriptor)
            self._reading = False
            self._count_damage()
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._descriptor, termios.TIOCNXCL)
            self._descriptor = -1
            port.close()

    async def appeared(self) -> None:
        """Return when the port is there that was not there on calling: whoever waits to try again need not."""
        absent = False
        while True:
            present = await asyncio.to_thread(self._present)
            if present and absent:
                return
            absent = not present
            await asyncio.sleep(WATCH_S)

    def _present(self) -> bool:
        try:
            Path(resolve(self._section, self._listing)).stat()
        except OSError:
            return False
        return True

    def _open(self) -> serial.Serial:
        # pyserial sets raw mode, speed and the lock while opening, before anything is read; and never again, because
        # changing a tty's mode later loses what the peer has already written.
        path = self._path = resolve(self._section, self._listing)
        try:
            port = serial.Serial(path, self._section.baud_rate, timeout=0, write_timeout=0, exclusive=True)
        except serial.SerialException as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EBUSY):
                who = holder(path)
                raise OSError(error.errno, f"{path} is in use by another program{who}: stop it") from None
            if error.errno == errno.EACCES:
                raise OSError(error.errno, f"no permission for {path}: let this user into the port's group") from None
            if error.errno == errno.EPERM:  # systemd's device list, which is made when the service starts
                said = f"{path} is not in the DeviceAllow= of this service's unit, or was not known when it started"
                raise OSError(error.errno, f"{said}: add it there, and restart the service") from None
            raise OSError(error.errno or 0, os.strerror(error.errno) if error.errno else str(error)) from None
        facts = os.fstat(port.fileno())
        if os.major(facts.st_rdev) in PTY_MAJORS:
            # Numbers of ptys are given out again: what has this one now may be nothing of ours.
            made = (facts.st_dev, facts.st_ino, facts.st_ctime_ns)
            if self._pty != (path, *made) and self._pty[0] == path and not Path(path).is_symlink():
                port.close()
                raise OSError(errno.ENODEV, f"{path} is another pty now: have whoever makes it put a link there")
            self._pty = (path, *made)
        else:
            with contextlib.suppress(OSError):  # flock holds those who ask; this holds everybody but root
                fcntl.ioctl(port.fileno(), termios.TIOCEXCL)
        os.set_blocking(port.fileno(), False)
        return port

    # -- the port itself --------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_S)
            reason = self._gone() or self._stalled(loop.time()) or self._wrong(loop.time())
            self._count_line_errors()
            if reason:
                self._lose(reason)
                return

    def _gone(self) -> OSError | None:
        """The name leads elsewhere, or nowhere, while the file that we hold says nothing of it."""
        try:
            there, ours = Path(self._path).stat(), os.fstat(self._descriptor)
        except OSError:
            return OSError(errno.ENODEV, f"{self._path} has disappeared")
        if there.st_rdev != ours.st_rdev:
            return OSError(errno.ENODEV, f"{self._path} is another device now")
        return None

    def _stalled(self, now_s: float) -> OSError | None:
        if not self._outgoing or now_s - self._drained_s < STALLED_S:
            return None
        waiting = len(self._outgoing)
        self.counters["write_stalled"] += 1
        return OSError(
            errno.ETIMEDOUT,
            f"the port has taken no byte for {now_s - self._drained_s:.0f} s and {waiting} wait: the device hangs, or"
            " its cable lets nothing through",
        )

    def _wrong(self, now_s: float) -> OSError | None:
        """Nothing but what no tag sends."""
        since_s = now_s - self._stray_since_s
        if not (
            (self._stray_bytes >= WRONG_BYTES and since_s >= WRONG_AFTER_S)
            or (not self._heard and self._stray_bytes >= WRONG_FEW_BYTES and since_s >= WRONG_LATER_S)
        ):
            return None
        self.counters["wrong_device"] += 1
        heard = "only zero bytes: a broken line" if not any(self._stray) else f"such as {bytes(self._stray[:16])!r}"
        if self._events is not None and not self._told_wrong:
            self._told_wrong = True  # once until a tag is heard again
            self._events.event(
                constants.EVENT_GATEWAY_WRONG_DEVICE,
                value=self._stray_bytes,
                evidence=evidence_of(self.name, heard),
                alarm=True,
            )
        return OSError(
            errno.EPROTO,
            f"no tag at this port: {self._stray_bytes} bytes in {since_s:.0f} s and no whole frame, {heard}. Check what"
            " is plugged in, and baud_rate",
        )

    def _forget_stray(self) -> None:
        self._stray.clear()
        self._stray_bytes = 0

    def _count_line_errors(self) -> None:
        before, now = self._line_errors, line_errors(self._descriptor)
        if before is not None and now is not None:
            for place, name in LINE_ERRORS.items():
                if now[place] != before[place]:
                    self.counters[name] += now[place] - before[place] & 0xFFFF_FFFF
        self._line_errors = now

    # -- up ---------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        if not data:
            self._lose(OSError("the port was closed from the other side"))
            return
        self.counters["bytes"] += len(data)
        self._note_stray(data)
        for datagram in self._decoder.feed(data):
            self._forget_stray()
            self._heard = True
            self._told_wrong = False
            if len(datagram) < 5:  # the device's number and at least one byte
                self.counters["short_datagram"] += 1
                continue
            (device_id,) = struct.unpack_from("<I", datagram)
            self._under_way += 1
            self._received(self, device_id, datagram[4:]).add_done_callback(self._dealt_with)
        self._count_damage()
        if self._under_way >= UNDER_WAY:
            self._stop_reading()
        self._pace(len(data))

    def _note_stray(self, data: bytes) -> None:
        if not self._stray_bytes:
            self._stray_since_s = asyncio.get_running_loop().time()
        if len(self._stray) < 64:
            self._stray += data[:64]
        self._stray_bytes += len(data)

    def _pace(self, size: int) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self._allowance = min(READ_BYTES_PER_S, self._allowance + (now_s - self._refilled_s) * READ_BYTES_PER_S) - size
        self._refilled_s = now_s
        if self._allowance < 0 and self._pause is None and self._descriptor >= 0:
            self.counters["paced"] += 1
            self._stop_reading()
            self._pause = loop.call_later(-self._allowance / READ_BYTES_PER_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        if self._under_way < UNDER_WAY:
            self._read_on()

    def _dealt_with(self, _: "asyncio.Future[bool]") -> None:
        self._under_way -= 1
        if self._under_way < UNDER_WAY // 2 and self._pause is None:
            self._read_on()

    def _read_on(self) -> None:
        if self._descriptor >= 0 and not self._reading:
            asyncio.get_running_loop().add_reader(self._descriptor, self._readable)
            self._reading = True

    def _stop_reading(self) -> None:
        if self._descriptor >= 0 and self._reading:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._reading = False

    def _count_damage(self) -> None:
        now = (self._decoder.damaged, self._decoder.oversize)
        for name, more in zip(("damaged", "oversize"), map(int.__sub__, now, self._damage), strict=True):
            if more:
                self.counters[name] += more
        self._damage = now

    def _lose(self, error: OSError) -> None:
        self._stop_reading()
        if self._lost is not None and not self._lost.done():
            self._lost.set_exception(error)

    # -- down -------------------------------------------------------------------------------------------------

    def proven(self, device_id: int) -> None:
        """The port serves whoever is plugged in."""

    async def send(self, device_id: int, frame: bytes) -> bool:
        """Queue one datagram for the port; False when it is away, or too much is waiting already."""
        if self._descriptor < 0:
            return False
        try:
            data = encode_stream(struct.pack("<I", device_id) + frame)
        except WireError:
            self.counters["send_too_long"] += 1
            return False
        if len(self._outgoing) + len(data) > WRITE_BYTES:
            self.counters["send_queue_full"] += 1
            return False
        if not self._outgoing:
            loop = asyncio.get_running_loop()
            self._drained_s = loop.time()
            loop.add_writer(self._descriptor, self._writable)
        self._outgoing += data
        return True

    def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            written = os.write(self._descriptor, self._outgoing)
        except BlockingIOError:
            return
        except OSError as error:
            self._outgoing.clear()
            loop.remove_writer(self._descriptor)
            self._lose(error)
            return
        if written:
            self._drained_s = loop.time()
        del self._outgoing[:written]
        if not self._outgoing:
            loop.remove_writer(self._descriptor)


def line_errors(descriptor: int) -> tuple[int, ...] | None:
    """The UART driver's counts of breaks, noise and overruns; None where there is no line, as on a pty."""
    try:
        answer = fcntl.ioctl(descriptor, TIOCGICOUNT, bytes(_ICOUNT.size))
    except OSError:
        return None
    return _ICOUNT.unpack(answer)
