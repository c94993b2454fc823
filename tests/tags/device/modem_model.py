"""A modem of the SIM7080G class at its AT commands, with the manners and the faults of the real thing."""

import asyncio
from binascii import hexlify

KEPT = 100  # commands and messages that a check can look back on
UNSET_CLOCK = b'+CCLK: "80/01/06,00:00:12+00"'


class ModemModel:
    """Wired to a Board's UART "modem" and pin "modem_power". `chunk`: bytes a read gives, 0 = as they come."""

    def __init__(self, board, chunk=0):
        self.uart = board.uarts["modem"]
        self.uart.on_write = self._on_write
        board.outputs["modem_power"].on_level = self._on_power
        self.chunk = chunk
        self.echo = True
        self.powered = False
        self.power_cycles = 0
        self.silent = False
        self.registers_after_ms = 3000
        self.sim = b"READY"
        self.clock = b'+CCLK: "26/05/03,14:01:02+04"'  # of the network, told to who asked before it attached
        self.session = False
        self.commands = []
        self.published = []  # (topic, payload)
        self.files = {}  # in its own file system
        self.settings = {}  # of its MQTT client
        self.noise = b""  # sent before every answer
        self.answers = {}  # command prefix: what to answer instead
        self.delays_ms = {b"AT+CNACT": 300}  # command prefix: how long the answer takes
        self._registered = self._booted = self._wants_time = self._has_time = False
        self._line = bytearray()
        self._payload_left = 0
        self._payload = bytearray()
        self._topic = b""
        self._tasks = []

    def send(self, data):
        if self.powered and not self.silent:
            step = self.chunk or len(data) or 1
            for at in range(0, len(data), step):
                self.uart.feed(data[at : at + step])

    def deliver(self, topic, frame):
        self.send(b'\r\n+SMSUB: "%s","%s"\r\n' % (topic.encode(), hexlify(frame).upper()))

    def lose_session(self):
        self.session = False
        self.send(b"\r\n+SMSTATE: 0\r\n")

    def count(self, prefix):
        return len([line for line in self.commands if line.startswith(prefix)])

    def _on_power(self, level):
        self.powered = bool(level)
        self._registered = self.session = self._booted = self._wants_time = self._has_time = False
        self.echo = True
        self._line = bytearray()
        self._payload_left = 0
        if level:
            self.power_cycles += 1
            self._tasks.append(asyncio.create_task(self._boot(self.power_cycles)))

    async def _boot(self, cycle):
        await asyncio.sleep_ms(1800)
        if cycle == self.power_cycles:
            self._booted = True
            self.send(b"\0\xff\r\nRDY\r\n\r\n+CFUN: 1\r\n\r\n+CPIN: READY\r\n\r\nSMS Ready\r\n")
            if self.registers_after_ms is not None:
                await asyncio.sleep_ms(self.registers_after_ms)
                self._registered = True
                self.send(b"\r\n+CEREG: 1\r\n")
                if self._wants_time:
                    # A message of its own, after the one that accepted.
                    await asyncio.sleep_ms(100)
                    self._has_time = True
                    self.send(b'\r\n*PSUTTZ: 26/05/03,13:01:02","+04",0\r\n\r\nDST: 0\r\n')

    def _on_write(self, data):
        if not self.powered or not self._booted:
            return
        for byte in data:
            if self._payload_left:
                self._payload.append(byte)
                self._payload_left -= 1
                if not self._payload_left:
                    if self._topic is None:
                        self.files[self._file] = bytes(self._payload)
                    else:
                        self.published.append((self._topic, bytes(self._payload)))
                    self._answer(b"AT+SMPAYLOAD", b"\r\nOK\r\n")
            elif byte == 13:
                line, self._line = bytes(self._line), bytearray()
                if self.echo:
                    self.send(line + b"\r")
                self._command(line)
            else:
                self._line.append(byte)

    def _answer(self, command, text):
        for prefix, instead in self.answers.items():
            if command.startswith(prefix):
                text = instead
        for prefix, delay_ms in self.delays_ms.items():
            if command.startswith(prefix):
                self._tasks.append(asyncio.create_task(self._later(delay_ms, text)))
                return
        self.send(self.noise + text)

    async def _later(self, delay_ms, text):
        await asyncio.sleep_ms(delay_ms)
        self.send(self.noise + text)

    def _command(self, line):
        self.commands.append(line)
        del self.commands[:-KEPT], self.published[:-KEPT]
        text = b"\r\nOK\r\n"
        if line == b"ATE0":
            self.echo = False
        elif line == b"AT+CPIN?":
            text = b"\r\n+CPIN: " + self.sim + b"\r\n\r\nOK\r\n"
        elif line == b"AT+CEREG?":
            text = b"\r\n+CEREG: 1,%d\r\n\r\nOK\r\n" % (1 if self._registered else 2)
        elif line == b"AT+CCLK?":
            text = b"\r\n" + (self.clock if self._has_time else UNSET_CLOCK) + b"\r\n\r\nOK\r\n"
        elif line == b"AT+CLTS=1":
            self._wants_time = b"AT+CLTS" not in self.answers
        elif line == b"AT+CNACT=0,1":
            text = b"\r\nOK\r\n\r\n+APP PDP: 0,ACTIVE\r\n"
        elif line == b"AT+SMCONN":
            self.session = True
        elif line == b"AT+SMDISC":
            text = b"\r\nOK\r\n" if self.session else b"\r\nERROR\r\n"
            self.session = False
        elif line == b"AT+CLBS=1,0":
            text = b"\r\n+CLBS: 0,-0.127758,51.507351,550,2026/05/03,13:01:02\r\n\r\nOK\r\n"
        elif line.startswith(b"AT+SMCONF="):
            fields = line[10:].split(b",", 1)
            self.settings[fields[0].strip(b'"')] = fields[1]
        elif line.startswith(b"AT+CFSWFILE="):
            fields = line.split(b",")
            self._topic, self._file = None, fields[1].strip(b'"')
            self._payload = bytearray()
            self._payload_left = int(fields[3])
            text = b"\r\nDOWNLOAD\r\n"
        elif line.startswith(b"AT+SMPUB="):
            if not self.session:
                text = b"\r\nERROR\r\n"
            else:
                fields = line.split(b",")
                self._topic = fields[0].split(b'"')[1]
                self._payload = bytearray()
                self._payload_left = int(fields[1])
                text = b"\r\n> "
        self._answer(line, text)
