"""The HTTPS uplink against the real receiver, and against servers that do everything wrong."""

import asyncio
import contextlib
import gc
import json
import random
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from emgate.backend.ingest import Backend
from emgate.backend.receive_https import HttpsReceiver
from emgate.backend.service import Housekeeping
from emgate.brokers import broker as brokers
from emgate.clock import SystemClock
from emgate.config import HttpsTarget, ReceiveGateway, ReceiveSection
from emgate.operation import running
from emgate.supervisor import Supervisor
from emgate.uplinks import BatchTooLargeError, batch_bytes
from emgate.uplinks.https import HttpsUplink
from emgate.uplinks.meter import DAY_MS, HOUR_MS, Meter
from gateway_kit import GatewayProcess, toml
from uplink_kit import MovableClock

aiohttp = pytest.importorskip("aiohttp", reason="needs aiohttp")
from aiohttp import web  # noqa: E402

TOKEN = "a-token-of-some-length"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def batch(number: int = 1, gateway: str = "gw", records: int = 3) -> dict[str, Any]:
    return {
        "batchId": f"{gateway}-routine-{number}-{number}",
        "gatewayId": gateway,
        "uploadedDateMs": 1_780_000_000_000,
        "records": [
            {
                "deviceId": 5,
                "epoch": 1,
                "sequence": number * 100 + n,
                "alarm": False,
                "receivedTimeMs": 1_780_000_000_000,
                "link": "serial",
                "payload": "3f",
            }
            for n in range(records)
        ],
    }


@contextlib.asynccontextmanager
async def supervised(*ways: Any) -> AsyncIterator[None]:
    supervisors = [Supervisor(way, maximum_s=0.2) for way in ways]
    tasks = [asyncio.create_task(each.run()) for each in supervisors]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def token_file(folder: Path) -> Path:
    path = folder / "token"
    path.write_text(TOKEN + "\n")
    return path


def target(port: int, authority: Authority, **more: Any) -> HttpsTarget:
    return HttpsTarget(
        url=f"https://localhost:{port}", ca_file=authority.file, poll_interval_s=0.1,
        **(more or {"token_file": token_file(authority.folder)}),
    )  # fmt: skip


class Receiving:
    """The real receiver with a real backend."""

    def __init__(self, folder: Path, authority: Authority, gateways: tuple[ReceiveGateway, ...]) -> None:
        certificate, key = authority.issue("localhost")
        self.backend = Backend(folder / "backend.sqlite", SystemClock(1))
        self.house = Housekeeping(self.backend, SystemClock(1))
        section = ReceiveSection(
            host="localhost", port=0, certificate_file=certificate, key_file=key, client_ca_file=authority.file,
            gateways=gateways,
        )  # fmt: skip
        self.receiver = HttpsReceiver(section, self.house)

    def close(self) -> None:
        self.house.close()
        self.backend.close()

    def count(self) -> int:
        return self.backend.within(lambda database: database.execute("SELECT count(*) FROM records").fetchone()[0])


async def test_batches_arrive_once_by_token_and_by_certificate_and_requests_come_down(
    tmp_path: Path, authority: Authority
) -> None:
    known = (ReceiveGateway(id="gw", token_file=token_file(tmp_path)), ReceiveGateway(id="gw-two"))
    far = Receiving(tmp_path, authority, known)
    certificate, key = authority.issue("gw-two")
    down: list[Any] = []
    arrived = asyncio.Event()

    def take(asked: object) -> None:
        down.append(asked)
        arrived.set()

    async with asyncio.timeout(30), supervised(far.receiver):
        await far.receiver.up.wait()
        assert far.receiver.port is not None
        one = HttpsUplink(target(far.receiver.port, authority), "gw", take_down=take)
        two = HttpsUplink(target(far.receiver.port, authority, certificate_file=certificate, key_file=key), "gw-two")
        async with supervised(one, two):
            await one.deliver(batch(1))
            await one.deliver(batch(1))  # its acknowledgement was lost, say
            await two.deliver(batch(2, "gw-two"))
            assert far.count() == 6
            from emgate.backend import requests

            asked = {"requestId": "r", "deviceId": 5, "kind": "command", "command": "REBOOT"}
            far.backend.within(lambda database: requests.submit(database, SystemClock(1).now_ms(), asked))
            waiting = asyncio.create_task(arrived.wait())  # device 5 was heard by gw-two last: gw gets nothing
            await one.deliver(batch(3))  # now by gw
            await waiting
            assert down[0]["requestId"] == "r" and down[0]["commandNumber"] % 2 == 0
        assert one.counters["bytes_packed"] < one.counters["bytes_plain"]
    far.close()


