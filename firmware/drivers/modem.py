# Cellular modem of the SIM7080G class: brings it up from its AT commands, and carries frames over its own MQTT client.
import asyncio
from binascii import unhexlify

from common.wait import Signal
from emwire import constants, topics

from drivers.at_channel import AtChannel, ModemError
from drivers.nmea import day_number

# Boot of the module to its first answer (SIM7080G hardware design: UART ready after about 1.8 s; margin).
BOOT_TIMEOUT_MS = 15000
POWER_OFF_MS = 2000
# Registration takes seconds at home and up to minutes elsewhere; beyond this it is "no coverage" and tried anew.
REGISTRATION_TIMEOUT_MS = 120000
CONNECT_TIMEOUT_MS = 75000
PUBLISH_TIMEOUT_MS = 30000
# The network works it out from cells, over the air.
CELL_POSITION_TIMEOUT_MS = 30000
# Longest silence of the MQTT session before the broker gives it up (SM KEEPTIME, s).
KEEP_ALIVE_S = 300
# Down frames wait here for the link; it acknowledges cumulatively, so a lost one is repeated by its sender.
MAXIMUM_WAITING = 8
# A modem that answers but never gets a session is restarted after so many attempts.
ATTEMPTS_BEFORE_POWER_CYCLE = 3
# Network time is a whole second, sent when the network pleases; AT+CCLK? itself takes well under a second.
NETWORK_TIME_UNCERTAINTY_MS = 2000

_REGISTERED = (1, 5)  # home, roaming (3GPP TS 27.007)
# Asked again meanwhile: a module that restarted unnoticed tells nothing by itself.
REGISTRATION_ASK_MS = 15000
# Between reports: paged every 20.48 s (eDRX on LTE-M, 3GPP TS 24.008 §10.5.5.32), so that a command finds it.
REACHABLE = 'AT+CEDRXS=1,4,"0010"'
# Or asleep (PSM, §10.5.7.3 and .4a): 10 s after the last traffic, woken by its power key, known to the network for 6 h.
ASLEEP = 'AT+CPSMS=1,,,"00100110","00000101"'
DBM_UNKNOWN = -128
# Reachable it may doze while its DTR is high (AT+CSCLK=1). Its UART hears 50 ms after DTR fell (hardware design);
# twice that.
ROUSE_MS = 100


def network_time_ms(answer: bytes) -> "int | None":
    """UTC ms since 2010 of '+CCLK: "yy/MM/dd,hh:mm:ss±zz"' (zz quarter hours), None where it is unset or nonsense."""
    try:
        text = answer[answer.index(b'"') + 1 : answer.index(b'"') + 21].decode()
        year, month, day = int(text[0:2]), int(text[3:5]), int(text[6:8])
        hour, minute, second = int(text[9:11]), int(text[12:14]), int(text[15:17])
        zone = int(text[17:20])
    except (ValueError, IndexError):
        return None
    # An unset clock shows 1980 or 1970; the two digits are of this century.
    day_since_2010 = day_number(2000 + year, month, day) if 10 <= year < 70 else None
    if day_since_2010 is None or not (hour < 24 and minute < 60 and second < 61):
        return None
    return ((day_since_2010 * 24 + hour) * 60 + minute - zone * 15) * 60000 + second * 1000


