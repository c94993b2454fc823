"""The modem sleeps, restarts in the middle, answers by halves, loses the network: what the driver makes of it."""

import asyncio

from common.clock import Clock
from drivers import modem
from modem_model import ModemModel
from virtual import Board, now_ms

DEVICE_ID = 0x1001
FRAME = bytes(range(60))
DEAF_MS = 50  # after DTR fell: hardware design


def _link(sleeps=False, chunk=0):
    board = Board(".", {})
    model = ModemModel(board, chunk)
    link = modem.ModemLink(
        board.uart("modem"),
        board.pin_out("modem_power"),
        DEVICE_ID,
        Clock(now_ms),
        "broker",
        1883,
        board.log,
        lambda: sleeps,
    )
    return link, model, board


async def _fails(awaitable):
    try:
        await awaitable
    except OSError as error:
        return str(error)
    raise AssertionError("no OSError")


async def check_stays_reachable_or_sleeps_as_set(folder):
    link, model, _ = _link()
    await link.connect()
    assert b'AT+CEDRXS=1,4,"0010"' in model.commands and b"AT+CPSMS=0" in model.commands
    link, model, _ = _link(sleeps=True)
    await link.connect()
    assert b'AT+CPSMS=1,,,"00100110","00000101"' in model.commands and b"AT+CEDRXS=0" in model.commands


async def check_a_network_without_sleep_costs_no_connection(folder):
    link, model, _ = _link(sleeps=True)
    model.answers[b"AT+CPSMS"] = b"\r\n+CME ERROR: operation not supported\r\n"
    model.answers[b"AT+CEDRXS"] = b"\r\nERROR\r\n"
    await link.connect()
    await link.send(FRAME)
    assert model.published[0][1] == FRAME


async def check_asleep_only_its_power_key_wakes_it(folder):
    link, model, board = _link(sleeps=True)
    await link.connect()
    await link.close()
    model.send(b'\r\n+CPSMSTATUS: "ENTER PSM"\r\n')
    await asyncio.sleep_ms(10)
    assert link.asleep and board.outputs["modem_power"].level == 0 and link.registered is None
    assert await link.look() == (None, modem.DBM_UNKNOWN), "nothing is known, and nothing is woken"
    assert board.outputs["modem_power"].level == 0
    await link.connect()
    assert not link.asleep and model.power_cycles == 2
    await link.send(FRAME)


async def check_a_restart_in_the_middle_is_noticed_at_once(folder):
    for prefix in (b"AT+SMPUB", b"AT+CSQ", b"AT+CLBS"):
        link, model, _ = _link()
        await link.connect()
        model.answers[prefix] = b""
        begun = now_ms()
        if prefix == b"AT+SMPUB":
            work = asyncio.create_task(_fails(link.send(FRAME)))
        elif prefix == b"AT+CLBS":
            work = asyncio.create_task(_fails(link.cell_position()))
        else:
            work = asyncio.create_task(link.look())
        await asyncio.sleep_ms(100)
        model._on_power(1)
        answer = await work
        assert now_ms() - begun < 2500, "not only when its time is over"
        assert answer == (None, modem.DBM_UNKNOWN) or "restarted" in answer
        assert link.restarts == 1 and link.registered is None
        model.answers = {}
        await link.close()
        await link.connect()
        await link.send(FRAME)
        assert model.published[-1][1] == FRAME and model.count(b"ATE0") == 2


async def check_a_restart_that_says_nothing_is_noticed_by_the_registration(folder):
    """With its rate fixed it may come up without RDY: then it answers, unregistered, and tells no change by itself."""
    link, model, _ = _link()
    await link.connect()
    await link.close()
    model._registered = model.session = False
    model.echo = True
    waiting = asyncio.create_task(link.connect())
    await asyncio.sleep_ms(20000)
    model._registered = True
    begun = now_ms()
    await waiting
    assert now_ms() - begun <= modem.REGISTRATION_ASK_MS + 2000


async def check_registration_lost_and_found_is_told(folder):
    link, model, _ = _link()
    told = []
    link.on_registration = lambda: told.append(link.registered)
    assert link.registered is None
    await link.connect()
    for text in (b"2", b"3", b'1,"00A1","0154B202",7', b"0", b'5,"00A1","0154B202",9', b"x", b""):
        model.send(b"\r\n+CEREG: " + text + b"\r\n")
        await asyncio.sleep_ms(5)
    assert told[-4:] == [False, True, False, True] and link.registered is True


