"""Batches that a broker does not take, or that a line has not sent in time, become smaller; alarms get past them."""

import asyncio
import contextlib
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from emgate.brokers import broker as brokers
from emgate.brokers.connection import connected
from emgate.config import Broker, HttpsTarget
from emgate.store.store import Record, Store
from emgate.supervisor import Supervisor
from emgate.uplinks import batch_bytes
from emgate.uplinks.drain import Drain
from emgate.uplinks.https import HttpsUplink
from emgate.uplinks.mqtt import MqttUplink
from emwire import topics
from gateway_kit import DEVICE
from uplink_kit import MovableClock

RECORDS, RECORD_BYTES = 200, 400


async def fill(store: Store) -> None:
    """80 kB that gzip cannot make smaller, and an alarm."""
    noise = random.Random(1)
    await asyncio.gather(
        *(
            store.append(Record(DEVICE, 1, n, n == RECORDS, 1_780_000_000_000, "serial", noise.randbytes(RECORD_BYTES)))
            for n in range(RECORDS + 1)
        )
    )


def drain_of(store: Store, uplink: Any, done: asyncio.Event) -> Drain:
    delivered: list[Record] = []

    def count(records: list[Record]) -> None:
        delivered.extend(records)
        if len(delivered) > RECORDS:
            done.set()

    return Drain(store, "uplink", uplink, MovableClock(), "gw", 500, count, lambda: [])


@contextlib.asynccontextmanager
async def running(*what: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each) for each in what]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.mark.parametrize(
    ("limit", "protocol", "reason"),
    [
        ("max_packet_size 30000", "3.1.1", "costs the connection"),
        ("max_packet_size 30000", "5", "takes packets of 30000 B"),
        ("", "3.1.1", "may have dropped it"),
    ],
)
async def test_a_broker_that_takes_no_large_packets_gets_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, protocol: str, reason: str
) -> None:
    """One cuts the connection, one says so beforehand, one takes them and passes nothing on (here: its other end)."""
    if brokers.mosquitto_path() is None:
        pytest.skip("needs mosquitto")
    limited = brokers.MOSQUITTO_CONFIGURATION + limit + "\n"
    monkeypatch.setattr("emgate.brokers.broker.MOSQUITTO_CONFIGURATION", limited)
    monkeypatch.setattr("emgate.uplinks.mqtt.ACKNOWLEDGEMENT_FIRST_S", 0.05)
    reasons: list[str] = []
    got: set[int] = set()
    store = await Store.open(tmp_path / "store.sqlite")
    await fill(store)
    with brokers.start_broker("mosquitto") as broker:
        settings = Broker.model_validate({"host": broker.host, "port": broker.port, "protocol": protocol})
        uplink = MqttUplink(settings, "gw")
        deliver = uplink.deliver

        async def told(batch: dict[str, Any]) -> None:
            try:
                await deliver(batch)
            except Exception as error:
                reasons.append(str(error))
                raise

        async def backend() -> None:
            async with connected(settings, "backend", (topics.backend_batch("gw"),)) as connection:
                listening.set()
                async for _, payload in connection.messages():
                    if len(payload) > 30000:
                        continue
                    batch = batch_bytes.decode(payload)
                    got.update(record["sequence"] for record in batch["records"])
                    answer = json.dumps({"batchId": batch["batchId"]}).encode()
                    await connection.publish(topics.backend_ack("gw"), answer, 10)

        listening, done = asyncio.Event(), asyncio.Event()
        monkeypatch.setattr(uplink, "deliver", told)
        drain = drain_of(store, uplink, done)
        async with asyncio.timeout(60), running(backend()):
            await listening.wait()
            async with running(Supervisor(uplink, maximum_s=0.05).run(), drain.run()):
                await done.wait()
    assert got == set(range(RECORDS + 1))
    assert 1 <= drain.counters["batch_too_large"] <= 4 and reason in reasons[0]
    await store.close()


@contextlib.asynccontextmanager
async def slow_line(folder: Path, bytes_per_s: int, got: list[dict[str, Any]]) -> AsyncIterator[HttpsTarget]:
    """A server at its other end. It takes what comes without a pause; little fits in between."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                got.append(batch_bytes.decode(await reader.readexactly(size)))
                said = json.dumps({"batchId": got[-1]["batchId"]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
        writer.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far = await asyncio.open_connection("localhost", server.sockets[0].getsockname()[1])

        async def back() -> None:
            while data := await far_reader.read(4096):
                writer.write(data)

        async with running(back()):
            with contextlib.suppress(OSError):
                while data := await reader.read(1000):
                    far.write(data)
                    await asyncio.sleep(len(data) / bytes_per_s)
        far.transport.abort()
        writer.transport.abort()

    authority = Authority(folder, "authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost"))
    token = folder / "token"
    token.write_text("a-token-of-some-length")
    with socket.create_server(("localhost", 0)) as near:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        async with (
            await asyncio.start_server(answer, "localhost", 0, ssl=context) as server,
            await asyncio.start_server(carry, sock=near, limit=2000),
        ):
            url = f"https://localhost:{near.getsockname()[1]}"
            yield HttpsTarget(url=url, ca_file=authority.file, token_file=token, poll_interval_s=0.1)


async def test_a_batch_that_is_long_on_a_slow_line_is_not_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emgate.uplinks.https.SILENCE_S", 0.7)
    noise, got = random.Random(1), []
    records = [{"alarm": False, "payload": noise.randbytes(80_000).hex()}, {}]
    batch = {"batchId": "gw-routine-1-2", "gatewayId": "gw", "records": records}
    async with asyncio.timeout(30), slow_line(tmp_path, 50_000, got) as target:
        uplink = HttpsUplink(target, "gw")
        async with running(Supervisor(uplink, maximum_s=0.1).run()):
            await uplink.deliver(batch)
    assert got[1:] == [batch], "after the first poll: once, and no poll beside it"
    assert uplink.counters["resent"] == uplink.counters["timeout"] == 0


async def test_a_batch_that_is_too_long_on_a_slow_line_is_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emgate.uplinks.https.TOTAL_S", 0.5)
    got: list[dict[str, Any]] = []
    done = asyncio.Event()
    store = await Store.open(tmp_path / "store.sqlite")
    await fill(store)
    async with asyncio.timeout(30), slow_line(tmp_path, 120_000, got) as target:
        uplink = HttpsUplink(target, "gw")
        drain = drain_of(store, uplink, done)
        async with running(Supervisor(uplink, maximum_s=0.1).run(), drain.run()):
            await done.wait()
    assert {record["sequence"] for batch in got for record in batch["records"]} == set(range(RECORDS + 1))
    assert 1 <= drain.counters["batch_too_slow"] <= 4 and drain.counters["batch_too_large"] == 0
    await store.close()
