"""The process of one emulated Pico: `python -m emrig.pico.machine FLASH USB WIRE [CONTROL]`.

FLASH is the file of its flash; USB and WIRE are descriptors: the master side of a pty, and a socket with the bytes of
UART 0. What comes out at USB goes to standard output too. Without CONTROL it has power until it resets itself, which
ends the process. CONTROL is a SOCK_SEQPACKET socket with one JSON request a packet, each answered by a packet:
{"do": "on", "cut": [operations, share, seed] or null}, {"do": "off"}, {"do": "status"}; a packet {"event": "cut"} comes
unasked when `cut` happened, and a reset is a reset.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

from emrig.pico.chip import Chip, PowerCut, WatchdogReset

# A chip that waits for its timer gets a turn so often: its waiting takes next to no real time, and no core for itself.
IDLE_S = 0.02
# After the last byte that the firmware wrote to UART 0, so much emulated time ends the batch: the answer can come.
QUIET_NS = 200_000
# Console output that nobody reads; older output is lost, as on a board whose host is away.
USB_BACKLOG = 65536


class Machine:
    """The chip when it is on, and its lines to the outside."""

    def __init__(self, flash: Path, usb: int, wire: socket.socket, control: socket.socket | None) -> None:
        self._flash = flash
        self._usb = usb
        self._wire = wire
        self._control = control
        self._chip: Chip | None = None
        self._usb_out = bytearray()
        self._wire_out = bytearray()
        os.set_blocking(usb, False)
        wire.setblocking(False)

    def run(self) -> None:
        """Until the control socket or, without one, the wire closes."""
        if self._control is None:
            self._on()
        while True:
            chip = self._chip
            patience = 0.0
            if chip is None or (chip.idle and not chip.clock.has_scheduled_alarm):
                patience = 3600.0  # nothing but input can wake it
            elif chip.idle and not chip.usb.waiting:
                patience = IDLE_S
            if not self._exchange(patience):
                return
            chip = self._chip
            if chip is None:
                continue
            try:
                chip.stopped = False
                chip.run()
            except PowerCut:
                self._off()
                assert self._control
                self._control.send(json.dumps({"event": "cut"}).encode())
            except WatchdogReset:
                self._off()
                if self._control is None:
                    return
                self._on().after_watchdog(chip)

    def _exchange(self, patience: float) -> bool:
        self._flush()
        outputs = [self._usb] if self._usb_out else []
        inputs: list[int | socket.socket] = [self._usb, self._wire, *([self._control] if self._control else [])]
        readable, _, _ = select.select(inputs, outputs, [], patience)
        if self._control and self._control in readable:
            packet = self._control.recv(65536)
            if not packet:
                return False
            self._control.send(json.dumps(self._request(json.loads(packet))).encode())
        if self._wire in readable:
            data = self._wire.recv(65536)
            if not data:
                return False
            if self._chip:
                self._chip.uart.feed(data)
        if self._usb in readable:
            data = os.read(self._usb, 4096)
            if self._chip:
                self._chip.usb.feed(data)
        return True

    def _flush(self) -> None:
        if self._wire_out:
            self._wire.setblocking(True)
            self._wire.sendall(self._wire_out)
            self._wire.setblocking(False)
            self._wire_out.clear()
        if self._usb_out:
            try:
                del self._usb_out[: os.write(self._usb, self._usb_out)]
            except BlockingIOError:
                pass
            del self._usb_out[:-USB_BACKLOG]

    def _request(self, request: dict[str, object]) -> dict[str, object]:
        if request["do"] == "on":
            self._off()
            chip = self._on()
            cut = request.get("cut")
            if isinstance(cut, list):
                chip.cut_after(*cut)
        elif request["do"] == "off":
            self._off()
        return self._status()

    def _status(self) -> dict[str, object]:
        chip = self._chip
        if chip is None:
            return {"on": False}
        return {"on": True, "flash_operations": chip.flash_operations, "emulated_ms": chip.clock.nanos / 1e6}

    def _on(self) -> Chip:
        self._chip = chip = Chip(self._flash, self._on_usb, self._on_uart)
        self._alarm = chip.clock.create_alarm(self._end_of_talk)
        return chip

    def _off(self) -> None:
        if self._chip:
            self._chip.close()
            self._chip = None
        self._flush()

    def _on_usb(self, data: bytes) -> None:
        self._usb_out += data
        os.write(1, data)

    def _on_uart(self, byte: int) -> None:
        self._wire_out.append(byte)
        self._alarm.schedule(QUIET_NS)

    def _end_of_talk(self) -> None:
        if self._chip:
            self._chip.stopped = True


def main() -> None:
    """Entry of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides when it ends
    flash, usb, wire, *control = sys.argv[1:]
    sockets = [socket.socket(fileno=int(number)) for number in (wire, *control)]
    Machine(Path(flash), int(usb), sockets[0], sockets[1] if control else None).run()


if __name__ == "__main__":
    main()
