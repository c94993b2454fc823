"""A gateway's BLE link in a process of its own, with a session that sends every frame back.

`python gateway_process.py SOCKET [TIMING-JSON]`; prints a JSON line per frame, and its counters on "counters\n".
"""

import asyncio
import json
import sys
import time

import structlog
from emgate.config import BleSection
from emgate.links import Link
from emgate.links.ble import BleLink, Timing


class RealClock:
    """The machine's monotonic clock is enough here."""

    def now_ms(self) -> int:
        return self.elapsed_ms()

    def elapsed_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def uncertainty_ms(self) -> int:
        return 0


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    loop = asyncio.get_running_loop()
    settings = BleSection(backend="bumble", transport=f"unix:{sys.argv[1]}")
    options = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    silent = options.pop("silent", False)
    replies: set[asyncio.Task[bool]] = set()

    def received(link: Link, device_id: int, frame: bytes) -> "asyncio.Future[bool]":
        say(device=device_id, size=len(frame), first=frame[0])
        link.proven(device_id)
        if not silent:
            task = loop.create_task(link.send(device_id, frame))
            replies.add(task)
            task.add_done_callback(replies.discard)
        done: asyncio.Future[bool] = loop.create_future()
        done.set_result(True)
        return done

    link = BleLink(settings, received, RealClock(), timing=Timing(**options))
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def answer() -> None:
        while line := await reader.readline():
            if line == b"counters\n":
                say(counters=dict(link.counters), statistics=dict(link.statistics))

    async def tell_up() -> None:
        await link.up.wait()
        say(up=True)

    helpers = [loop.create_task(answer()), loop.create_task(tell_up())]
    try:
        await link.run()
    except OSError as error:
        say(lost=str(error))
    for helper in helpers:
        helper.cancel()


asyncio.run(main())
