"""Firmware updates of devices: the request that starts one, and the chunks of its image.

An update is a request of kind `update` (emgate.down.requests), so that its manifest is kept, repeated, and survives a
restart; its files are in the state directory. The chunks come from here: a window of them ahead of what the device has
reported, at a bounded rate, and after each silence from where the device says that it is. A device is asked that by
its manifest. Nothing of this is kept: after a restart the device is asked.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from emwire import codec, constants
from emwire.errors import WireError

from emgate.down.downlink import Downlink, Due
from emgate.down.kinds import Answer, Asked, Made, RequestError, names
from emgate.down.requests import Request, Requests

FOLDER = "updates"
"""In the state directory: NAME.image and NAME.manifest for each update."""
KIND = "update"
CHUNKS_PER_REPORT = 64
"""A device reports each time that so many more are in its flash (update_state)."""
WINDOW = 2 * CHUNKS_PER_REPORT
"""Chunks ahead of the last report: the next report is under way while the following are sent."""
CHUNKS_PER_FLUSH = 2
"""Acknowledgements and requests wait for no more than this: 0.17 s of a serial line at 115,200 Bd."""
QUIET_S = 15.0
"""All of the window is sent and nothing came back: ask. A device stays on the line for 30 s after a chunk, and
journals, sends and hears of a report within seconds."""
ASK_AGAIN_S = 30.0
"""A manifest costs a device a signature's verification, 1 s, if it has not seen it yet."""
HEARD_S = 60.0
"""Chunks go to a device only so long after its last report: what nobody hears would pile up in a broker."""
FINAL = (constants.UPDATE_CONFIRMED, constants.UPDATE_ROLLED_BACK, constants.UPDATE_REFUSED)
FINAL_PHASE = "CONFIRMED"
"""The one that was wanted."""


@dataclass(slots=True, frozen=True)
class Image:
    """An update's two files, checked against each other."""

    name: str
    manifest: codec.UpdateManifest
    data: bytes

    @property
    def chunks(self) -> int:
        """How many it is sent in."""
        return -(-len(self.data) // self.manifest.chunk_bytes)

    def chunk(self, number: int) -> bytes:
        """One of them, as a message."""
        size = self.manifest.chunk_bytes
        data = self.data[number * size : (number + 1) * size]
        return codec.UpdateChunk(self.manifest.update_id, number, data).encode()


def read_image(folder: Path, name: str) -> Image:
    """The update of that name in the state directory; RequestError says what is wrong with its files."""
    if not name or Path(name).name != name:
        raise RequestError(f"{name!r:.40} is no name of an update: it has no slashes")
    try:
        data = (folder / f"{name}.image").read_bytes()
        encoded = (folder / f"{name}.manifest").read_bytes()
    except OSError as error:
        raise RequestError(
            f"{name}.image and {name}.manifest must be in {folder}: {error.strerror}; "
            "emtag gateway update puts them there"
        ) from None
    return check_image(name, data, encoded)


def check_image(name: str, data: bytes, encoded: bytes) -> Image:
    """An image and its manifest, if they belong together; else RequestError."""
    try:
        manifest = codec.decode(encoded)
    except WireError as error:
        raise RequestError(f"{name}: its manifest is malformed ({error}): sign the image again") from None
    if not isinstance(manifest, codec.UpdateManifest):
        raise RequestError(f"{name}: its manifest is none: sign the image with emtag firmware sign")
    if len(data) != manifest.image_bytes or hashlib.sha256(data).digest() != manifest.image_sha256:
        raise RequestError(f"{name}: its manifest is of another image: sign this image")
    return Image(name, manifest, data)


class UpdateKind:
    """Requests `update`: {"update": NAME}; answered by every update_state, at last by one of FINAL."""

    name = KIND
    replaces = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, asked: Asked) -> Made:
        """The manifest; its files must be there."""
        name = asked.body.get("update")
        if not isinstance(name, str) or set(asked.body) != {"update"}:
            raise RequestError('an update is {"update": NAME}, nothing else')
        manifest = read_image(self._folder, name).manifest
        version = f"{manifest.firmware_major}.{manifest.firmware_minor}.{manifest.firmware_patch}"
        return Made((manifest.encode(),), manifest.update_id, {"update": name, "version": version})

    def answer(self, number: int, body: Mapping[str, Any], message: codec.Message) -> Answer | None:
        """How far it is, by the names of the catalogue."""
        if not isinstance(message, codec.UpdateState) or message.update_id != number:
            return None
        phases = {value: name for name, value in names("UPDATE_").items() if not name.startswith("CAUSE_")}
        causes = {value: name for name, value in names("UPDATE_CAUSE_").items()}
        running = (message.firmware_major, message.firmware_minor, message.firmware_patch)
        return Answer(
            message.update_phase in FINAL,
            {
                "update": body.get("update"),
                "phase": phases.get(message.update_phase, message.update_phase),
                "cause": causes.get(message.update_cause, message.update_cause),
                "firstMissingChunk": message.first_missing_chunk,
                "running": ".".join(map(str, running)),
                "batteryMv": message.battery_mv,
                "detail": message.detail,
            },
        )


