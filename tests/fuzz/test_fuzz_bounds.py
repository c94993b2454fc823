"""No input of 64 KiB makes a decoder use more than 1 MiB, or do more than in proportion to its length.

Work is counted in bytecode instructions, which no load of the machine changes; inputs are what makes each decoder
loop, allocate or start over most. Work inside one instruction (a slice, a search) is not counted: those that copy are
seen as memory, and each searches what it has not searched before.
"""

import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import pytest
from emwire import beacon, catalogue, codec, device_codec, envelope, positions, topics
from emwire.device_link import DeviceLink
from emwire.errors import WireError
from emwire.fragments import FIRST, LAST, Reassembler, fragment
from emwire.framing import StreamDecoder, decode_stream, encode_stream
from emwire.gateway_link import MAXIMUM_EPOCHS
from emwire.inspect import inspect_hex
from emwire.link import GatewayLink
from fuzz_targets.device_link import EPOCH, Records
from fuzz_targets.open_aead import OpenAead
from fuzz_targets.receiver import Receiver

LARGE = 64 * 1024
MEMORY = 1024 * 1024
DEVICE_ID = 0xA0B0C0D0

Run = Callable[[bytes], Any]


def refused(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except WireError:
        return None


def in_pieces(feed: Callable[[bytes], Any], data: bytes, step: int) -> None:
    for at in range(0, len(data), step):
        feed(data[at : at + step])


def repeated(pattern: bytes) -> Callable[[int], bytes]:
    return lambda size: (pattern * (size // len(pattern) + 1))[:size]


def with_zero(pattern: bytes) -> Callable[[int], bytes]:
    return lambda size: repeated(pattern)(size - 1) + b"\0"


def frames_up(size: int) -> list[bytes]:
    """Frames of ever newer boots, each with a gap record: what makes a gateway keep most."""
    made = []
    for number in range(size // 40):
        gap = device_codec.encode_gap(1, 50, 1, 1, number & 0xFFFF, 2 * number, 2 * number, 1)
        control = envelope.control_byte(envelope.UP, envelope.RECORD)
        made.append(envelope.seal(OpenAead(), DEVICE_ID, control, number & 0xFFFF, number, gap))
    return made


def syncs_up(size: int) -> list[bytes]:
    """A sync of another epoch in every frame."""
    control = envelope.control_byte(envelope.UP, envelope.LINK)
    return [
        envelope.seal(OpenAead(), DEVICE_ID, control, 9, number, device_codec.encode_sync(256 + number, 0, 9))
        for number in range(size // 23)
    ]


def acknowledgements(size: int) -> list[bytes]:
    control = envelope.control_byte(envelope.DOWN, envelope.LINK)
    ranges = tuple((number, number) for number in range(8))
    message = device_codec.encode_acknowledgement(EPOCH, 0, 0, ranges)
    return [envelope.seal(OpenAead(), DEVICE_ID, control, EPOCH, n, message) for n in range(size // 80)]


def full_gateway(frames: Iterable[bytes]) -> tuple[GatewayLink, Iterable[bytes]]:
    """A link that remembers as many epochs as it may, so that each new one costs it an old one."""
    link = GatewayLink(DEVICE_ID, OpenAead())
    for epoch in range(MAXIMUM_EPOCHS):
        link.stored(epoch, 1)
    return link, frames


def gateway(given: tuple[GatewayLink, Iterable[bytes]]) -> None:
    link, frames = given
    for frame in frames:
        refused(lambda frame=frame: link.received(frame))


def device(frames: Iterable[bytes]) -> None:
    link = DeviceLink(DEVICE_ID, EPOCH, OpenAead(), Records())  # type: ignore[arg-type]
    link.opened(0)
    for frame in frames:
        link.poll(0)
        link.received(0, frame)


FRAME = encode_stream(b"x")
PARTS = fragment(bytes(1000), 20)
NMEA = b"$GNGGA,120000.00,5130.1000,N,00007.2000,W,1,09,0.9,30.0,M,47.0,M,,*00\r\n"
UBX = b"\xb5\x62\x01\x07\x5c\x00"  # the header of a NAV-PVT that does not come

# name: (input of a size, what is done with it)
CASES: dict[str, tuple[Callable[[int], Any], Callable[[Any], Any]]] = {
    "stream, one group": (with_zero(b"\xff" + b"a" * 254), lambda data: refused(lambda: decode_stream(data))),
    "stream, empty groups": (with_zero(b"\1"), lambda data: refused(lambda: decode_stream(data))),
    "stream decoder, zeros": (bytes, lambda data: StreamDecoder().feed(data)),
    "stream decoder, good frames": (repeated(FRAME), lambda data: StreamDecoder().feed(data)),
    "stream decoder, byte by byte": (repeated(FRAME), lambda data: in_pieces(StreamDecoder().feed, data, 1)),
    "stream decoder, never ending": (repeated(b"\1"), lambda data: StreamDecoder().feed(data)),
    "stream decoder, damaged": (repeated(b"\2\1" * 500 + b"\0"), lambda data: StreamDecoder().feed(data)),
    "fragments, good": (
        lambda n: [PARTS[at % len(PARTS)] for at in range(n // 20)],
        lambda parts: [*map(Reassembler().feed, parts)],
    ),
    "fragments, repeated": (
        lambda n: [PARTS[0], *[PARTS[1]] * (n // 20)],
        lambda parts: [*map(Reassembler().feed, parts)],
    ),
    "fragments, first": (lambda n: [bytes([FIRST, 1])] * (n // 2), lambda parts: [*map(Reassembler().feed, parts)]),
    "fragments, one": (lambda n: [bytes([FIRST | LAST]) + bytes(n)], lambda parts: [*map(Reassembler().feed, parts)]),
    "frame": (repeated(b"\x20"), lambda data: refused(lambda: envelope.open_frame(OpenAead(), DEVICE_ID, data))),
    "advertisement": (repeated(b"\1\xff"), beacon.find),
    "advertisement, near misses": (repeated(b"\x14\xff\xff\xff\0" + bytes(16)), beacon.find),
    "token": (repeated(b"\1"), lambda data: refused(lambda: beacon.open_token(bytes, 1, data))),
    "topic": (repeated(b"a"), lambda data: refused(lambda: topics.parse("emtag/v1/up/" + data.decode()))),
    "hex, white space": (repeated(b" \n"), lambda data: inspect_hex(data.decode(), None, None, None)),
    "hex, wrong at the end": (
        lambda n: b"0" * (n - 1) + b"g",
        lambda data: inspect_hex(data.decode(), None, None, None),
    ),
    "hex, unknown message": (
        repeated(b"f0"),
        lambda data: inspect_hex(data.decode(), None, None, None, "message"),
    ),
    "position block": (
        lambda n: b"\x7f\xff" + repeated(b"\x5a\xa7")(n - 2),
        lambda data: refused(lambda: positions.decode_block(data)),
    ),
    "gateway, gap records": (lambda n: full_gateway(frames_up(n)), gateway),
    "gateway, epochs": (lambda n: full_gateway(syncs_up(n)), gateway),
    "device, acknowledgements": (acknowledgements, device),
    "receiver, dollars": (repeated(b"$"), lambda data: Receiver().feed(data)),
    "receiver, sentences": (repeated(NMEA), lambda data: Receiver().feed(data)),
    "receiver, sentences byte by byte": (repeated(NMEA), lambda data: in_pieces(Receiver().feed, data, 1)),
    "receiver, headers": (repeated(UBX), lambda data: Receiver().feed(data)),
    "receiver, half sync": (repeated(b"\xb5"), lambda data: in_pieces(Receiver().feed, data, 7)),
    "receiver, noise": (repeated(bytes(range(256))), lambda data: Receiver().feed(data)),
}
TYPES = sorted({*catalogue.BY_TYPE, 0xF0})


def of_every_type(filling: bytes) -> Callable[[int], Any]:
    return lambda size: [bytes([message_type]) + filling * (size - 1) for message_type in TYPES]


def decode_each(decode: Callable[[bytes], Any]) -> Callable[[Any], None]:
    def run(messages: list[bytes]) -> None:
        for data in messages:
            refused(lambda data=data: decode(data))

    return run


for _filling in (b"\0", b"\1", b"\xff"):
    CASES[f"codec, {_filling.hex()}"] = (of_every_type(_filling), decode_each(codec.decode))
    CASES[f"device codec, {_filling.hex()}"] = (of_every_type(_filling), decode_each(device_codec.decode))

each = pytest.mark.parametrize("name", CASES)


def instructions(run: Run, data: Any) -> int:
    """Bytecode instructions that a call takes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run(data)
    finally:
        sys.settrace(before)
    return count


def grows_linearly(run: Run, make: Callable[[int], Any]) -> bool:
    """Whether twice as many more bytes cost no more than twice as much more; what any input costs drops out."""
    once, twice, four = (instructions(run, make(size)) for size in (2048, 4096, 8192))
    # A repetition cut short at one size and not at the other is worth a few hundred instructions.
    return four - twice <= 2.01 * (twice - once) + 1000


@each
def test_memory(name: str) -> None:
    make, run = CASES[name]
    data = make(LARGE)
    run(make(256))  # what is made once for all
    tracemalloc.start()
    try:
        kept = run(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    del kept
    assert peak <= MEMORY


@each
def test_work_is_linear(name: str) -> None:
    make, run = CASES[name]
    assert grows_linearly(run, make)


def test_a_quadratic_loop_would_be_seen() -> None:
    def slow(data: bytes) -> None:
        for at in range(0, len(data), 64):
            for _ in data[at::64]:
                pass

    assert not grows_linearly(slow, bytes)


@pytest.mark.parametrize("columns", [positions.CORE, positions.ALL])
def test_the_largest_block_within_memory(columns: int) -> None:
    """255 fixes that jump: the most a block can make a decoder do."""
    fixes: list[tuple[int, ...]] = []
    for at in range(255):
        place = (at * 7919 * 104729 % 180000000 - 90000000, at * 15485863 * 31 % 360000000 - 180000000)
        others = (at * 991 % 65535, at * 97 % 360, at * 1009 % 65535, at % 64, at * 13 % 999, at % 7)
        fixes.append((at * 0x9E3779B9 & 0xFFFFFFFF, *place, *(others if columns else ())))
    block = positions.encode_block(fixes, columns)
    text = (b"\2" + struct.pack("<BHII", 1, 50, 1, 1) + block[:994]).hex()
    tracemalloc.start()
    try:
        assert positions.decode_block(block) == fixes
        inspect_hex(text, None, None, None, "message")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= MEMORY
