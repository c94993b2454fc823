# Frames over a UART to the host: datagrams (device id and sealed frame) in COBS and CRC framing.
import struct

from emwire.framing import StreamDecoder, encode_stream


class SerialLink:
    """Transport over a UART. The cable has no session: connect() always succeeds, silence is the link's business."""

    def __init__(self, uart, device_id):
        self._uart = uart
        self._device_id = device_id
        self._decoder = StreamDecoder()
        self._datagrams = []
        self.strangers = 0

    async def connect(self):
        self._decoder.reset()
        self._datagrams = []
        # Ends whatever the host's end took for the beginning of a frame.
        self._uart.write(b"\0")

    def send(self, frame):
        self._uart.write(encode_stream(struct.pack("<I", self._device_id) + frame))

    async def receive(self):
        while True:
            while self._datagrams:
                datagram = self._datagrams.pop(0)
                if len(datagram) > 4 and struct.unpack("<I", datagram[:4])[0] == self._device_id:
                    return datagram[4:]
                self.strangers += 1
            self._datagrams = self._decoder.feed(await self._uart.read())

    async def close(self):
        pass
