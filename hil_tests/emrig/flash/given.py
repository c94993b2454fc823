"""An identity that a gateway has made (`emtag gateway device add --identity FILE`), for one board."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from emrig.flash.errors import FlashError
from emrig.flash.identity import KEY_BYTES, Identity

HOW = "`emtag gateway device add --identity FILE` makes it"
SERIAL = "board_serial"


class Given:
    """As a Registration, for a device that is listed already. The file is locked while a board is flashed, remembers
    which one has begun to learn it, and is removed once that is flashed whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR)
        except OSError as error:
            raise FlashError(f"{path}: no identity can be read and marked there: {error.strerror}; {HOW}") from None
        try:
            self._lock()
            self._content, self.identity = self._read()
        except BaseException:
            os.close(self._descriptor)
            raise

    def close(self) -> None:
        """Unlock it."""
        os.close(self._descriptor)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FlashError(f"{self._path}: another board is getting this identity right now") from None
        if not self._path.exists():
            raise FlashError(f"{self._path}: another board has this identity now; {HOW}")

    def _read(self) -> tuple[dict[str, Any], Identity]:
        try:
            content = json.loads(os.pread(self._descriptor, 65536, 0))
            key = bytes.fromhex(content["key"])
            identity = Identity(content["device_id"], content["model"], key, content.get("first_epoch", 1))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise FlashError(f"{self._path}: no identity of a device; {HOW}") from None
        numbers = (identity.device_id, identity.first_epoch)
        if len(key) != KEY_BYTES or any(type(each) is not int for each in numbers) or type(identity.model) is not str:
            raise FlashError(f"{self._path}: no identity of a device; {HOW}")
        return content, identity

    def add(self, who: Identity, serial: str) -> None:
        """Before the board learns of it: two boards with one key would seal different things alike."""
        begun = self._content.setdefault(SERIAL, serial)
        if begun != serial:
            raise FlashError(
                f"{self._path}: the board with serial number {begun or '(none)'} may have this identity: flash that"
                " one; for this one `emtag gateway device add --replace` makes another; nothing was written to it"
            )
        data = json.dumps(self._content).encode() + b"\n"
        try:
            os.pwrite(self._descriptor, data, 0)
            os.fsync(self._descriptor)
        except OSError as error:
            raise FlashError(f"{self._path}: {error.strerror}; nothing was written to the board") from None

    def finish(self) -> None:
        """The board is flashed whole, and has the key."""
        self._path.unlink(missing_ok=True)