async def check_signal(folder):
    for text, dbm in ((b"0,99", -113), (b"6,0", -101), (b"31,7", -51), (b"99,99", -128), (b"x", -128), (b"-4", -128)):
        link, model, _ = _link()
        await link.connect()
        model.answers[b"AT+CSQ"] = b"\r\n+CSQ: " + text + b"\r\n\r\nOK\r\n"
        assert await link.look() == (True, dbm), text


async def check_half_answers_at_every_byte(folder):
    whole = b"\r\n+CSQ: 20,99\r\n\r\nOK\r\n"
    link, model, _ = _link()
    await link.connect()
    for length in range(len(whole)):
        model.answers[b"AT+CSQ"] = whole[:length]
        registered, dbm = await link.look()
        # What came before the end is an answer; before that there is none, and no word about the network.
        assert (registered, dbm) in ((None, -128), (True, -73)), length
        model.answers = {b"AT+CSQ": whole}
        assert await link.look() == (True, -73), length
        await link.send(FRAME)


async def check_garbage_between_and_within_answers(folder):
    link, model, _ = _link(chunk=1)
    await link.connect()
    for noise in (
        b"\xff\x00\xfe",
        b"\r\n\r\n",
        b"+CEREG\r\n",
        b"OKAY\r\n",
        b"\r\n+SMSTATE\r\n",
        b"> > >\r\n",
        b"A" * 3000,
    ):
        model.noise = noise + b"\r\n"
        assert (await link.look())[0] in (True, None), noise
        model.noise = b""
        assert await link.look() == (True, modem.DBM_UNKNOWN), "this model has no +CSQ line"
        await link.send(FRAME)


def _dozing_link(sleeps=False):
    """A link whose modem's DTR is wired: deaf while that is high and for a moment after, once it may doze.

    `heard`: (level of DTR, ms since it fell, command) of every command, those to deaf ears too.
    """
    board = Board(".", {})
    model = ModemModel(board)
    pin = board.pin_out("modem_doze")
    fell_ms = [-1000]
    heard = []
    pin.on_level = lambda level: level or fell_ms.append(now_ms())
    take = board.uarts["modem"].on_write

    def hear(data):
        heard.append((pin.level, now_ms() - fell_ms[-1], data))
        if b"AT+CSCLK=1" not in model.commands or (not pin.level and now_ms() - fell_ms[-1] >= DEAF_MS):
            take(data)

    board.uarts["modem"].on_write = hear
    link = modem.ModemLink(
        board.uart("modem"),
        board.pin_out("modem_power"),
        DEVICE_ID,
        Clock(now_ms),
        "broker",
        1883,
        board.log,
        lambda: sleeps,
        pin,
    )
    return link, model, pin, heard


async def check_dozes_between_reports_and_is_roused_in_time(folder):
    link, model, pin, heard = _dozing_link()
    await link.connect()
    assert b"AT+CSCLK=1" in model.commands and pin.level == 1
    del heard[:]
    await asyncio.sleep_ms(60000)
    await link.send(FRAME)
    await link.look()
    assert pin.level == 0, "more may be said to it"
    link.rest()
    assert pin.level == 1 and len(heard) == 3
    assert [(level, since >= modem.ROUSE_MS) for level, since, _ in heard] == [(0, True)] * 3
    # Roused ahead of time, a report does not wait.
    await asyncio.sleep_ms(60000)
    link.rouse()
    await asyncio.sleep_ms(1000)
    begun = now_ms()
    await link.send(FRAME)
    assert now_ms() == begun and pin.level == 1
    link.rouse()
    link.rest()
    assert pin.level == 1, "nothing was to be reported after all"
    # What comes down is heard all the same.
    model.deliver("emtag/v1/down/00001001", FRAME)
    assert await link.receive() == FRAME