class ModemLink:
    """Transport of frames: connect, send, receive, close; OSError = lost."""

    def __init__(self, uart, power, device_id, clock, host, port, log, sleeps=None, doze=None):
        """sleeps(): whether it shall sleep between reports rather than stay reachable; by default it stays.

        doze: pin, 1 = nobody will say anything to it, so that it may stop its UART until then."""
        self._power = power
        self._device_id = device_id
        self._clock = clock
        self._host = host
        self._port = port
        self._log = log
        self._channel = AtChannel(uart, self._on_line)
        self._reader = None
        self._powered = False
        self._configured = False
        self._failures = 0
        self._sleeps = sleeps
        self._doze = doze
        self._may_doze = self._dozing = False
        self._talking = 0
        self._roused_ms = None
        if doze is not None:
            # It may have been dozing when a reset came.
            doze.value(0)
            self._roused_ms = clock.ticks_ms()
        self._registration = None
        self._registration_changed = Signal()
        # Of the network and the broker, from the identity: apn, apn_user, apn_password, username, password, tls.
        self.options = {}
        self.folder = ""  # of the certificates that tls names
        self._installed = False
        self.on_registration = None  # called when the network is lost or found
        self.restarts = 0  # by itself
        self.asleep = False
        self._session = False
        self._frames = []
        self._arrived = Signal()
        self.dropped_frames = 0
        self.bad_frames = 0
        self.power_cycles = 0

    async def connect(self):
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        # One talk from beginning to end: it takes minutes, and others call rest() in them.
        self._talking += 1
        try:
            await self._connect()
        except OSError:
            self._failures += 1
            if self._failures % ATTEMPTS_BEFORE_POWER_CYCLE == 0:
                self._power_off()
            raise
        finally:
            self._talking -= 1
            self.rest()
        self._failures = 0

    async def send(self, frame):
        if not self._session:
            raise ModemError("no session")
        command = 'AT+SMPUB="%s",%d,1,0' % (topics.up(self._device_id), len(frame))
        await self._command(command, PUBLISH_TIMEOUT_MS, frame)

    async def receive(self):
        while not self._frames:
            if not self._session:
                raise ModemError("session lost")
            await self._arrived.wait()
        return self._frames.pop(0)

    async def close(self):
        was_open = self._session
        self._end_session()
        if was_open:
            try:
                await self._command("AT+SMDISC")
            except OSError:
                pass

    def rouse(self):
        """Something will be said to it soon: by then it listens."""
        if self._dozing:
            self._dozing = False
            self._doze.value(0)
            self._roused_ms = self._clock.ticks_ms()

    def rest(self):
        """Nothing will be said to it for now; what comes down wakes it by itself."""
        if self._may_doze and self._configured and not self._dozing and not self._talking:
            self._dozing = True
            self._doze.value(1)

    async def _command(self, text, timeout_ms=5000, payload=None, more=False):
        """As the channel's, to a modem that may doze. more: who asks will say more, or call rest()."""
        self._talking += 1
        try:
            await self._listens()
            return await self._channel.command(text, timeout_ms, payload)
        finally:
            self._talking -= 1
            if not more:
                self.rest()

    async def _listens(self):
        self.rouse()
        if self._roused_ms is not None:
            left_ms = self._roused_ms + ROUSE_MS - self._clock.ticks_ms()
            if left_ms > 0:
                await asyncio.sleep_ms(left_ms)
            self._roused_ms = None

    @property
    def registered(self) -> "bool | None":
        """None: off, asleep or not asked yet, so that nothing can be said about the network."""
        return self._registration in _REGISTERED if self._configured and self._registration is not None else None

    async def look(self):
        """(registered or None, signal in dBm): the module tells changes of the one, and is asked for the other. Then
        rest(), as after cell_position()."""
        if self.registered is None:
            return None, DBM_UNKNOWN
        dbm = DBM_UNKNOWN
        try:
            for line in await self._command("AT+CSQ", more=True):
                if line.startswith(b"+CSQ:"):
                    dbm = signal_dbm(line)
        except OSError:
            return None, DBM_UNKNOWN  # a fault of the modem, and no word about the network
        return self.registered, dbm

    async def cell_position(self):
        """(latitude_microdegrees, longitude_microdegrees, precision_m) by the network, or None if it cannot say."""
        if not self._powered or self._registration not in _REGISTERED:
            return None
        for line in await self._command("AT+CLBS=1,0", CELL_POSITION_TIMEOUT_MS, more=True):
            if line.startswith(b"+CLBS: 0,"):
                return cell_position(line)
        return None

    async def _read(self):
        while True:
            try:
                await self._channel.read_forever()
            except OSError as error:
                self._log("modem uart: %r" % error)
                self._end_session()
                await asyncio.sleep_ms(1000)

    async def _connect(self):
        await self._listens()
        await self._wake()
        command = self._channel.command
        if not self._configured:
            await command("ATE0")
            await command("AT+CEREG=1")
            await self._set_access_point()
            try:
                # Or it leaves its clock unset. Before it attaches: that is when the network tells the time.
                await command("AT+CLTS=1")
            except ModemError:
                self._log("modem: network time refused")
            await command("AT+CFUN=1", 15000)
            await self._set_sleep()
            self._configured = True
        if b"+CPIN: READY" not in await command("AT+CPIN?"):
            raise ModemError("no SIM")
        await self._register()
        try:
            await command("AT+CNACT=0,1", 30000)
        except ModemError:
            # Refused where the bearer is already up; then the session shows whether it works.
            self._log("modem: bearer refused")
        # Not at once: the network tells it a moment after it accepted (3GPP TS 24.301 §5.4.5).
        await self._ask_time()
        try:
            await command("AT+SMDISC")
        except ModemError:
            pass  # there was no session to end
        for setting in (
            'AT+SMCONF="URL","%s",%d' % (self._host, self._port),
            'AT+SMCONF="CLIENTID","emtag-%08x"' % self._device_id,
            'AT+SMCONF="KEEPTIME",%d' % KEEP_ALIVE_S,
            'AT+SMCONF="CLEANSS",1',
            'AT+SMCONF="SUBHEX",1',
        ):
            await command(setting)
        for name in ("username", "password"):
            if name in self.options:
                await command('AT+SMCONF="%s","%s"' % (name.upper(), self.options[name]))
        if "tls" in self.options:
            await self._secure(self.options["tls"])
        await command("AT+SMCONN", CONNECT_TIMEOUT_MS)
        self._session = True
        self._frames = []
        try:
            await command('AT+SMSUB="%s",1' % topics.down(self._device_id))
        except OSError:
            self._session = False
            raise
        if not self._configured:
            self._session = False
            raise ModemError("modem restarted")

    async def _set_access_point(self):
        options = self.options
        if "apn" in options:
            # For the attach, and for the bearer of its own clients; 3: PAP or CHAP.
            await self._channel.command('AT+CGDCONT=1,"IP","%s"' % options["apn"])
            user = ',"%s","%s",3' % (options["apn_user"], options["apn_password"]) if "apn_user" in options else ""
            await self._channel.command('AT+CNCFG=0,1,"%s"%s' % (options["apn"], user))

    async def _secure(self, tls):
        from drivers import modem_tls

        if not self._installed:
            names = [tls[name] for name in ("ca_file", "certificate_file", "key_file") if name in tls]
            await modem_tls.install(self._channel.command, self.folder, names)
            self._installed = True  # it keeps them: once each boot, in case they were changed
        await modem_tls.configure(self._channel.command, tls)

    async def _set_sleep(self):
        sleeps = self._sleeps is not None and self._sleeps()
        self._may_doze = False
        try:
            if sleeps:
                await self._channel.command("AT+CPSMSTATUS=1")
            await self._channel.command(ASLEEP if sleeps else "AT+CPSMS=0")
            await self._channel.command("AT+CEDRXS=0" if sleeps else REACHABLE)
        except ModemError:
            # Not every firmware and network has it: it costs power, not function.
            self._log("modem: sleep refused")
        if self._doze is not None and not sleeps:
            try:
                await self._channel.command("AT+CSCLK=1")
                self._may_doze = True
            except ModemError:
                self._log("modem: doze refused")

    async def _wake(self):
        for _ in range(2):
            if not self._powered:
                self._power.value(1)
                self._powered = True
                self._configured = False
                self.asleep = False
                self._registration = None
            # Ten seconds and more of silence are boot; longer than that it is hung.
            started = self._clock.ticks_ms()
            while self._clock.ticks_ms() - started < BOOT_TIMEOUT_MS:
                try:
                    await self._channel.synchronise()
                    return
                except ModemError:
                    pass
            self._power_off()
            await asyncio.sleep_ms(POWER_OFF_MS)
        raise ModemError("modem silent")

    def _power_off(self):
        self.rouse()
        self._power.value(0)
        self._powered = False
        self._configured = False
        self.power_cycles += 1
        self._end_session()

    async def _register(self):
        self._registration_changed.clear()
        await self._channel.command("AT+CEREG?")
        started = self._clock.ticks_ms()
        while self._registration not in _REGISTERED:
            remaining = started + REGISTRATION_TIMEOUT_MS - self._clock.ticks_ms()
            if remaining <= 0:
                raise ModemError("not registered")
            if not await self._registration_changed.wait(min(remaining, REGISTRATION_ASK_MS)):
                await self._channel.command("AT+CEREG?")

    async def _ask_time(self):
        for line in await self._channel.command("AT+CCLK?"):
            if line.startswith(b"+CCLK:"):
                utc_ms = network_time_ms(line)
                if utc_ms is not None:
                    self._clock.observe(constants.CLOCK_NETWORK, utc_ms, NETWORK_TIME_UNCERTAINTY_MS)

    def _on_line(self, line):
        """Lines that may come at any time; those that also answer a command are passed on by True."""
        if line.startswith(b"+SMSUB:"):
            self._take_frame(line)
        elif line.startswith(b"+SMSTATE:"):
            if line[9:].strip() == b"0":
                self._end_session()
        elif line.startswith(b"+CEREG:"):
            self._take_registration(line[7:])
        elif line in (b"NORMAL POWER DOWN", b"UNDER-VOLTAGE POWER DOWN"):
            self._power_off()
        elif line == b"RDY":
            if self._configured:
                # It restarted by itself: nothing that was set is in force, and nothing that was asked is answered.
                self.restarts += 1
                self._channel.abort("modem restarted")
            self._configured = False
            self._registration = None
            self._end_session()
        elif line.startswith(b"+CPSMSTATUS:"):
            if b"ENTER" in line:
                # From here on only its power key wakes it. Where a board cuts its supply by value(0), sleep() does not:
                # it would forget that it is attached.
                getattr(self._power, "sleep", lambda: self._power.value(0))()
                self._powered = self._configured = False
                self.asleep = True
                self._end_session()
        elif not line.startswith(b"+APP PDP:") and line not in (b"SMS Ready", b"+CPIN: NOT INSERTED"):
            return False
        return True

    def _take_frame(self, line):
        parts = line.split(b'"')
        try:
            if parts[1].decode() != topics.down(self._device_id):
                raise ValueError
            frame = unhexlify(parts[3])
        except (ValueError, IndexError):
            self.bad_frames += 1
            return
        if len(self._frames) >= MAXIMUM_WAITING:
            self.dropped_frames += 1
            return
        self._frames.append(frame)
        self._arrived.set()

    def _take_registration(self, text):
        # "<stat>[,"tac",...]" unsolicited, "<n>,<stat>[,...]" in answer to AT+CEREG?.
        fields = text.strip().split(b",")
        was = self.registered
        try:
            second_is_number = len(fields) > 1 and not fields[1].startswith(b'"')
            self._registration = int(fields[1] if second_is_number else fields[0])
        except ValueError:
            return
        self._registration_changed.set()
        if self.on_registration and self.registered != was:
            self.on_registration()

    def _end_session(self):
        self._session = False
        self._arrived.set()


