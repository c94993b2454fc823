"""The modem driver gets through whatever the modem does, one byte at a time, and says so when it cannot."""

import asyncio

from common.clock import Clock
from drivers import at_channel, modem
from emwire import constants, topics

from modem_model import ModemModel
from virtual import Board, now_ms

DEVICE_ID = 0x1001
FRAME = b'\x20\x01\x00\r\nOK\r\n> "\x00\xff' * 5


def _link(chunk=0):
    board = Board(".", {})
    model = ModemModel(board, chunk)
    clock = Clock(now_ms)
    link = modem.ModemLink(
        board.uart("modem"), board.pin_out("modem_power"), DEVICE_ID, clock, "broker", 1883, board.log
    )
    return link, model, clock


async def _raises(awaitable):
    try:
        await awaitable
    except OSError as error:
        return str(error)
    raise AssertionError("no OSError")


async def check_connect_send_receive(folder):
    for chunk in (0, 1, 2, 3, 7):
        link, model, _ = _link(chunk)
        await link.connect()
        assert model.session and b'AT+SMSUB="emtag/v1/down/00001001",1' in model.commands
        await link.send(FRAME)
        assert model.published == [(b"emtag/v1/up/00001001", FRAME)]
        model.deliver(topics.down(DEVICE_ID), FRAME)
        assert await link.receive() == FRAME
        await link.close()
        assert not model.session


async def check_answers_split_at_every_byte(folder):
    link, model, _ = _link()
    await link.connect()
    whole = b'\r\n+SMSUB: "emtag/v1/down/00001001","00ff0d0a"\r\n'
    for split in range(len(whole) + 1):
        model.uart.feed(whole[:split])
        await asyncio.sleep_ms(10)
        model.uart.feed(whole[split:])
        assert await link.receive() == b"\x00\xff\r\n"


async def check_unsolicited_lines_anywhere(folder):
    link, model, _ = _link()
    down = b'\r\n+SMSUB: "emtag/v1/down/00001001","AB"\r\n'
    model.noise = b"\r\n+CEREG: 5\r\n" + down + b"\r\n+APP PDP: 0,ACTIVE\r\n"
    await link.connect()
    await link.send(FRAME)
    assert model.published[0][1] == FRAME
    assert await link.receive() == b"\xab"


async def check_echo_stays_on(folder):
    link, model, _ = _link()
    model.answers[b"ATE0"] = b"\r\nOK\r\n"
    model.echo = True
    real = model._command

    def command(line):
        real(line)
        model.echo = True

    model._command = command
    await link.connect()
    await link.send(FRAME)
    assert model.published[0][1] == FRAME


async def check_silent_modem_is_power_cycled(folder):
    link, model, _ = _link()
    model.silent = True
    assert "silent" in await _raises(link.connect())
    assert model.power_cycles == 2 and now_ms() < 120000
    model.silent = False
    await link.connect()
    assert model.session


async def check_modem_that_dies_in_use_recovers(folder):
    link, model, _ = _link()
    await link.connect()
    model.silent = True
    assert "no answer" in await _raises(link.send(FRAME))
    await link.close()
    await _raises(link.connect())
    model.silent = False
    await link.connect()
    await link.send(FRAME)
    assert model.published[-1][1] == FRAME


async def check_late_answer_is_not_taken_for_the_next(folder):
    link, model, _ = _link()
    await link.connect()
    model.delays_ms[b"AT+CLBS"] = 31000
    await _raises(link.cell_position())
    model.delays_ms = {}
    assert await link.cell_position() == (51507351, -127758, 550)


async def check_lost_prompt(folder):
    link, model, _ = _link()
    await link.connect()
    model.answers[b"AT+SMPUB"] = b""
    await _raises(link.send(FRAME))
    model.answers = {}
    model._payload_left = 0
    await link.close()
    await link.connect()
    await link.send(FRAME)
    assert [payload for _, payload in model.published] == [FRAME]


async def check_session_lost(folder):
    link, model, _ = _link()
    await link.connect()
    waiting = asyncio.create_task(_raises(link.receive()))
    await asyncio.sleep_ms(1000)
    model.lose_session()
    assert "lost" in await waiting
    assert "no session" in await _raises(link.send(FRAME))
    await link.close()
    await link.connect()
    assert model.session


