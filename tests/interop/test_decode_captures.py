"""`emtag decode` of pcap files and serial captures: every frame found, every fault told with its place, no crash."""

import io
import json
import random
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from captures_kit import Conversation, block, connect, length, pcap, pcapng, publish, tcp
from emgate.captures.frames import FrameReader
from emgate.captures.sessions import read_pcap, read_serial
from emgate.keys.sealing import Ccm
from emwire import codec, envelope, framing, topics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KEY = bytes(range(16))
OTHER_KEY = bytes(range(16, 32))
DEVICE = 0x11223344
EPOCH = 300

ROOT = Path(__file__).resolve().parent.parent.parent

relaxed = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def sealed(
    counter: int, message: Any = None, *, device_id: int = DEVICE, key: bytes = KEY, down: bool = False
) -> bytes:
    direction, kind = (envelope.DOWN, envelope.LINK) if down else (envelope.UP, envelope.RECORD)
    plaintext = (message or (codec.Time(1, 2, 3) if down else codec.Gap(1, 2, 3, 4, 5, 6, counter, 1))).encode()
    return envelope.seal(Ccm(key), device_id, envelope.control_byte(direction, kind), EPOCH, counter, plaintext)


def up(counter: int, **options: Any) -> bytes:
    return publish(topics.up(options.get("device_id", DEVICE)), sealed(counter, **options))


def read(file: bytes, key: bytes | None = KEY, counters: Counter[str] | None = None) -> list[dict[str, Any]]:
    reader = FrameReader(lambda _: [key] if key else [])
    entries = [told for told, _ in read_pcap(io.BytesIO(file), reader, Counter() if counters is None else counters)]
    json.dumps(entries)
    return entries


def serial(data: bytes, key: bytes | None = KEY) -> list[dict[str, Any]]:
    return [told for told, _ in read_serial(io.BytesIO(data), FrameReader(lambda _: [key] if key else []))]


def sequences(told: list[dict[str, Any]]) -> list[int]:
    return [line["sequence"] for line in told if "sequence" in line]


