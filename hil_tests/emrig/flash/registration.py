"""A new device in the gateway's registry: from before its board learns of it until the board is flashed whole."""

from __future__ import annotations

import fcntl
import glob
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from emrig.flash.errors import FlashError

if TYPE_CHECKING:
    from emrig.flash.identity import Identity


class Registration:
    """Of one board. What it has begun is in a file beside the registry, one for each device id, until `finish`: locked
    while a board is flashed, so that no other board gets the id; left behind, unlocked, by a board that was given up.
    """

    def __init__(self, registry: Path) -> None:
        self._registry = registry
        self._unfinished: Path | None = None
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is None:
            return
        if self._unfinished is not None and not os.fstat(self._descriptor).st_size:  # nothing was begun
            self._unfinished.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def given_up(self, model: str, serial: str) -> int | None:
        """The id that an attempt on this very board, cut off, left in the registry; held from now on."""
        if not serial:
            return None
        prefix = self._path("")
        for path in sorted(prefix.parent.glob(glob.escape(prefix.name) + "*")):
            try:
                left = json.loads(path.read_bytes().split(b"\n")[0])
                if (left["model"], left["serial"]) == (model, serial):
                    device_id = int(path.name.removeprefix(prefix.name), 16)
                    self._hold(device_id)
                    return device_id
            except (OSError, ValueError, KeyError, TypeError, FlashError):
                continue
        return None

    def keep(self, device_id: int) -> None:
        """Of a board that has this id already: if its flashing was cut off, no other gets the id now."""
        if self._path(f"{device_id:08x}").exists():
            self._hold(device_id)

    def _hold(self, device_id: int) -> None:
        path = self._path(f"{device_id:08x}")
        if path == self._unfinished:
            return
        try:
            self._registry.parent.mkdir(parents=True, exist_ok=True)
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                        break
                except BlockingIOError:
                    os.close(descriptor)
                    raise FlashError(
                        f"another board is getting device id {device_id} ({device_id:08x}) right now: give this one "
                        "another --device-id, or none; nothing was written to it"
                    ) from None
                os.close(descriptor)  # of a board that was done in the meantime
        except OSError as error:
            raise FlashError(f"{path}: {error.strerror or error}; nothing was written to the board") from None
        self._unfinished, self._descriptor = path, descriptor

    def add(self, who: Identity, serial: str) -> None:
        """Tell the registry; FlashError if it knows the id already, but not from a board that was given up."""
        from emgate.devices.registry_edit import Table, edit
        from emgate.errors import ConfigError

        assert who.key is not None, "only new identities are registered"
        path = self._registry
        self._refuse_sealed(who)
        entry: Table = {"device_id": who.device_id, "model": who.model, "key": who.key.hex()}
        self._hold(who.device_id)
        before = self._read()

        def add(devices: list[Table]) -> None:
            found = [device for device in devices if device.get("device_id") == who.device_id]
            # A board that was given up has never run: this one gets a key of its own, and that one loses its.
            if found and not (before and all(device.get("model") == who.model for device in found)):
                raise ConfigError(f"{path} has device {who.device_id} already: give another --device-id, or none")
            devices[:] = [device for device in devices if device not in found]
            devices.append(entry)

        try:
            self._write(json.dumps({"model": who.model, "serial": serial}).encode() + b"\n")
            try:
                edit(path, add, None)
            except ConfigError:
                self._write(before)
                raise
        except (ConfigError, OSError) as error:
            raise FlashError(
                f"the new device's key could not be kept: {error}; nothing was written to the board"
            ) from None

    def _refuse_sealed(self, who: Identity) -> None:
        """A key in plain digits among sealed ones would keep the gateway from its next start."""
        path = self._registry
        try:
            sealed = path.with_name("keys.json").exists() or b'"sealed:' in path.read_bytes()
        except OSError:  # said by edit, if it is not only to be made
            return
        if sealed:
            raise FlashError(
                f"{path}: its keys are sealed by a gateway's secret, so that the gateway has to make this one: run"
                f" `emtag gateway device add {who.device_id} --model {who.model} --identity FILE` there, and flash with"
                " --identity FILE instead of --registry; nothing was written to the board"
            )

    def finish(self) -> None:
        """The board is flashed whole: now it is a device like any other."""
        if self._unfinished is not None:
            self._unfinished.unlink(missing_ok=True)
            self._unfinished = None

    def _path(self, device_id: str) -> Path:
        return self._registry.with_name(f".{self._registry.name}.unfinished-{device_id}")

    def _read(self) -> bytes:
        assert self._descriptor is not None, "hold it first"
        return os.pread(self._descriptor, 4096, 0)

    def _write(self, data: bytes) -> None:
        assert self._descriptor is not None, "hold it first"
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))