def signal_dbm(answer: bytes) -> int:
    """dBm of '+CSQ: <0 to 31, 99 unknown>,…' (3GPP TS 27.007 §8.5), DBM_UNKNOWN where it does not say."""
    try:
        steps = int(answer[5:].split(b",")[0])
    except ValueError:
        return DBM_UNKNOWN
    return 2 * steps - 113 if 0 <= steps <= 31 else DBM_UNKNOWN


def cell_position(answer: bytes) -> "tuple[int, int, int] | None":
    """(latitude_microdegrees, longitude_microdegrees, precision_m) of '+CLBS: 0,<longitude>,<latitude>,<metres>,…'."""
    fields = answer.split(b",")
    try:
        longitude, latitude, precision_m = _microdegrees(fields[1]), _microdegrees(fields[2]), int(fields[3])
    except (ValueError, IndexError):
        return None
    if abs(latitude) > 90000000 or abs(longitude) > 180000000 or not 0 <= precision_m < 65535:
        return None
    return latitude, longitude, precision_m


def _microdegrees(text: bytes) -> int:
    """Decimal degrees to millionths without floating point."""
    negative = text.startswith(b"-")
    whole, _, fraction = text.lstrip(b"-").partition(b".")
    value = int(whole) * 1000000 + int((fraction + b"000000")[:6])
    return -value if negative else value
