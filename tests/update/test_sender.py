"""The gateway's sender against the device's installer, over a line that loses, delays and is cut; and over restarts."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from emgate.clock import SystemClock
from emgate.down import updates
from emgate.down.downlink import Downlink
from emgate.down.kinds import RequestError
from emgate.down.requests import Requests
from emgate.down.updates import CHUNKS_PER_REPORT, HEARD_S, WINDOW, Budget, Transfer, Updates
from emgate.store.store import Store
from emrig.images import firmware_image
from emrig.images import signing as firmware_signing
from emwire import codec, constants
from update_kit import KEY, Tag, install_whole, manifest, small_image

DEVICE = 0x20000001
BIG = firmware_image.pack("home_unit", "sim", (2, 0, 0), 1, {"main.py": random.Random(1).randbytes(20_000)})


class Line:
    """A device and a gateway's Transfer with a bad line in between, in steps of a tenth of a second."""

    def __init__(self, root: Path, seed: int, loss: float, cuts: bool, reboots: bool) -> None:
        install_whole(root, 0, small_image(1))
        self.choice = random.Random(seed)
        self.loss, self.cuts, self.reboots = loss, cuts, reboots
        self.tag = Tag(root)
        self.tag.boot()
        self.message = manifest(BIG, 1)
        self.transfer = Transfer(-(-len(BIG.data) // self.message[11]))
        self.now_s = 0.0
        self.connected = True
        self.read = 0  # reports of the device that are on their way or there
        self.up: deque[tuple[float, tuple[int, ...]]] = deque()
        self.sent_chunks = self.sent_manifests = 0

    def run(self, limit_s: float) -> None:
        while not self.tag.installer.complete:
            assert self.now_s < limit_s, (self.transfer.first_missing, self.tag.installer.first_missing)
            self.step()

    def step(self) -> None:
        self.now_s += 0.1
        if self.cuts and self.choice.random() < 0.01:
            self.connected = not self.connected
        if self.reboots and self.choice.random() < 0.003:
            self.tag.boot()
        while self.read < len(self.tag.reports):
            # Records are never lost, but late.
            self.up.append((self.now_s + self.choice.uniform(0.1, 2.0), self.tag.reports[self.read]))
            self.read += 1
        while self.connected and self.up and self.up[0][0] <= self.now_s:
            _, (_, phase, _, first_missing, _) = self.up.popleft()
            self.transfer.told(phase, first_missing, self.now_s)
        if self.connected:
            self.send()

    def send(self) -> None:
        arrives = self.choice.random() >= self.loss
        if self.transfer.question_due(self.now_s):
            self.transfer.asked(self.now_s)
            self.sent_manifests += 1
            if arrives:
                self.tag.offer(self.message)
            return
        number = self.transfer.chunk_due(self.now_s)
        if number is None:
            return
        first_missing = self.transfer.first_missing
        assert first_missing is not None and first_missing <= number < first_missing + WINDOW
        self.transfer.sent(number, self.now_s)
        self.sent_chunks += 1
        if arrives:
            size = self.message[11]
            data = BIG.data[number * size : (number + 1) * size]
            self.tag.installer.chunk((constants.MESSAGE_UPDATE_CHUNK, 1, number, data))


def test_a_good_line_carries_every_chunk_once(tmp_path: Path) -> None:
    line = Line(tmp_path, 1, loss=0.0, cuts=False, reboots=False)
    line.run(limit_s=120)
    assert (line.sent_chunks, line.sent_manifests) == (line.transfer.chunks, 1)
    assert line.transfer.chunks > 4 * CHUNKS_PER_REPORT


@pytest.mark.parametrize("seed", range(6))
def test_a_bad_line_carries_it_too(tmp_path: Path, seed: int) -> None:
    line = Line(tmp_path, seed, loss=0.02 * seed, cuts=seed % 2 == 1, reboots=seed > 2)
    line.run(limit_s=6000)
    assert (tmp_path / "update.image").read_bytes() == BIG.data


def test_nothing_is_sent_to_who_is_not_heard() -> None:
    transfer = Transfer(1000)
    assert transfer.question_due(0.0)
    assert transfer.chunk_due(0.0) is None
    transfer.asked(0.0)
    assert not transfer.question_due(1.0)
    transfer.told(constants.UPDATE_OFFERED, 0, 2.0)
    assert transfer.chunk_due(2.0) == 0
    assert transfer.chunk_due(2.0 + HEARD_S - 1) == 0
    assert transfer.chunk_due(2.0 + HEARD_S) is None
    # At its next contact it is asked first.
    assert transfer.question_due(2.0 + HEARD_S)
    for phase in (constants.UPDATE_VERIFIED, constants.UPDATE_INSTALLED, constants.UPDATE_REFUSED):
        transfer.told(phase, 1000, 500.0)
        assert transfer.chunk_due(500.0) is None and not transfer.question_due(600.0)
    # A device that starts over says so.
    transfer.told(constants.UPDATE_RECEIVING, 0, 700.0)
    assert transfer.chunk_due(700.0) == 0


def test_the_budget_holds() -> None:
    choice = random.Random(4)
    budget, now_s, sent = Budget(4000, 1920), 0.0, 0
    while now_s < 60:
        now_s += choice.expovariate(20)
        if budget.wait_s(now_s, 960) == 0:
            budget.take(960)
            sent += 960
        assert sent <= 1920 + 4000 * now_s + 1e-6
    assert sent > 0.8 * 4000 * 60


class Gateway:
    """What of a gateway an update needs: store, requests and updates."""

    def __init__(self, state: Path) -> None:
        self.state = state

    async def __aenter__(self) -> Gateway:
        self.store = await Store.open(self.state / "store.sqlite")
        self.downlink = Downlink()
        self.nudged: list[int] = []
        self.downlink.attach(self.nudged.append)
        self.requests = Requests(self.store, SystemClock(None), self.downlink, lambda device_id: device_id == DEVICE)
        self.updates = Updates(self.state, self.requests, self.downlink, 1e9)
        await self.requests.load()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()

    async def ask(self, name: str, number: int) -> Any:
        asked = {"requestId": f"{name}-{number}", "deviceId": DEVICE, "kind": "update", "update": name}
        return await self.requests.submit("control", asked)

    def sent(self) -> list[codec.Message]:
        """What goes down in one flush."""
        found = []
        for due in self.downlink.due(DEVICE, 16):
            due.sent()
            found.append(codec.decode(due.message))
        return found

    def told(self, phase: int, first_missing: int, cause: int = 0, update_id: int = 7) -> None:
        state = codec.UpdateState(0, 0, 0, 0, update_id, phase, cause, first_missing, 1, 0, 0, 3900, 0)
        self.downlink.observed(DEVICE, state)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    place(tmp_path, "home-7", BIG, 7)
    return tmp_path


def place(state: Path, name: str, image: Any, update_id: int) -> None:
    folder = state / updates.FOLDER
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.image").write_bytes(image.data)
    (folder / f"{name}.manifest").write_bytes(firmware_signing.sign(image, KEY, update_id))


async def test_manifest_then_chunks_then_the_answer(state: Path) -> None:
    async with Gateway(state) as gateway:
        request = await gateway.ask("home-7", 1)
        assert isinstance(gateway.sent()[0], codec.UpdateManifest)
        gateway.told(constants.UPDATE_OFFERED, 0)
        received = bytearray()
        for _ in range(100):
            for message in gateway.sent():
                if isinstance(message, codec.UpdateChunk):
                    received += message.data
        assert bytes(received) == BIG.data
        gateway.told(constants.UPDATE_VERIFIED, 21)
        assert not gateway.downlink.wants(DEVICE) and request.state == "sent"
        gateway.told(constants.UPDATE_CONFIRMED, 21)
        assert request.state == "answered" and request.result["phase"] == "CONFIRMED"
        assert gateway.sent() == []


async def test_after_a_restart_the_device_is_asked_where_it_is(state: Path) -> None:
    async with Gateway(state) as gateway:
        await gateway.ask("home-7", 1)
        gateway.sent()
        gateway.told(constants.UPDATE_OFFERED, 0)
        assert len([m for m in gateway.sent() if isinstance(m, codec.UpdateChunk)]) == updates.CHUNKS_PER_FLUSH
    async with Gateway(state) as gateway:
        assert gateway.downlink.wants(DEVICE)
        assert any(isinstance(message, codec.UpdateManifest) for message in gateway.sent())
        gateway.told(constants.UPDATE_RECEIVING, 5)
        chunks = [message.chunk_number for message in gateway.sent() if isinstance(message, codec.UpdateChunk)]
        assert chunks[0] == 5


async def test_a_refusal_ends_it_and_says_why(state: Path) -> None:
    async with Gateway(state) as gateway:
        request = await gateway.ask("home-7", 1)
        gateway.sent()
        gateway.told(constants.UPDATE_REFUSED, 0, constants.UPDATE_CAUSE_NO_SPACE)
        assert (request.state, request.result["cause"]) == ("answered", "NO_SPACE")
        assert gateway.sent() == []


async def test_a_newer_update_takes_the_place_of_an_older(state: Path) -> None:
    place(state, "home-8", BIG, 8)
    async with Gateway(state) as gateway:
        older = await gateway.ask("home-7", 1)
        gateway.sent()
        gateway.told(constants.UPDATE_OFFERED, 0)
        await gateway.ask("home-8", 2)
        assert older.state == "replaced"
        sent = gateway.sent()
        assert [m.update_id for m in sent if isinstance(m, codec.UpdateManifest)] == [8] * len(sent)
        # The old one's word, still on its way, moves nothing.
        gateway.told(constants.UPDATE_RECEIVING, 4, update_id=7)
        assert not [m for m in gateway.sent() if isinstance(m, codec.UpdateChunk)]


async def test_an_image_that_was_taken_away_stops_only_its_update(state: Path) -> None:
    async with Gateway(state) as gateway:
        await gateway.ask("home-7", 1)
        (state / updates.FOLDER / "home-7.image").unlink()
        gateway.updates._images.clear()
        gateway.told(constants.UPDATE_OFFERED, 0)
        assert not [m for m in gateway.sent() if isinstance(m, codec.UpdateChunk)]
        assert gateway.updates.counters["image_missing"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "home-7.image").unlink(), "must be in"),
        (lambda folder: (folder / "home-7.image").write_bytes(b"x"), "of another image"),
        (lambda folder: (folder / "home-7.manifest").write_bytes(b"\x85"), "malformed"),
        (lambda folder: (folder / "home-7.manifest").write_bytes(codec.Poll().encode()), "is none"),
    ],
)
async def test_files_that_do_not_fit_are_refused_with_the_remedy(state: Path, damage: Any, words: str) -> None:
    damage(state / updates.FOLDER)
    async with Gateway(state) as gateway:
        with pytest.raises(RequestError, match=words):
            await gateway.ask("home-7", 1)


@pytest.mark.parametrize("name", ["../home-7", "", "/etc/passwd", "home-7/../home-7"])
async def test_names_that_lead_elsewhere_are_refused(state: Path, name: str) -> None:
    async with Gateway(state) as gateway:
        with pytest.raises(RequestError):
            await gateway.ask(name, 1)


async def test_a_quiet_window_is_asked_about(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "QUIET_S", 0.05)
    monkeypatch.setattr(updates, "ASK_AGAIN_S", 0.05)
    async with Gateway(state) as gateway:
        nudged = asyncio.Event()
        gateway.downlink.attach(lambda device_id: nudged.set())
        await gateway.ask("home-7", 1)
        gateway.sent()
        gateway.told(constants.UPDATE_OFFERED, 0)
        while any(isinstance(message, codec.UpdateChunk) for message in gateway.sent()):
            pass
        nudged.clear()
        async with asyncio.timeout(10):
            await nudged.wait()
        assert isinstance(gateway.sent()[-1], codec.UpdateManifest)