async def check_restart_by_itself_is_configured_again(folder):
    link, model, _ = _link()
    await link.connect()
    model._on_power(1)
    await asyncio.sleep_ms(10000)
    assert "lost" in await _raises(link.receive())
    await link.close()
    await link.connect()
    assert model.count(b"ATE0") == 2


async def check_no_coverage_and_no_sim(folder):
    link, model, _ = _link()
    model.registers_after_ms = None
    started = now_ms()
    assert "registered" in await _raises(link.connect())
    assert modem.REGISTRATION_TIMEOUT_MS <= now_ms() - started < modem.REGISTRATION_TIMEOUT_MS + 20000
    link, model, _ = _link()
    for answer in (b"\r\n+CPIN: NOT READY\r\n\r\nOK\r\n", b"\r\n+CME ERROR: SIM not inserted\r\n"):
        model.answers[b"AT+CPIN?"] = answer
        await _raises(link.connect())
    await _raises(link.connect())
    cycles = model.power_cycles
    model.answers = {}
    await link.connect()
    assert model.power_cycles == cycles + 1, "restarted after three attempts in vain"


async def check_garbage_is_bounded(folder):
    link, model, _ = _link()
    await link.connect()
    for _ in range(50):
        model.uart.feed(bytes(range(256)).replace(b"\n", b"") * 20)
        await asyncio.sleep_ms(1)
        assert len(link._channel._lines._line) <= at_channel.MAXIMUM_LINE
    model.uart.feed(b"\r\n+SMSUB: nonsense\r\n")
    model.uart.feed(b'\r\n+SMSUB: "emtag/v1/down/00001001","0"\r\n')
    model.uart.feed(b'\r\n+SMSUB: "emtag/v1/down/00001002","00"\r\n')
    for _ in range(20):
        model.deliver(topics.down(DEVICE_ID), b"x")
    await asyncio.sleep_ms(10)
    assert link.bad_frames == 3 and link.dropped_frames == 20 - modem.MAXIMUM_WAITING
    await link.send(FRAME)
    assert model.published[-1][1] == FRAME


async def check_network_time(folder):
    link, model, clock = _link()
    await link.connect()
    assert clock.source == constants.CLOCK_NETWORK
    # 2026-05-03T14:01:02+01:00, from date(1): 1777813262
    assert abs(clock.time_s() - (1777813262 - constants.TIME_EPOCH_UNIX_S)) <= 5
    # It forgets with its supply what it was told.
    link._power_off()
    await link.close()
    await link.connect()
    assert model.count(b"AT+CLTS=1") == 2


async def check_without_network_time_there_is_none(folder):
    for answer in (b"\r\nERROR\r\n", b"\r\n+CME ERROR: operation not allowed\r\n"):
        link, model, clock = _link()
        model.answers[b"AT+CLTS"] = answer
        await link.connect()
        assert model.session and model.count(b"AT+CCLK?") == 1, "no time is no reason not to connect"
        assert not clock.known, "its unset clock was taken for the time"


def check_network_time_parsing(folder):
    for text, unix_s in (
        (b'+CCLK: "20/01/01,00:00:01+00"', 1577836801),
        (b'+CCLK: "20/02/29,23:59:59+00"', 1583020799),
        (b'+CCLK: "24/12/31,23:59:59-20"', 1735707599),
        (b'+CCLK: "28/03/01,00:00:00+32"', 1835452800),
    ):
        assert modem.network_time_ms(text) == (unix_s - constants.TIME_EPOCH_UNIX_S) * 1000, text
    for text in (b'+CCLK: "80/01/06,00:00:12+00"', b'+CCLK: "70/01/01,00:00:12+00"', b"+CCLK: ", b'+CCLK: "26/13/01'):
        assert modem.network_time_ms(text) is None, text


async def check_cell_position(folder):
    link, model, _ = _link()
    await link.connect()
    assert await link.cell_position() == (51507351, -127758, 550)
    for answer in (
        b"\r\n+CLBS: 1\r\n\r\nOK\r\n",
        b"\r\n+CLBS: 0,x,y,z\r\n\r\nOK\r\n",
        b"\r\n+CLBS: 0,500.0,1.0,5\r\n\r\nOK\r\n",
        b"\r\nOK\r\n",
    ):
        model.answers[b"AT+CLBS"] = answer
        assert await link.cell_position() is None, answer