def errors(told: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return [(line["layer"], line["error"], line["offset"]) for line in told if "error" in line]


def conversation(count: int = 3) -> Conversation:
    talk = Conversation()
    talk.up(connect())
    for counter in range(count):
        talk.up(up(counter))
    return talk


def emtag(*arguments: str, stdin: str = "") -> tuple[int, list[dict[str, Any]], str]:
    program = "from emgate.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "decode", *arguments], input=stdin, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_both_directions_are_opened() -> None:
    talk = conversation(1)
    talk.down(publish(topics.down(DEVICE), sealed(1 << 20, down=True)))
    told = read(talk.file())
    assert [line["message"] for line in told] == ["gap", "time"]
    assert told[0]["topic"] == "emtag/v1/up/11223344" and told[0]["duplicate"] is False
    assert (told[0]["source"], told[0]["destination"]) == ("127.0.0.1:40000", "127.0.0.1:1883")
    assert (told[1]["source"], told[1]["destination"]) == ("127.0.0.1:1883", "127.0.0.1:40000")
    assert told[0]["time"] == "2027-01-15T08:00:00.000003Z"
    assert told[1]["epoch"] == EPOCH and told[1]["counter"] == 1 << 20


def test_a_down_frame_alone_is_opened_too() -> None:
    talk = Conversation()
    talk.up(connect())
    talk.down(publish(topics.down(DEVICE), sealed(5, down=True)))
    assert [(line["message"], line["epoch"]) for line in read(talk.file())] == [("time", EPOCH)]


def test_what_is_told_is_what_the_schema_says() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    schema = json.loads((ROOT / "protocol" / "schema" / "decoded.json").read_text())
    talk = conversation(2)
    talk.down(publish(topics.down(DEVICE), sealed(1, down=True)))
    lost = talk.up(up(2))
    talk.up(up(3))
    talk.up(publish(topics.up(DEVICE), b"\x20") + b"\x00\x00")
    file = pcap([(0, packet) for packet in talk.packets if packet != lost])
    reader = FrameReader(lambda _: [KEY])
    entries = list(read_pcap(io.BytesIO(file + b"\0"), reader, Counter()))
    clear = pcap([(0, packet[1]) for _, packet in entries if packet], 147)
    told = [line for line, _ in entries] + read(clear) + read(file, None) + read(file, OTHER_KEY)
    told += serial(framing.encode_stream(DEVICE.to_bytes(4, "little") + sealed(4)) + b"noise")
    assert {line.get("layer") for line in told} >= {None, "pcap", "tcp", "mqtt", "frame", "stream"}
    for line in told:
        jsonschema.Draft202012Validator(schema).validate(line)


@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("write", [pcap, pcapng])
def test_every_kind_of_file(write: Any, order: str, nano: bool) -> None:
    talk = conversation()
    packets = [(1_800_000_000_123_456 + index, packet) for index, packet in enumerate(talk.packets)]
    told = read(write(packets, order=order, nano=nano))
    assert sequences(told) == [0, 1, 2] and not errors(told)
    assert told[0]["time"] == "2027-01-15T08:00:00.123459Z"


@pytest.mark.parametrize(
    ("link_type", "head"),
    [
        (1, bytes(12) + b"\x08\x00"),
        (1, bytes(12) + b"\x81\x00\x00\x05\x08\x00"),
        (113, bytes(14) + b"\x08\x00"),
        (276, b"\x08\x00" + bytes(18)),
        (0, b"\x02\0\0\0"),
        (108, b"\0\0\0\x02"),
        (12, b""),
        (228, b""),
    ],
)
def test_every_link_layer(link_type: int, head: bytes) -> None:
    file = pcap([(0, head + packet) for packet in conversation().packets], link_type)
    assert sequences(read(file)) == [0, 1, 2]


def test_ipv6() -> None:
    loopback = bytes(15) + b"\1"
    packets = [
        (0, b"\x60\0\0\0" + struct.pack(">HBB", len(packet) - 20, 6, 64) + 2 * loopback + packet[20:])
        for packet in conversation().packets
    ]
    told = read(pcap(packets))
    assert sequences(told) == [0, 1, 2]
    assert told[0]["source"] == "[::1]:40000"


def test_a_publish_in_pieces_and_many_in_one() -> None:
    talk = Conversation()
    stream = connect() + b"".join(up(counter) for counter in range(5))
    for start in range(0, len(stream), 7):
        talk.up(stream[start : start + 7])
    talk.up(b"".join(up(counter) for counter in range(5, 9)))
    assert sequences(read(talk.file())) == list(range(9))


def test_segments_out_of_order_twice_and_overlapping() -> None:
    chance = random.Random(5)
    talk = Conversation()
    stream = connect() + b"".join(up(counter) for counter in range(40))
    talk.up(stream[:12])
    start = talk.next[0]
    segments = []
    position = 12
    while position < len(stream):
        size = chance.randrange(1, 60)
        back = chance.choice([0, 0, 5, 11])
        begin = max(12, position - back)
        segments.append(tcp(*talk.ends, start + begin - 12, 16, stream[begin : position + size]))
        position += size
    segments += chance.sample(segments, 20)
    for index in range(0, len(segments) - 3, 3):
        part = segments[index : index + 3]
        chance.shuffle(part)
        segments[index : index + 3] = part
    told = read(pcap([(0, packet) for packet in talk.packets + segments]))
    assert (sequences(told), errors(told)) == (list(range(40)), [])


def test_sequence_numbers_wrap() -> None:
    talk = Conversation()
    talk.up(connect())
    for counter in range(20):  # the server's numbers begin 256 below the wrap
        talk.down(publish(topics.down(DEVICE), sealed(counter, down=True)))
    assert [line["counter"] for line in read(talk.file())] == list(range(20))


def test_a_lost_packet_is_a_gap_and_what_follows_is_read() -> None:
    talk = conversation(6)
    file = pcap([(0, packet) for index, packet in enumerate(talk.packets) if index != 5])  # the publish of 2
    told = read(file)
    assert sequences(told) == [0, 1, 3, 4, 5]
    offset = len(connect() + up(0) + up(1))
    assert errors(told) == [("tcp", "gap", offset)]


def test_a_long_gap_is_told_before_the_end() -> None:
    talk = conversation(2)
    lost = talk.up(up(2))
    talk.packets.remove(lost)
    for counter in range(3, 12):
        talk.up(up(counter))
        for _ in range(3):
            talk.up(publish("other", bytes(60_000)))
    talk.up(b"\x00\x00")
    told = read(talk.file())
    assert [reason for _, reason, _ in errors(told)] == ["gap", "type"]
    assert sequences(told) == [0, 1, *range(3, 12)]


def test_a_capture_begun_in_the_middle() -> None:
    talk = conversation()
    assert sequences(read(pcap([(0, packet) for packet in talk.packets[4:]]))) == [1, 2]


def test_a_port_used_again_is_another_connection() -> None:
    first, second = conversation(2), Conversation()
    second.next = [777, 888]
    again = tcp(*second.ends, 776, 2)
    second.up(connect())
    second.up(up(9))
    told = read(pcap([(0, packet) for packet in [*first.packets, again, *second.packets[2:]]]))
    assert (sequences(told), errors(told)) == ([0, 1, 9], [])


def test_mqtt_5_has_properties() -> None:
    talk = Conversation()
    talk.up(connect(level=5))
    talk.up(publish(topics.up(DEVICE), sealed(1), quality=0, properties=b""))
    talk.up(publish(topics.up(DEVICE), sealed(2), properties=b"\x26" + bytes(200)))
    talk.down(publish(topics.down(DEVICE), sealed(3, down=True), properties=b"\x01\x00"))
    told = read(talk.file())
    assert ([line["message"] for line in told], errors(told)) == (["gap", "gap", "time"], [])


def test_other_traffic_is_counted() -> None:
    talk = Conversation(server=("127.0.0.1", 80))
    talk.up(b"GET / HTTP/1.1\r\n\r\n")
    mqtt = conversation(1)
    mqtt.up(publish("other", b"x") + publish(topics.backend_batch("gw"), b"{}"))
    udp = b"\x45\0\0\x1c\0\0\0\0\x40\x11\0\0" + bytes(8) + bytes(8)
    fragment = bytearray(mqtt.packets[-1])
    fragment[6:8] = b"\x20\0"
    counters: Counter[str] = Counter()
    told = read(
        pcap([(0, p) for p in [*talk.packets, *mqtt.packets, udp, bytes(fragment), b"\x45\0\0\x10" + bytes(5)]]),
        counters=counters,
    )
    assert len(told) == 1
    assert counters == {
        "TCP segments that are not MQTT": 1,
        "other publishes": 2,
        "packets without TCP": 1,
        "IP fragments": 1,
        "packets with damaged headers": 1,
    }


def test_a_publish_too_long_is_passed_over() -> None:
    talk = conversation(1)
    head = b"\x30" + length(3 << 20)
    body = head + bytes(3 << 20)
    for start in range(0, len(body), 60_000):
        talk.up(body[start : start + 60_000])
    talk.up(up(1))
    counters: Counter[str] = Counter()
    told = read(talk.file(), counters=counters)
    assert (sequences(told), errors(told), counters["MQTT packets too long"]) == ([0, 1], [], 1)


@pytest.mark.parametrize(
    ("bytes_", "reason", "offset"),
    [
        (b"\x00\x00", "type", 0),
        (b"\x30\xff\xff\xff\xff\xff", "length", 1),
        (b"\x36\x05\0\1aaa", "quality", 0),
        (b"\x30\x03\0\5a", "truncated", 5),
        (b"\x30\x04\0\2\xff\xff", "topic", 4),
        (b"\x10\x03\0\1a", "connect", 2),
    ],
)
def test_mqtt_that_is_none_is_told(bytes_: bytes, reason: str, offset: int) -> None:
    talk = conversation(1)
    talk.up(bytes_)
    talk.up(up(1))
    told = read(talk.file())
    begin = len(connect() + up(0))
    assert errors(told) == [("mqtt", reason, begin + offset)]
    assert sequences(told) == [0, 1]


def test_a_publish_without_end_is_told() -> None:
    talk = conversation(1)
    talk.up(up(1)[:-5])
    assert errors(read(talk.file())) == [("mqtt", "truncated", len(connect() + up(0) + up(1)) - 5)]


def test_malformed_frames_are_told() -> None:
    talk = Conversation()
    talk.up(connect())
    flipped = bytearray(sealed(1))
    flipped[9] ^= 1
    for frame in (b"", b"\x20", bytes(20), b"\x20" + bytes(1020), bytes(flipped)):
        talk.up(publish(topics.up(DEVICE), frame))
    talk.up(publish(topics.down(DEVICE), sealed(1)))
    talk.up(publish(topics.up(DEVICE), sealed(2, codec.Poll())))
    assert errors(read(talk.file())) == [
        ("frame", "truncated", 0),
        ("frame", "truncated", 1),
        ("frame", "version", 0),
        ("frame", "oversize", 1020),
        ("frame", "authentication", 6),
        ("topic", "direction", 0),
        ("message", "kind", 0),
    ]


def test_a_wrong_key_is_told_for_every_frame_in_bounded_time() -> None:
    talk = conversation(3)
    for counter in range(30):
        talk.down(publish(topics.down(DEVICE), sealed(counter, down=True)))
    told = read(talk.file(), key=OTHER_KEY)
    assert errors(told) == [("frame", "authentication", 6)] * 33
    assert [line["counter"] for line in told if "counter" in line] == list(range(30))


def test_every_truncation_of_a_file_is_told() -> None:
    for write, heads in ((pcap, {24}), (pcapng, {28, 48, 68})):
        packets = [(index, packet) for index, packet in enumerate(conversation(2).packets)]
        file = write(packets)
        boundaries = {len(write(packets[:count])) for count in range(len(packets) + 1)} | heads
        for size in range(len(file)):
            told = errors(read(file[:size]))
            if size in boundaries:
                assert not [fault for fault in told if fault[0] == "pcap"]
            else:
                assert told[0] == ("pcap", "truncated", size), size


@pytest.mark.parametrize(
    ("file", "reason", "offset"),
    [
        (b"", "truncated", 0),
        (b"GIF89a", "magic", 0),
        (b"\xd4\xc3\xb2\xa1\x07\0\0\0" + bytes(16), "version", 4),
        (pcap([]) + struct.pack("<IIII", 0, 0, 1 << 30, 1 << 30), "length", 32),
        (block(0x0A0D0D0A, b"\0" * 16), "magic", 8),
        (pcapng([]) + struct.pack("<II", 6, 7), "length", 72),
        (pcapng([]) + block(6, struct.pack("<IIIII", 9, 0, 0, 0, 0)), "interface", 76),
        (pcapng([]) + block(6, struct.pack("<IIIII", 0, 0, 0, 99, 99)), "length", 88),
        (pcapng([]) + block(6, bytes(4)), "truncated", 80),
    ],
)
def test_damaged_files_are_told(file: bytes, reason: str, offset: int) -> None:
    ((layer, told, place),) = errors(read(file))
    assert (layer, told) == ("pcap", reason)
    assert place == offset


@relaxed
@given(data=st.data())
def test_no_damage_makes_it_fail(data: st.DataObject) -> None:
    talk = conversation(2)
    talk.down(publish(topics.down(DEVICE), sealed(1, down=True)))
    packets = [(index, packet) for index, packet in enumerate(talk.packets)]
    file = bytearray(data.draw(st.sampled_from([pcap, pcapng]))(packets))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    # Without a key: a damaged device id would have all epochs searched.
    told = read(bytes(file[: data.draw(st.integers(0, len(file)) | st.just(len(file)))]), key=None)
    for line in told:
        assert ("error" in line) == ("offset" in line) == ("layer" in line)


@relaxed
@given(data=st.binary(max_size=300), link_type=st.sampled_from([0, 1, 12, 101, 108, 113, 147, 148, 149, 276, 999]))
def test_no_packet_makes_it_fail(data: bytes, link_type: int) -> None:
    read(pcap([(0, data), (0, b"\x45" + data)], link_type), key=None)


@relaxed
@given(
    pieces=st.lists(
        st.binary(max_size=40) | st.just(framing.encode_stream(b"\x44\x33\x22\x11" + sealed(7))), max_size=8
    )
)
def test_no_serial_bytes_make_it_fail(pieces: list[bytes]) -> None:
    data = b"\0".join(pieces)
    told = serial(data)
    for line in told:
        assert ("error" in line) == ("offset" in line)
        # What it says of a frame's place is where a frame begins.
        assert line["fileOffset"] == 0 or data[line["fileOffset"] - 1] == 0


def test_serial_frames_are_found_among_noise() -> None:
    frames = [framing.encode_stream(DEVICE.to_bytes(4, "little") + sealed(counter)) for counter in range(3)]
    changed = bytearray(frames[1])
    changed[5] ^= 0x55
    data = b"\0" + frames[0] + b"\0\0" + bytes(changed) + b"x" * 5000 + b"\0" + frames[1] + frames[2][:-3]
    told = serial(data)
    begins = [line["fileOffset"] for line in told]
    assert begins == [
        data.find(frames[0]),
        data.find(changed),
        data.find(b"xxx"),
        data.rfind(frames[1]),
        data.rfind(frames[2][:-3]),
    ]
    assert sequences(told) == [0, 1]
    limit = framing.encoded_limit(1024)
    assert errors(told) == [
        ("stream", "checksum", len(changed) - 1),
        ("stream", "oversize", limit),
        ("stream", "unterminated", len(frames[2]) - 3),
    ]


def test_serial_frames_over_the_edges_of_reading() -> None:
    frames = [framing.encode_stream(DEVICE.to_bytes(4, "little") + sealed(counter)) for counter in range(4000)]
    assert sum(map(len, frames)) > 2 * 65536
    told = serial(b"".join(frames), key=None)
    assert (sequences(told), errors(told)) == (list(range(4000)), [])
    assert [line["fileOffset"] for line in told] == [sum(map(len, frames[:count])) for count in range(4000)]


def test_the_command_reads_captures(tmp_path: Path) -> None:
    talk = conversation(2)
    talk.up(up(5, device_id=0x55667788, key=OTHER_KEY))
    capture, out, keys = tmp_path / "a.pcap", tmp_path / "out.pcap", tmp_path / "devices.toml"
    capture.write_bytes(talk.file())
    keys.write_text(
        f'[[devices]]\ndevice_id = {DEVICE}\nmodel = "pid"\nkey = "{KEY.hex()}"\n'
        f'[[devices]]\ndevice_id = {0x55667788}\nmodel = "pid"\nkey = "{OTHER_KEY.hex()}"\n'
    )
    status, told, counted = emtag("--pcap", str(capture))
    assert (status, len(told)) == (0, 3) and "fields" not in told[0]
    assert json.loads(counted)["counters"]["frames"] == 3
    status, told, _ = emtag("--pcap", str(capture), "--key", KEY.hex())
    assert (status, errors(told), len(told)) == (1, [("frame", "authentication", 6)], 3)
    status, told, _ = emtag("--pcap", str(capture), "--keys", str(keys), "--write", str(out))
    assert (status, [line["message"] for line in told]) == (0, ["gap"] * 3)
    status, again, _ = emtag("--pcap", str(out), "--device", "55667788")
    assert (status, [line["sequence"] for line in again], again[0]["form"]) == (0, [5], "opened")
    assert again[0]["fields"] == told[2]["fields"] and again[0]["time"] == told[2]["time"]
    line = tmp_path / "line.bin"
    line.write_bytes(framing.encode_stream(DEVICE.to_bytes(4, "little") + sealed(4)))
    status, told, _ = emtag("--serial", str(line), "--keys", str(keys))
    assert (status, [(entry["sequence"], entry["message"]) for entry in told]) == (0, [(4, "gap")])


def test_hexadecimal_is_read_as_ever(tmp_path: Path) -> None:
    datagram = (DEVICE.to_bytes(4, "little") + sealed(4)).hex()
    assert emtag(datagram)[:2] == (0, [told_header := emtag("-", stdin=datagram + "\n\n")[1][0]])
    assert "fields" not in told_header
    status, told, _ = emtag("--key", KEY.hex(), "-", stdin=f"{datagram}\nzz\n")
    assert (status, [line.get("message") for line in told], errors(told)) == (1, ["gap", None], [("hex", "hex", 0)])
    keys = tmp_path / "devices.toml"
    keys.write_text(f'[[devices]]\ndevice_id = {DEVICE}\nmodel = "pid"\nkey = "{KEY.hex()}"\n')
    assert emtag("--keys", str(keys), datagram)[1] == told[:1]
    assert errors(emtag("-", stdin="")[1]) == [("hex", "empty", 0)]
    assert errors(emtag("--key", "00", datagram)[1]) == [("arguments", "key", 0)]


@pytest.mark.parametrize(
    ("arguments", "layer"),
    [
        (["--pcap", "absent"], "file"),
        (["--serial", "absent"], "file"),
        (["--pcap", "."], "file"),
        (["--pcap", "a.pcap", "--write", "absent/out"], "write"),
        (["--pcap", "a.pcap", "--write", "a.pcap"], "arguments"),
        (["--pcap", "a.pcap", "--key", "00"], "arguments"),
        (["--pcap", "a.pcap", "--key", "xyz"], "arguments"),
        (["--pcap", "a.pcap", "--device", "xyz"], "arguments"),
        (["--pcap", "a.pcap", "--keys", "absent"], "arguments"),
        (["--pcap", "a.pcap", "--keys", "a.pcap"], "arguments"),
    ],
)
def test_what_cannot_be_done_is_told(arguments: list[str], layer: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    before = conversation(1).file()
    Path("a.pcap").write_bytes(before)
    status, (told,), _ = emtag(*arguments)
    assert (status, told["layer"], told["offset"]) == (1, layer, 0)
    assert told["error"] and Path("a.pcap").read_bytes() == before


@pytest.mark.parametrize(
    "arguments", [[], ["00", "--pcap", "x"], ["--serial", "x", "--pcap", "x"], ["00", "--write", "x"]]
)
def test_a_command_that_means_nothing_is_refused(arguments: list[str]) -> None:
    status, told, explained = emtag(*arguments)
    assert (status, told) == (2, [])
    assert "Invalid value" in explained