class Transfer:
    """One device's image under way, without I/O: told what the device reports, it says what is due. Times in s."""

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        self.first_missing: int | None = None  # as the device last said; None: not known
        self.next = 0  # the chunk to be sent next
        self.wanted = True  # the device is to be asked, or takes chunks
        self._asked_s = self._sent_s = self._told_s = float("-inf")

    def told(self, phase: int, first_missing: int, now_s: float) -> None:
        """The device's word, possibly an old one that comes late: then chunks are sent twice, and ignored."""
        self._told_s = now_s
        self.wanted = phase in (constants.UPDATE_OFFERED, constants.UPDATE_RECEIVING)
        before, self.first_missing = self.first_missing, first_missing
        advanced = before is not None and first_missing > before and first_missing % CHUNKS_PER_REPORT == 0
        # A report of progress says nothing of what is still on its way; any other says what was lost.
        self.next = max(self.next, first_missing) if advanced else first_missing

    def question_due(self, now_s: float) -> bool:
        """Whether to send the manifest, which asks."""
        if not self.wanted or now_s - self._asked_s < ASK_AGAIN_S:
            return False
        return self.first_missing is None or (
            now_s - max(self._sent_s, self._told_s, self._asked_s) >= QUIET_S and not self._open(now_s)
        )

    def patience_s(self, now_s: float) -> float:
        """After the last chunk of a window: when to ask, if nothing comes."""
        return max(QUIET_S, self._asked_s + ASK_AGAIN_S - now_s)

    def asked(self, now_s: float) -> None:
        """The manifest has left."""
        self._asked_s = now_s

    def _open(self, now_s: float) -> bool:
        if not self.wanted or self.first_missing is None or now_s - self._told_s >= HEARD_S:
            return False
        return self.next < min(self.chunks, self.first_missing + WINDOW)

    def chunk_due(self, now_s: float, ahead: int = 0) -> int | None:
        """The chunk to send now, or the one that many behind it."""
        if not self._open(now_s) or self.first_missing is None:
            return None
        number = self.next + ahead
        return number if number < min(self.chunks, self.first_missing + WINDOW) else None

    def sent(self, number: int, now_s: float) -> None:
        """The link took a chunk."""
        self._sent_s = now_s
        if number == self.next:
            self.next += 1


class Budget:
    """Bytes that may be sent: so many a second, at most a burst at once."""

    def __init__(self, bytes_per_s: float, burst: int) -> None:
        self._rate = bytes_per_s
        self._burst = burst
        self._left = float(burst)
        self._at_s: float | None = None

    def limit(self, bytes_per_s: float) -> None:
        """From now on."""
        self._rate = bytes_per_s

    def wait_s(self, now_s: float, count: int) -> float:
        """How long until that many may be sent; 0 = now."""
        if self._at_s is not None:
            self._left = min(self._burst, self._left + max(0.0, now_s - self._at_s) * self._rate)
        self._at_s = now_s
        return max(0.0, (min(count, self._burst) - self._left) / self._rate)

    def take(self, count: int) -> None:
        """They were sent."""
        self._left -= count


class _UnderWay:
    def __init__(self, request: Request, image: Image, bytes_per_s: float) -> None:
        self.request = request
        self.image = image
        self.transfer = Transfer(image.chunks)
        self.budget = Budget(bytes_per_s, CHUNKS_PER_FLUSH * image.manifest.chunk_bytes)
        self.timer: asyncio.TimerHandle | None = None