async def check_what_others_do_meanwhile_interrupts_no_connecting(folder):
    link, model, pin, heard = _dozing_link()
    model.registers_after_ms = 100000
    model.delays_ms[b"AT+SMCONN"] = 20000

    async def positions():
        while True:
            await asyncio.sleep_ms(5000)
            await link.look()
            # One that need not be reported yet.
            link.rest()

    others = asyncio.create_task(positions())
    await link.connect()
    others.cancel()
    assert all(level == 0 for level, _, _ in heard), "said to deaf ears"
    assert model.power_cycles == 1 and model.session and pin.level == 1
    # Given up in the middle it may doze again.
    await link.close()
    connecting = asyncio.create_task(link.connect())
    await asyncio.sleep_ms(10000)
    assert pin.level == 0
    connecting.cancel()
    await asyncio.sleep_ms(1)
    assert pin.level == 1


async def check_a_modem_that_will_not_doze_is_left_awake(folder):
    link, model, pin, _ = _dozing_link()
    model.answers[b"AT+CSCLK"] = b"\r\nERROR\r\n"
    await link.connect()
    await link.send(FRAME)
    assert pin.level == 0
    link, model, pin, _ = _dozing_link(sleeps=True)
    await link.connect()
    assert pin.level == 0 and b"AT+CSCLK=1" not in model.commands


async def check_a_lost_session_and_a_restart_rouse_it(folder):
    link, model, pin, heard = _dozing_link()
    await link.connect()
    model.lose_session()
    await asyncio.sleep_ms(1000)
    del heard[:]
    await link.connect()
    assert all(level == 0 and since >= modem.ROUSE_MS for level, since, _ in heard) and pin.level == 1
    model.silent = True
    assert await _fails(link.send(FRAME))
    model.silent = False
    await link.connect()
    await link.send(FRAME)
    assert pin.level == 1


async def check_a_modem_that_dozed_when_a_reset_came_is_roused(folder):
    link, model, pin, heard = _dozing_link()
    await link.connect()
    assert pin.level == 1
    again = modem.ModemLink(
        link._channel._uart, link._power, DEVICE_ID, Clock(now_ms), "broker", 1883, lambda text: None, None, pin
    )
    link._reader.cancel()
    assert pin.level == 0
    del heard[:]
    await again.connect()
    assert heard[0][1] >= modem.ROUSE_MS


async def check_network_and_broker_as_the_identity_has_them(folder):
    link, model, _ = _link()
    for name in ("ca.pem", "tag.pem", "tag.key"):
        with open(folder + "/" + name, "w") as file:
            file.write(name + " of some lines\nand more\n")
    link.folder = folder
    link.options = {
        "apn": "iot.example",
        "apn_user": "sim",
        "apn_password": "card",
        "username": "tag",
        "password": "secret",
        "tls": {"ca_file": "ca.pem", "certificate_file": "tag.pem", "key_file": "tag.key"},
    }
    await link.connect()
    order = [
        b'AT+CGDCONT=1,"IP","iot.example"',
        b'AT+CNCFG=0,1,"iot.example","sim","card",3',
        b"AT+CFUN=1",
        b"AT+CNACT=0,1",
        b'AT+CFSWFILE=3,"tag.key",0,31,10000',
        b"AT+CFSTERM",
        b'AT+CSSLCFG="SSLVERSION",0,3',
        b'AT+CSSLCFG="CONVERT",2,"ca.pem"',
        b'AT+CSSLCFG="CONVERT",1,"tag.pem","tag.key"',
        b'AT+SMSSL=1,"ca.pem","tag.pem"',
        b"AT+SMCONN",
    ]
    places = [model.commands.index(command) for command in order]
    assert places == sorted(places), model.commands
    assert (model.settings[b"USERNAME"], model.settings[b"PASSWORD"]) == (b'"tag"', b'"secret"')
    assert model.files[b"tag.pem"] == b"tag.pem of some lines\nand more\n" and len(model.files) == 3
    await link.send(FRAME)
    assert model.published[0][1] == FRAME
    # Again after a power cut: its own flash still has them, the rest is told anew.
    link._power_off()
    await link.connect()
    assert model.count(b"AT+CFSWFILE") == 3 and model.count(b"AT+SMSSL") == 2 and model.count(b"AT+CNCFG") == 2
    # A certificate that is not there is said by name, and nothing goes out without TLS.
    link, model, _ = _link()
    link.options = {"tls": {"ca_file": "ca.pem"}}
    link.folder = folder + "/nowhere"
    assert await _fails(link.connect()) == "no file ca.pem" and model.count(b"AT+SMCONN") == 0
