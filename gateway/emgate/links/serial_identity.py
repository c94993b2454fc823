"""Which serial port is meant: a path, or the USB adapter with this serial number, wherever it was plugged in."""

import errno
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from serial.tools.list_ports import comports

from emgate.config import SerialSection

Listing = Callable[[], Iterable[Any]]
"""Ports as pyserial's `comports` describes them (`device`, `vid`, `pid`, `serial_number`, `location`)."""


def resolve(section: SerialSection, listing: Listing = comports) -> str:
    """The port's path now; OSError(ENODEV) says why there is none, and what is there instead."""
    if section.port is not None:
        return section.port
    wanted = section.match
    assert wanted is not None, "the configuration has one of both"
    ports = [port for port in listing() if port.vid is not None or port.serial_number or port.location]
    found = [
        port
        for port in ports
        if (wanted.serial_number is None or port.serial_number == wanted.serial_number)
        and (wanted.vendor_id is None or port.vid == wanted.vendor_id)
        and (wanted.product_id is None or port.pid == wanted.product_id)
        and (wanted.location is None or port.location == wanted.location)
    ]
    if len(found) == 1:
        return str(found[0].device)
    there = ", ".join(map(_describe, found or ports)) or "no USB port at all"
    if found:
        raise OSError(errno.ENODEV, f"{len(found)} ports match {wanted.text()}: {there}; add what tells them apart")
    raise OSError(errno.ENODEV, f"no port matches {wanted.text()}; there is {there}")


def _describe(port: Any) -> str:
    vendor = "-" if port.vid is None else f"{port.vid:04x}:{port.pid or 0:04x}"
    return f"{port.device} ({vendor} serial_number={port.serial_number or '-'} location={port.location or '-'})"


def holder(path: str) -> str:
    """Who has locked or opened the port, as far as /proc lets us see; empty when it does not."""
    real = str(Path(path).resolve())
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) == real for link in (process / "fd").iterdir()):
                return f" (process {process.name}, {(process / 'comm').read_text().strip()})"
        except OSError:
            continue  # gone meanwhile, or another user's
    return ""