class Updates:
    """A source of the downlink: the chunks of all updates that are requested. Behind Requests: theirs go first."""

    def __init__(self, state_directory: Path, requests: Requests, downlink: Downlink, bytes_per_s: float) -> None:
        self.counters: Counter[str] = Counter()
        self._folder = state_directory / FOLDER
        self._requests = requests
        self._downlink = downlink
        self._bytes_per_s = bytes_per_s
        self._loop = asyncio.get_running_loop()
        self._now_s: Callable[[], float] = self._loop.time  # what a link can carry does not depend on the wall clock
        self._under_way: dict[int, _UnderWay] = {}
        self._images: dict[str, Image] = {}
        requests.add_kind(UpdateKind(self._folder))
        downlink.add(self)

    def limit(self, bytes_per_s: float) -> None:
        """For each device, from now on."""
        self._bytes_per_s = bytes_per_s
        for update in self._under_way.values():
            update.budget.limit(bytes_per_s)

    def _current(self, device_id: int) -> _UnderWay | None:
        """What is to be sent to a device, in step with the requests."""
        request = self._requests.open_of(device_id, KIND)
        known = self._under_way.get(device_id)
        if known is not None and known.request is request:
            return known
        if known is not None:
            self._forget(device_id)
        if request is None:
            return None
        image = self._image(str(request.body["update"]), request.messages[0])
        if image is None:
            return None
        self._under_way[device_id] = _UnderWay(request, image, self._bytes_per_s)
        return self._under_way[device_id]

    def _image(self, name: str, manifest: bytes) -> Image | None:
        image = self._images.get(name)
        if image is None or image.manifest.encode() != manifest:
            try:
                image = read_image(self._folder, name)
            except RequestError:
                image = None
            if image is None or image.manifest.encode() != manifest:
                self.counters["image_missing"] += 1  # taken away meanwhile: the request says which, and expires
                return None
            self._images[name] = image
        return image

    def _forget(self, device_id: int) -> None:
        gone = self._under_way.pop(device_id)
        if gone.timer is not None:
            gone.timer.cancel()
        if all(other.image is not gone.image for other in self._under_way.values()):
            self._images.pop(gone.image.name, None)

    def summary(self) -> dict[str, int]:
        """For the status: what was sent, and how many devices are being sent to."""
        return {"underWay": len(self._under_way), **self.counters}

    # -- a source of the downlink -----------------------------------------------------------------------------

    def wants(self, device_id: int) -> bool:
        """See downlink.Source."""
        update = self._current(device_id)
        if update is None:
            return False
        now_s = self._now_s()
        number = update.transfer.chunk_due(now_s)
        if number is None:
            return update.transfer.question_due(now_s)
        wait_s = update.budget.wait_s(now_s, update.image.manifest.chunk_bytes)
        if wait_s > 0:
            self._look_after(device_id, update, wait_s)
        return wait_s <= 0

    def due(self, device_id: int, room: int) -> list[Due]:
        """See downlink.Source: the question, or a few chunks."""
        update = self._current(device_id)
        if update is None or room < 1:
            return []
        now_s, transfer = self._now_s(), update.transfer
        if transfer.question_due(now_s):
            return [Due(update.request.messages[0], partial(self._asked, update))]
        found: list[Due] = []
        for ahead in range(min(room, CHUNKS_PER_FLUSH)):
            number = transfer.chunk_due(now_s, ahead)
            size = update.image.manifest.chunk_bytes
            if number is None or update.budget.wait_s(now_s, (ahead + 1) * size) > 0:
                break
            found.append(Due(update.image.chunk(number), partial(self._sent, device_id, update, number, size)))
        if not found:
            self.wants(device_id)  # sets the timer, if one is needed
        return found

    def observed(self, device_id: int, message: codec.Message) -> None:
        """See downlink.Source."""
        if not isinstance(message, codec.UpdateState):
            return
        update = self._current(device_id)
        if update is None or message.update_id != update.image.manifest.update_id:
            return
        update.transfer.told(message.update_phase, message.first_missing_chunk, self._now_s())
        self.counters["states"] += 1
        if update.transfer.wanted:
            self._downlink.nudge(device_id)

    def _asked(self, update: _UnderWay) -> None:
        update.transfer.asked(self._now_s())
        self.counters["manifests_sent"] += 1

    def _sent(self, device_id: int, update: _UnderWay, number: int, size: int) -> None:
        now_s = self._now_s()
        update.budget.take(size)
        update.transfer.sent(number, now_s)
        self.counters["chunks_sent"] += 1
        if update.transfer.chunk_due(now_s) is None:
            self._look_after(device_id, update, update.transfer.patience_s(now_s))

    def _look_after(self, device_id: int, update: _UnderWay, seconds: float) -> None:
        if update.timer is not None:
            update.timer.cancel()
        update.timer = self._loop.call_later(seconds, self._downlink.nudge, device_id)