def alarm_batch(number: int = 9) -> dict[str, Any]:
    made = batch(number, records=1)
    return {**made, "records": [{**made["records"][0], "alarm": True}]}


async def test_an_alarm_waits_for_no_routine_batch_that_is_being_ingested(tmp_path: Path, authority: Authority) -> None:
    """The backend is amid a routine batch, which does not get on before the alarm's own acknowledgement is here."""
    far = Receiving(tmp_path, authority, (ReceiveGateway(id="gw", token_file=token_file(tmp_path)),))
    begun, acknowledged = threading.Event(), threading.Event()
    wanted = far.house.wanted

    def slowly() -> bool:
        """Asked after every record, in the worker."""
        if not acknowledged.is_set():
            begun.set()
            for _ in range(200):
                if wanted() or acknowledged.wait(0.1):
                    break
        return wanted()

    far.house.wanted = slowly  # type: ignore[method-assign]
    async with asyncio.timeout(30), supervised(far.receiver):
        await far.receiver.up.wait()
        assert far.receiver.port is not None
        uplink = HttpsUplink(target(far.receiver.port, authority), "gw")
        async with supervised(uplink):
            routine = asyncio.create_task(uplink.deliver(batch(1, records=400)))
            assert await asyncio.to_thread(begun.wait, 20)
            await uplink.deliver(alarm_batch())
            assert not routine.done()
            acknowledged.set()
            await routine
        assert far.count() == 401
        assert far.backend.counters["batches_overtaken"] == 1, "what was there of the routine batch was kept"
    far.close()


async def test_an_alarm_goes_over_another_connection_than_a_routine_batch_that_is_not_answered(
    tmp_path: Path, authority: Authority
) -> None:
    """The server answers no routine batch before the alarm is acknowledged; one connection would be stuck for ever."""
    alarm_taken = asyncio.Event()
    lanes: list[str | None] = []
    connections = set()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        body = batch_bytes.decode(await request.read())
        if body["records"]:
            lanes.append(request.headers.get("X-Emtag-Lane"))
            connections.add(request.transport)
            if lanes[-1] is None:
                await alarm_taken.wait()
        return web.json_response({"batchId": body["batchId"]})

    async with asyncio.timeout(30), serving(authority, answer) as port:
        uplink = HttpsUplink(target(port, authority), "gw")
        async with supervised(uplink):
            routine = asyncio.create_task(uplink.deliver(batch(1, records=500)))
            while not lanes:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await uplink.deliver(alarm_batch())
            assert not routine.done()
            alarm_taken.set()
            await routine
    assert (lanes, len(connections)) == ([None, "alarm"], 2)


async def test_a_token_that_was_taken_back_delivers_nothing_more(tmp_path: Path, authority: Authority) -> None:
    """The gateway was stolen: its successor gets another token, and goes on under the same name."""
    stolen, successor = tmp_path / "stolen", tmp_path / "successor"
    stolen.write_text("the-token-of-the-stolen-one")
    successor.write_text("the-token-of-its-successor")
    for valid, delivered in ((stolen, {stolen: True}), (successor, {stolen: False, successor: True})):
        far = Receiving(tmp_path, authority, (ReceiveGateway(id="gw", token_file=valid),))
        async with asyncio.timeout(30), supervised(far.receiver):
            await far.receiver.up.wait()
            assert far.receiver.port is not None
            for number, (token, taken) in enumerate(delivered.items()):
                before = far.count()
                uplink = HttpsUplink(target(far.receiver.port, authority, token_file=token), "gw")
                async with supervised(uplink):
                    delivering = asyncio.create_task(uplink.deliver(batch(10 + far.count() + number)))
                    if taken:
                        await delivering
                    else:
                        while "401" not in (uplink.last_problem or ""):  # noqa: ASYNC110
                            await asyncio.sleep(0.005)
                        delivering.cancel()
                assert far.count() == before + (3 if taken else 0)
        far.close()


