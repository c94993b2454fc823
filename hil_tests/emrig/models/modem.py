"""A cellular modem of the SIM7080G class, modelled at its AT commands, with a real MQTT session behind them.

Command syntax: SIMCom SIM7070/7080/7090 Series AT Command Manual. Answers come without delay in virtual time: the time
they really take is held (see rig.py).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime

import aiomqtt

from emrig.clock import Timer
from emrig.micropython import rig_wire as w
from emrig.models.parts import OutputPin
from emrig.rig import Rig
from emrig.target import Device

# Power-on to registered, from the module's start-up behaviour: about 2 s to RDY, a few more to attach.
BOOT_MS = 2_000
REGISTER_MS = 3_000
# Woken from PSM it is still attached: it only has to hear the cell again.
RESUME_MS = 1_000
# From DTR low to a UART that hears: SIM7000 hardware design, 50 ms.
ROUSE_MS = 50
# Active timer (T3324) after which it enters PSM; the firmware asks for this one.
ACTIVE_MS = 10_000
# Signalling of an attach, an order of magnitude (3GPP TS 24.301 §5.5.1: eight messages of 50 to 100 bytes).
ATTACH_BYTES = 400
# MQTT 3.1.1: CONNECT with a client's name, CONNACK; SUBSCRIBE, SUBACK; what PUBLISH adds to topic and payload.
CONNECT_BYTES, SUBSCRIBE_BYTES, PUBLISH_BYTES = 30, 10, 8
# AT+CLBS asks a server with the cell's identity.
CELL_POSITION_BYTES = 100
# Real seconds after which a broker that does not answer counts as unreachable.
BROKER_TIMEOUT_S = 10.0
# Longest payload of AT+SMPUB in the manual.
MAXIMUM_PUBLISH = 1024
_ARGUMENT = re.compile(r'"([^"]*)"|([^,]+)')


class Modem:
    """On the device's UART "modem" and pin "modem_power"; `coverage` is the radio link."""

    def __init__(self, rig: Rig, device: Device, position: Callable[[], tuple[float, float]] | None = None) -> None:
        self.coverage = True
        self.signal = 21
        """+CSQ, 0 to 31 (-113 to -51 dBm) or 99."""
        self.jammed = False
        """Whether there is a strong carrier though no cell can be read."""
        self.counters: Counter[str] = Counter()
        self.on_state: Callable[[str], None] = lambda state: None
        """Told "off", "asleep" (PSM), "starting", "searching", "registered" or "dozing" whenever that changes."""
        self.on_traffic: Callable[[int, int], None] = lambda up, down: None
        """Told the bytes of each exchange with the network, up and down, before the network's own headers."""
        self._state = "off"
        self._idle: Timer | None = None
        self._rig, self._device, self._position = rig, device, position
        self._power = OutputPin(device, "modem_power", self._on_power)
        self._dtr = OutputPin(device, "modem_doze", self._on_dtr)
        self._roused_ms = 0
        self._may_doze = False  # kept over power-off
        self.has_time = False
        """Whether the network set its clock; kept in PSM."""
        device.parts["modem"] = self
        self._reset()

    def _reset(self) -> None:
        self._on = False
        self._ready = False  # booted, and so listening
        self._echo = True
        self._registered = False
        self._network_active = False
        self._registration_urc = False
        self._wants_time = False
        self._settings: dict[str, list[str]] = {}
        self._line = bytearray()
        self._payload_left = 0
        self._payload = bytearray()
        self._publish_topic = ""
        self._publish_qos = 1
        self._client: aiomqtt.Client | None = None
        self._session: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._sleeps = False
        self._asleep = False
        if self._idle:
            self._idle.cancel()
            self._idle = None

    @property
    def in_session(self) -> bool:
        """Whether the MQTT session is open."""
        return self._client is not None

    def _tell_state(self) -> None:
        state = "asleep" if self._asleep else "off"
        if self._on:
            state = "starting" if not self._ready else "registered" if self._registered else "searching"
            if state == "registered" and self._may_doze and self._dtr.level:
                state = "dozing"
        if state != self._state:
            self._state = state
            self.on_state(state)

    # -- radio link

    def cut(self) -> None:
        """Lose the network: the session breaks, nothing gets through."""
        if self.coverage:
            self.coverage = False
            if self._registered:
                self._registered = False
                self._unsolicited("+CEREG: 2")
                self._tell_state()
            self._drop_session("+SMSTATE: 0")

    def restore(self) -> None:
        """Find the network again."""
        if not self.coverage:
            self.coverage = True
            self._rig.clock.call_later(REGISTER_MS, self._register)

    def _register(self) -> None:
        if self._on and self.coverage and not self._registered:
            self._registered = True
            self._tell_state()
            self.on_traffic(ATTACH_BYTES, ATTACH_BYTES)
            self._unsolicited("+CEREG: 1")
            if self._wants_time:  # told by the network to who attaches, and to nobody later
                self.has_time = True
                self._unsolicited(f'*PSUTTZ: {self._network_time()}","+00",0')
                self._unsolicited("DST: 0")

    # -- power

    def restart(self) -> None:
        """It resets itself in the middle of whatever it does, as a dip of its supply makes it."""
        if self._on:
            self.close()
            self._reset()
            self._on_power(1)

    def _on_power(self, level: int) -> None:
        if level:
            resumes, self._asleep = self._asleep, False
            self._on = True
            self.has_time = self.has_time and resumes
            self._rig.clock.call_later(BOOT_MS, lambda: self._booted(RESUME_MS if resumes else REGISTER_MS))
        elif not self._asleep:  # there the key is only let go
            self.close()
            self._reset()
        self._tell_state()

    def _booted(self, register_ms: int = REGISTER_MS) -> None:
        if self._on:
            self._ready = True
            self._tell_state()
            self._send("\r\nRDY\r\n\r\n+CFUN: 1\r\n\r\n+CPIN: READY\r\n")
            self._rig.clock.call_later(register_ms, self._register)

    def _used(self) -> None:
        """Something was said or heard: the active timer begins anew."""
        if self._idle:
            self._idle.cancel()
        if self._sleeps and self._on:
            self._idle = self._rig.clock.call_later(ACTIVE_MS, self._enter_sleep)

    def _enter_sleep(self) -> None:
        if not self._on or self._client is not None or self._payload_left:
            return
        self._send('\r\n+CPSMSTATUS: "ENTER PSM"\r\n')
        self.counters["slept"] += 1
        self.close()
        self._reset()
        self._asleep = True
        self._tell_state()

    def _set_sleep(self, arguments: list[str]) -> None:
        self._sleeps = arguments[:1] == ["1"]
        self._answer("OK")
        self._used()

    def _set_doze(self, arguments: list[str]) -> None:
        self._may_doze = arguments[:1] == ["1"]
        self._answer("OK")

    def _on_dtr(self, level: int) -> None:
        self._roused_ms = self._rig.clock.now_ms()
        self._tell_state()

    def close(self) -> None:
        """End the session and what is under way."""
        for task in self._tasks:
            task.cancel()
        if self._session:
            self._session.cancel()

    # -- device side

    def output(self, kind: int, payload: bytes) -> None:
        """Bytes from the device: command lines, or the payload that SMPUB asked for."""
        if not self._ready:
            self.counters["bytes_while_off"] += len(payload)
            return
        if self._may_doze and (self._dtr.level or self._rig.clock.now_ms() - self._roused_ms < ROUSE_MS):
            self.counters["bytes_while_dozing"] += len(payload)
            return
        for byte in payload:
            if self._payload_left:
                self._payload.append(byte)
                self._payload_left -= 1
                if not self._payload_left:
                    self._start(self._publish(bytes(self._payload)))
            elif byte == 13:
                line, self._line = self._line.decode("latin-1"), bytearray()
                if self._echo:
                    self._send(line + "\r")
                if line.strip():
                    self._command(line.strip())
            elif byte != 10 and len(self._line) < 1024:
                self._line.append(byte)

    def call(self, operation: int, argument: bytes) -> bytes:
        """A UART has no calls."""
        return b""

    def _send(self, text: str) -> None:
        self._device.feed("modem", w.DATA, text.encode("latin-1"))

    def _answer(self, *lines: str) -> None:
        self._send("".join(f"\r\n{line}\r\n" for line in lines))

    def _unsolicited(self, line: str) -> None:
        if self._on and (self._registration_urc or not line.startswith("+CEREG")):
            self._send(f"\r\n{line}\r\n")

    def _command(self, line: str) -> None:
        self.counters["commands"] += 1
        self._used()
        name, _, rest = line[2:].partition("=")
        arguments = [quoted or bare for quoted, bare in _ARGUMENT.findall(rest)]
        handler = {
            "": self._ok,
            "E0": self._echo_off,
            "E1": self._echo_on,
            "+CFUN": self._ok,
            "+CPIN?": lambda _: self._answer("+CPIN: READY", "OK"),
            "+CEREG": self._set_registration_urc,
            "+CEREG?": lambda _: self._answer(
                f"+CEREG: {int(self._registration_urc)},{1 if self._registered else 2}", "OK"
            ),
            "+CSQ": lambda _: self._answer(f"+CSQ: {self.signal if self.coverage or self.jammed else 99},99", "OK"),
            "+CPSMS": self._set_sleep,
            "+CPSMSTATUS": self._ok,
            "+CSCLK": self._set_doze,
            "+CEDRXS": self._ok,
            "+CNACT": self._activate,
            "+CNACT?": lambda _: self._answer(
                f'+CNACT: 0,{int(self._network_active)},"{"10.0.0.2" if self._network_active else "0.0.0.0"}"', "OK"
            ),
            "+CLTS": self._set_network_time,
            "+CCLK?": self._clock,
            "+CLBS": self._cell_position,
            "+SMCONF": self._configure,
            "+SMCONN": lambda _: self._start(self._connect()),
            "+SMSUB": lambda a: self._start(self._subscribe(a)),
            "+SMPUB": self._start_publish,
            "+SMSTATE?": lambda _: self._answer(f"+SMSTATE: {int(self._client is not None)}", "OK"),
            "+SMDISC": self._disconnect,
            "+CPOWD": self._ok,
        }.get(name.upper())
        if not line.upper().startswith("AT") or handler is None:
            self.counters["unknown_commands"] += 1
            self._answer("ERROR")
            return
        handler(arguments)

    def _ok(self, arguments: list[str]) -> None:
        self._answer("OK")

    def _echo_off(self, arguments: list[str]) -> None:
        self._echo = False
        self._answer("OK")

    def _echo_on(self, arguments: list[str]) -> None:
        self._echo = True
        self._answer("OK")

    def _set_registration_urc(self, arguments: list[str]) -> None:
        self._registration_urc = arguments[:1] != ["0"]
        self._answer("OK")

    def _activate(self, arguments: list[str]) -> None:
        if not self._registered:
            self._answer("ERROR")
            return
        self._network_active = arguments[1:2] == ["1"]
        self._answer("OK", f"+APP PDP: 0,{'ACTIVE' if self._network_active else 'DEACTIVE'}")

    def _set_network_time(self, arguments: list[str]) -> None:
        self._wants_time = arguments[:1] == ["1"]
        self._answer("OK")

    def _network_time(self) -> str:
        return f"{datetime.fromtimestamp(self._rig.clock.unix_ms() / 1000, UTC):%y/%m/%d,%H:%M:%S}"

    def _clock(self, arguments: list[str]) -> None:
        # Without AT+CLTS=1 the module's own date, which the network never sets.
        self._answer(f'+CCLK: "{self._network_time() if self.has_time else "80/01/06,00:00:12"}+00"', "OK")

    def _cell_position(self, arguments: list[str]) -> None:
        if not self._registered or self._position is None:
            self._answer("+CLBS: 1", "OK")
            return
        latitude, longitude = self._position()
        self.on_traffic(CELL_POSITION_BYTES, CELL_POSITION_BYTES)
        now = datetime.fromtimestamp(self._rig.clock.unix_ms() / 1000, UTC)
        # A cell-based position is good to some hundred metres: rounded to 0.005 degree here.
        self._answer(
            f"+CLBS: 0,{round(longitude * 200) / 200:.6f},{round(latitude * 200) / 200:.6f},550,"
            f"{now:%Y/%m/%d,%H:%M:%S}",
            "OK",
        )

    def _configure(self, arguments: list[str]) -> None:
        self._settings[arguments[0].upper()] = arguments[1:]
        self._answer("OK")

    # -- MQTT session

    def _start(self, work: Coroutine[object, object, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        if not (self._registered and self._network_active):
            self._answer("ERROR")
            return
        self._drop_session(None)
        up: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._rig.hold(self._key("command"))
        self._session = asyncio.create_task(self._hold_session(up))
        connected = await up
        self._rig.release(self._key("command"))
        self._answer("OK" if connected else "ERROR")

    async def _hold_session(self, up: asyncio.Future[bool]) -> None:
        url = self._settings.get("URL", ["", "1883"])
        try:
            async with aiomqtt.Client(
                url[0],
                int(url[1]) if len(url) > 1 else 1883,
                identifier=self._settings.get("CLIENTID", ["emtag"])[0],
                clean_session=self._settings.get("CLEANSS", ["1"])[0] == "1",
                keepalive=int(self._settings.get("KEEPTIME", ["60"])[0]),
                timeout=BROKER_TIMEOUT_S,
            ) as client:
                self._client = client
                self.on_traffic(CONNECT_BYTES, CONNECT_BYTES)
                up.set_result(True)
                async for message in client.messages:
                    assert isinstance(message.payload, bytes)
                    self.counters["messages_in"] += 1
                    self.on_traffic(PUBLISH_BYTES, PUBLISH_BYTES + len(str(message.topic)) + len(message.payload))
                    self._unsolicited(f'+SMSUB: "{message.topic}","{message.payload.hex().upper()}"')
                    self._rig.release(self._key("answer"))
        except aiomqtt.MqttError:
            self._client = None
            self.counters["sessions_lost"] += 1
            if up.done():
                self._unsolicited("+SMSTATE: 0")
            else:
                up.set_result(False)
        finally:
            if not up.done():
                up.set_result(False)

    def _drop_session(self, tell: str | None) -> None:
        if self._session:
            self._session.cancel()
            self._session = None
        if self._client is not None:
            self._client = None
            if tell:
                self._unsolicited(tell)

    def _disconnect(self, arguments: list[str]) -> None:
        had = self._client is not None
        self._drop_session(None)
        self._used()
        self._answer("OK" if had else "ERROR")

    async def _subscribe(self, arguments: list[str]) -> None:
        if await self._through_broker(lambda client: client.subscribe(arguments[0], qos=int(arguments[1]))):
            self.on_traffic(SUBSCRIBE_BYTES + len(arguments[0]), SUBSCRIBE_BYTES)

    def _start_publish(self, arguments: list[str]) -> None:
        length = int(arguments[1]) if len(arguments) > 1 and arguments[1].isdigit() else 0
        if not 0 < length <= MAXIMUM_PUBLISH:
            self._answer("ERROR")
            return
        self._publish_topic = arguments[0]
        self._publish_qos = int(arguments[2]) if len(arguments) > 2 else 0
        self._payload = bytearray()
        self._payload_left = length
        self._send("\r\n> ")

    async def _publish(self, payload: bytes) -> None:
        topic, qos = self._publish_topic, self._publish_qos
        if await self._through_broker(lambda client: client.publish(topic, payload, qos=qos)):
            self.counters["messages_out"] += 1
            self.on_traffic(PUBLISH_BYTES + len(topic) + len(payload), PUBLISH_BYTES)
            self._rig.hold(self._key("answer"))

    async def _through_broker(self, work: Callable[[aiomqtt.Client], Awaitable[object]]) -> bool:
        client = self._client
        if client is None or not self.coverage:
            self._answer("ERROR")
            return False
        self._rig.hold(self._key("command"))
        try:
            await work(client)
        except (aiomqtt.MqttError, ValueError):
            self._answer("ERROR")
            return False
        finally:
            self._rig.release(self._key("command"))
        self._answer("OK")
        return True

    def _key(self, what: str) -> str:
        return f"{self._device.name}/modem/{what}"
