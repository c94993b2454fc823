"""The device's end of the link: a row of authentic frames with any content; it never raises."""

from emwire import device_codec, envelope
from emwire.device_link import DeviceLink

from .open_aead import OpenAead

EPOCH = 7


class Records:
    """A journal of eight records in memory, every other one an alarm."""

    reboot_wanted = False
    undelivered = True
    backlog = 8

    def __init__(self) -> None:
        self.payload = device_codec.encode_event(1, 50, 1, 1, 1, 1, 0, 0, b"")
        self.entries = [(EPOCH, sequence, sequence % 2 == 1, 0, 0, len(self.payload)) for sequence in range(8)]
        self.through = 0

    def epochs(self) -> list[tuple[int, int, int]]:
        """(epoch, oldest, next)."""
        return [(EPOCH, 0, 8)]

    def next_to_send(self, alarm: bool, after: tuple[int, int, bool, int, int, int] | None = None) -> object:
        """The record behind `after` in a lane."""
        return next(
            (e for e in self.entries if e[2] == alarm and e[1] >= self.through and (not after or e[1] > after[1])), None
        )

    def read(self, entry: object) -> bytes:
        """Its payload."""
        return self.payload

    def stored(self, epoch: int, through: int) -> None:
        """Take note of a watermark."""
        if epoch == EPOCH:
            self.through = max(self.through, through)

    def alarms_stored(self, epoch: int, through: int) -> None:
        """Not needed."""

    def delivered(self, epoch: int, through: int) -> None:
        """Not needed."""

    def __getattr__(self, name: str) -> object:
        # What a link may ask of a journal beside these: asking changes nothing here.
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: None


def check(data: bytes) -> None:
    """Frames behind their length as one byte each; the link sends between them."""
    link = DeviceLink(0xA0B0C0D0, EPOCH, OpenAead(), Records())  # type: ignore[arg-type]
    link.opened(0)
    at = now_ms = 0
    while at < len(data):
        for _ in range(4):
            frame = link.poll(now_ms)
            assert frame is None or len(frame) <= envelope.MAXIMUM_FRAME
        end = at + 1 + data[at]
        assert isinstance(link.received(now_ms, data[at + 1 : end]), list)
        deadline = link.deadline(now_ms)
        assert deadline is None or deadline >= now_ms
        now_ms += 1000
        at = end