async def test_a_secret_that_changes_in_its_file_reaches_who_uses_it_by_a_reload(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    """The configuration's text stays as it is, and who does not use that file stays up."""
    far = Receiving(tmp_path, authority, (ReceiveGateway(id="gw-test", token_file=token_file(tmp_path)),))
    tokens, password = tmp_path / "tokens", tmp_path / "password"
    tokens.write_text("the-token-of-last-year")
    password.write_text("the-password-of-last-year")
    with brokers.start_broker() as broker:
        async with asyncio.timeout(60), supervised(far.receiver):
            await far.receiver.up.wait()
            links = f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\nusername = "gw"\npassword_file = "password"\n'
            uplink = (
                f'[uplink]\nkind = "https"\n[uplink.https]\nurl = "https://localhost:{far.receiver.port}"\n'
                f'ca_file = "{authority.file}"\ntoken_file = "tokens"\n'
            )
            gateway = GatewayProcess(tmp_path, toml(links=links, uplink=uplink))
            await gateway.start()

            async def reloaded() -> str:
                assert await asyncio.to_thread(running.reload, gateway.config) == 0
                return str(capsys.readouterr().out).splitlines()[-1]

            assert await reloaded() == "reloaded: nothing has changed" and far.count() == 0
            tokens.write_text(TOKEN + "\n")
            assert await reloaded() == "reloaded: uplink uplink"
            while not far.count():  # noqa: ASYNC110 - what the gateway says of itself
                await asyncio.sleep(0.02)
            password.write_text("the-password-of-this-year")
            assert await reloaded() == "reloaded: mqtt"
            assert await reloaded() == "reloaded: nothing has changed"
            assert await gateway.stop() == 0
    far.close()
    log = (tmp_path / "log").read_text()
    assert log.count(f'"what": "mqtt:127.0.0.1:{broker.port}", "event": "up"') == 2
    assert TOKEN not in log and "of-this-year" not in log


async def test_a_gateway_is_not_believed_to_be_another_one(tmp_path: Path, authority: Authority) -> None:
    far = Receiving(tmp_path, authority, (ReceiveGateway(id="gw", token_file=token_file(tmp_path)),))
    (tmp_path / "wrong").write_text("another-token-of-some-length")
    async with asyncio.timeout(30), supervised(far.receiver):
        await far.receiver.up.wait()
        port = far.receiver.port
        assert port is not None
        stranger = HttpsUplink(target(port, authority, token_file=tmp_path / "wrong"), "gw")
        with pytest.raises(OSError, match="401: check token_file"):
            await stranger.run()
        certificate, key = authority.issue("gw")  # a certificate does not stand in where a token is asked for
        with pytest.raises(OSError, match="401"):
            await HttpsUplink(target(port, authority, certificate_file=certificate, key_file=key), "gw").run()
        with pytest.raises(OSError, match="gatewayId is not that"):
            await HttpsUplink(target(port, authority), "gw-two").run()
    assert far.count() == 0
    far.close()


async def test_the_receiver_survives_hostile_bodies(tmp_path: Path, authority: Authority) -> None:
    import gzip

    far = Receiving(tmp_path, authority, (ReceiveGateway(id="gw", token_file=token_file(tmp_path)),))
    bomb = gzip.compress(b" " * (20 << 20))
    async with asyncio.timeout(30), supervised(far.receiver):
        await far.receiver.up.wait()
        context = ssl.create_default_context(cafile=str(authority.file))
        url = f"https://localhost:{far.receiver.port}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), headers=headers) as session:
            for body, status in (
                (b"", 400), (b"{", 400), (b"[]", 400), (b"[" * 100_000, 400), (bomb, 400), (bomb[:50], 400),
                (b"\x1f\x8bnonsense", 400), (b'{"batchId": 5}', 200), (b'{"batchId": "b", "gatewayId": "gw"}', 200),
            ):  # fmt: skip
                async with session.post(url + "/v1/batch", data=body) as response:
                    assert (response.status, "refused" in await response.json()) == (status, True), body[:20]
            async with session.post(url + "/v1/batch", data=b"x" * (17 << 20)) as response:
                assert response.status == 413
            async with session.get(url + "/v1/batch") as response:
                assert response.status == 405
            async with session.post(url + "/", data=b"") as response:
                assert response.status == 404
    assert far.count() == 0
    far.close()


Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(authority: Authority, answer: Answer, host: str = "localhost") -> AsyncIterator[int]:
    """An HTTPS server that answers so."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", host))
    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "localhost", 0, ssl_context=context)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def status_500(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=500)


async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "https://example.org/"})


async def not_json(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="<html>")


async def another_batch(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"batchId": "another"})


async def half_an_answer(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b'{"batchId"')
    assert request.transport is not None
    request.transport.abort()
    return response


async def nothing_ever(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.sleep(2)  # longer than anybody waits here
    return web.Response()


async def without_end(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(OSError):
        while request.transport is not None and not request.transport.is_closing():
            await response.write(b" " * 65536)
            await asyncio.sleep(0)  # a transport that is closed neither fails nor gives way
    return response


@pytest.mark.parametrize(
    ("answer", "words", "counter"),
    [
        (status_500, "answered 500", "status_500"),
        (elsewhere, "redirected to 'https://example.org/'", "redirected"),
        (not_json, "not JSON: is the url", "wrong_answer"),
        (another_batch, "not about this batch", "wrong_answer"),
        (half_an_answer, "broke off", "broken_answer"),
        (nothing_ever, "no whole answer in time", "timeout"),
        (without_end, "has no end", "wrong_answer"),
    ],
)
async def test_a_server_that_answers_wrongly_is_named(
    authority: Authority, answer: Answer, words: str, counter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is nothing_ever:
        monkeypatch.setattr("emgate.uplinks.https.SILENCE_S", 0.5)
    async with asyncio.timeout(30), serving(authority, answer) as port:
        uplink = HttpsUplink(target(port, authority), "gw")
        with pytest.raises(OSError, match=words):
            await uplink.run()
        assert uplink.counters[counter] == 1
        assert words.split("'")[0].strip() in (uplink.last_problem or "")
        assert not uplink.up.is_set()


@pytest.mark.parametrize(("ours", "host"), [(False, "localhost"), (True, "elsewhere.example")])
async def test_a_certificate_that_is_not_trusted_is_named(
    tmp_path: Path, authority: Authority, ours: bool, host: str
) -> None:
    """Another authority's, or another host's: whoever has it is told nothing, not even the token."""
    told: list[web.BaseRequest] = []

    async def listening(request: web.BaseRequest) -> web.StreamResponse:
        told.append(request)
        return web.Response()

    other = authority if ours else Authority(tmp_path / "other", "other")
    async with asyncio.timeout(30), serving(other, listening, host) as port:
        uplink = HttpsUplink(target(port, authority), "gw")
        with pytest.raises(OSError, match="certificate is not trusted"):
            await uplink.run()
    assert told == []
    assert uplink._meter.counters["bytes_sent"] == 1000 + 5000, "what it cost to find out"


async def test_a_batch_that_is_too_large_is_said_to_be(authority: Authority) -> None:
    async def small(request: web.BaseRequest) -> web.StreamResponse:
        body = json.loads(await request.read())  # unpacked by aiohttp
        if len(body["records"]) > 2:
            return web.Response(status=413)
        return web.json_response({"batchId": body["batchId"]})

    async with asyncio.timeout(30), serving(authority, small) as port:
        uplink = HttpsUplink(target(port, authority), "gw")
        async with supervised(uplink):
            with pytest.raises(BatchTooLargeError):
                await uplink.deliver(batch(1, records=3))
            await uplink.deliver(batch(1, records=2))


async def test_a_metered_server_that_answers_wrongly_for_a_day_costs_a_fraction_of_the_budget(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pauses are skipped, and the clock is put on by them; the rest is real."""
    clock = MovableClock()

    class Skipping:
        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        async def sleep(self, seconds: float) -> None:
            clock.ms += int(seconds * 1000)
            await asyncio.sleep(0)

        @contextlib.asynccontextmanager
        async def timeout(self, seconds: float) -> AsyncIterator[None]:
            try:
                async with asyncio.timeout(0):
                    yield
            except TimeoutError:
                clock.ms += int(seconds * 1000)
                raise

    monkeypatch.setattr("emgate.supervisor.asyncio", Skipping())
    monkeypatch.setattr("emgate.supervisor.STEADY_S", 0.0)  # a server that hangs makes each run a long one
    attempts, broken = 0, True

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal attempts
        attempts += 1
        if broken:
            return web.Response(status=503)
        return web.json_response({"batchId": json.loads(await request.read())["batchId"]})

    meter = Meter("one", {DAY_MS: 5_000_000}, None, clock)
    async with asyncio.timeout(60), serving(authority, answer) as port:
        seldom = target(port, authority).model_copy(update={"poll_interval_s": 600.0})
        uplink = HttpsUplink(seldom, "gw", meter=meter)
        supervisor = Supervisor(uplink, maximum_s=30, urgent=meter.urgent)
        started_ms = clock.ms
        tasks = [asyncio.create_task(supervisor.run()), asyncio.create_task(uplink.deliver(batch(1)))]
        while clock.ms < started_ms + DAY_MS:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert 90 < attempts < 200
        assert attempts * 6000 <= meter.counters["bytes_sent"] <= (attempts + 1) * 6000
        tasks.append(asyncio.create_task(uplink.deliver(alarm_batch())))
        calm, started_ms = attempts, clock.ms
        while clock.ms < started_ms + 4 * HOUR_MS:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert 110 < attempts - calm < 130, "every 2 min"
        assert meter.levels()["bytes_left_day"] > 4_000_000, "so that routine goes on as soon as the server does"
        broken = False
        await asyncio.gather(*tasks[1:])
        tasks[0].cancel()
        await asyncio.wait(tasks)


async def test_a_delivery_that_fails_is_tried_again_until_it_is_taken(authority: Authority) -> None:
    calls: list[str] = []

    async def sometimes(request: web.BaseRequest) -> web.StreamResponse:
        body = json.loads(await request.read())
        if body["records"]:
            calls.append(body["batchId"])
            if len(calls) < 3:
                return web.Response(status=503)
        return web.json_response({"batchId": body["batchId"]})

    async with asyncio.timeout(30), serving(authority, sometimes) as port:
        uplink = HttpsUplink(target(port, authority), "gw")
        async with supervised(uplink):
            await uplink.deliver(batch(1))
    assert len(calls) == 3 and len(set(calls)) == 1


async def test_one_connection_serves_until_the_server_closes_it(authority: Authority) -> None:
    transports: list[asyncio.Transport] = []

    async def taken(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        if request.transport not in transports:
            transports.append(request.transport)
        return web.json_response({"batchId": batch_bytes.decode(await request.read())["batchId"]})

    async with asyncio.timeout(30), serving(authority, taken) as port:
        seldom = target(port, authority).model_copy(update={"poll_interval_s": 600.0})
        uplink = HttpsUplink(seldom, "gw")
        async with supervised(uplink):
            for number in range(3):
                await uplink.deliver(batch(number))
            (kept,) = transports
            kept.close()
            while uplink._idle[0].usable:  # noqa: ASYNC110 - what was closed has to arrive
                await asyncio.sleep(0.005)
            await uplink.deliver(batch(4))
            assert len(transports) == 2
        assert uplink.counters["resent"] == uplink.counters["connection"] == 0
        assert uplink._meter.counters["bytes_sent_exempt"] == 1000 + 2 * 5000, "the first poll, and two handshakes"


async def test_a_server_that_refuses_a_large_body_before_it_is_there_is_heard(authority: Authority) -> None:
    """It answers by the length in the header, and closes in the face of the rest."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if length > 100_000:
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await reader.read(65536)
        else:
            answer = json.dumps({"batchId": batch_bytes.decode(await reader.readexactly(length))["batchId"]}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(answer) + answer)
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost"))
    large = batch(1)
    large["records"][0]["payload"] = random.Random(1).randbytes(2_000_000).hex()
    async with asyncio.timeout(30), await asyncio.start_server(refuse, "localhost", 0, ssl=context) as server:
        uplink = HttpsUplink(target(server.sockets[0].getsockname()[1], authority), "gw")
        async with supervised(uplink):
            with pytest.raises(BatchTooLargeError):
                await uplink.deliver(large)
        assert uplink.counters["connection"] == uplink.counters["resent"] == 0


async def test_a_server_that_never_answers_holds_up_no_stop(authority: Authority) -> None:
    asked, for_ever = asyncio.Event(), asyncio.Event()

    async def silent(request: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        await for_ever.wait()
        return web.Response()

    async with asyncio.timeout(30), serving(authority, silent) as port:
        uplink = HttpsUplink(target(port, authority), "gw")
        running = asyncio.create_task(uplink.run())
        await asked.wait()
        running.cancel()
        await asyncio.wait([running])
        await asyncio.to_thread(uplink._threads.shutdown)  # waits for the thread that waited for the server
        for_ever.set()


async def test_giving_up_at_any_instant_leaves_no_socket(authority: Authority) -> None:
    """From before the connection until after the answer; a socket that is left is a ResourceWarning."""

    async def taken(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"batchId": batch_bytes.decode(await request.read())["batchId"]})

    async with asyncio.timeout(30), serving(authority, taken) as port:
        for number in range(30):
            uplink = HttpsUplink(target(port, authority), "gw")
            running = asyncio.create_task(uplink.run())
            await asyncio.sleep(number * 0.0005)  # instants, not events
            running.cancel()
            await asyncio.wait([running])
            await asyncio.to_thread(uplink._threads.shutdown)
    gc.collect()
