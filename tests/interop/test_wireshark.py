"""The Wireshark dissector, run by tshark: on golden vectors, on refused bytes, and on the project's own traffic."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from captures_kit import Conversation, Tap, connect, pcap, publish
from emgate.brokers import broker as brokers
from emwire import catalogue, envelope, framing
from emwire.errors import WireError
from emwire.fields import FixedBytes, Integer, ItemList, Message, PrefixedText
from emwire.generators.vectors import DEVICE_ID, from_json
from gateway_kit import DEVICE, KEY, GatewayProcess, Tag, event_record, hello_record, over_mqtt, status_record, toml

ROOT = Path(__file__).resolve().parent.parent.parent
VECTORS = ROOT / "protocol" / "vectors"
SCRIPT = ROOT / "protocol" / "wireshark" / "emtag.lua"
USER0, USER1, USER2 = 147, 148, 149
HEAD = DEVICE_ID.to_bytes(4, "little")

# A packet: every field's name and what it shows, in the order of the tree.
Fields = list[tuple[str, str]]


@pytest.fixture(scope="session")
def tshark(tmp_path_factory: pytest.TempPathFactory) -> Any:
    program = shutil.which("tshark") or shutil.which("tshark", path="/usr/sbin:/usr/local/bin:/opt/homebrew/bin")
    if not program:
        pytest.skip("needs tshark")
    home = tmp_path_factory.mktemp("home")  # nobody's preferences

    def run(path: Path, *options: str) -> list[Fields]:
        done = subprocess.run(
            [program, "-X", f"lua_script:{SCRIPT}", "-r", str(path), "-T", "pdml", *options],
            capture_output=True,
            env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "TZ": "UTC"},
        )
        assert done.returncode == 0, done.stderr.decode()
        assert b"Lua" not in done.stderr and b"Error" not in done.stderr, done.stderr.decode()
        packets = []
        for packet in ElementTree.fromstring(done.stdout).iter("packet"):
            shown = [(field.get("name", ""), field.get("show", "")) for field in packet.iter("field")]
            assert "_ws.lua.error" not in [name for name, _ in shown], shown
            packets.append(shown)
        return packets

    return run


def vectors(name: str) -> list[dict[str, Any]]:
    return json.loads((VECTORS / name).read_text())  # type: ignore[no-any-return]


def values(fields: Fields, name: str) -> list[str]:
    return [shown for field, shown in fields if field == name]


def faults(fields: Fields) -> list[tuple[str, str, int]]:
    reasons, layers = values(fields, "emtag.error.reason"), values(fields, "emtag.error.layer")
    offsets = map(int, values(fields, "emtag.error.offset"))
    return list(zip(layers, reasons, offsets, strict=True))


def opened(message: Message, plaintext: bytes) -> bytes:
    direction = envelope.DOWN if message.direction == "down" else envelope.UP
    kind = envelope.LINK if message.kind == "link" else envelope.RECORD
    header = envelope.header(envelope.control_byte(direction, kind), 3, 7)
    return b"\0" + HEAD + header + plaintext


def field_name(message: Message, name: str) -> str:
    header = message.kind == "record" and name in [field.name for field in catalogue.RECORD_HEADER]
    return f"emtag.record.{name}" if header else f"emtag.{message.name}.{name}"


def shown_as(field: Any, shown: str) -> Any:
    if isinstance(field, Integer):
        return int(shown, 0)
    return shown if isinstance(field, PrefixedText) else bytes.fromhex(shown.replace(":", ""))


def assert_shown(message: Message, given: dict[str, Any], fields: Fields) -> None:
    """Every field of the message is in the tree, once, with its value."""
    assert values(fields, "emtag.message_type") == [f"0x{message.message_type:02x}"]
    for name, field in message.fields:
        full, value = field_name(message, name), given[name]
        if isinstance(field, ItemList):
            assert values(fields, f"{full}.count") == [str(len(value))]
            for index, part in enumerate(field.item.subcons):
                column = [shown_as(part.subcon, text) for text in values(fields, f"{full}.{part.name}")]
                assert column == [row[index] for row in value], part.name
            continue
        (text,) = values(fields, full)
        if isinstance(field, PrefixedText):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                continue  # shown with replacements
            if not value.isprintable():
                continue  # shown with escapes
        assert shown_as(field, text) == value, name
        if isinstance(field, Integer) and field.enumeration and field.enumeration.flags:
            for bit, number, _ in field.enumeration.members:
                (flag,) = values(fields, f"{full}.{bit.lower()}")
                assert (flag in ("1", "True")) is bool(value & number), bit


def test_every_field_of_every_message_is_shown(tshark: Any, tmp_path: Path) -> None:
    cases = vectors("messages.json")
    file = tmp_path / "opened.pcap"
    packets = [opened(catalogue.BY_NAME[case["message"]], bytes.fromhex(case["hex"])) for case in cases]
    file.write_bytes(pcap([(index, packet) for index, packet in enumerate(packets)], USER0))
    dissected = tshark(file)
    assert len(dissected) == len(cases)
    for case, fields in zip(cases, dissected, strict=True):
        assert faults(fields) == [], case["case"]
        assert values(fields, "emtag.device_id") == [f"0x{DEVICE_ID:08x}"]
        assert_shown(catalogue.BY_NAME[case["message"]], from_json(case["values"]), fields)
    assert {case["message"] for case in cases} == set(catalogue.BY_NAME)


def test_refused_bytes_are_told_with_reason_and_offset(tshark: Any, tmp_path: Path) -> None:
    cases = vectors("refused_bytes.json")
    file = tmp_path / "refused.pcap"
    poll = catalogue.BY_NAME["poll"]
    refused = [bytes.fromhex(case["hex"]) for case in cases]
    file.write_bytes(pcap([(0, opened(catalogue.BY_TYPE[d[0]] if d else poll, d)) for d in refused], USER0))
    for case, fields in zip(cases, tshark(file), strict=True):
        assert faults(fields) == [("message", case["reason"], case["offset"])], case["case"]


def test_a_message_in_the_wrong_kind_of_frame_is_told(tshark: Any, tmp_path: Path) -> None:
    event = next(bytes.fromhex(case["hex"]) for case in vectors("messages.json") if case["message"] == "event")
    file = tmp_path / "kind.pcap"
    file.write_bytes(pcap([(0, opened(catalogue.BY_NAME[name], event)) for name in ("poll", "time", "gap")], USER0))
    assert [faults(fields) for fields in tshark(file)] == [[("message", "kind", 0)], [("message", "kind", 0)], []]


def test_refused_frames_are_told_as_far_as_can_be_seen(tshark: Any, tmp_path: Path) -> None:
    cases = vectors("refused_frames.json")
    file = tmp_path / "refused.pcap"
    file.write_bytes(pcap([(0, HEAD + bytes.fromhex(case["frame"])) for case in cases], USER1))
    for case, fields in zip(cases, tshark(file), strict=True):
        seen = [] if case["reason"] == "authentication" else [("frame", case["reason"], case["offset"])]
        assert faults(fields) == seen, case["case"]


def test_an_unknown_message_is_shown_raw(tshark: Any, tmp_path: Path) -> None:
    unused = next(number for number in range(1, 256) if number not in catalogue.BY_TYPE)
    file = tmp_path / "unknown.pcap"
    file.write_bytes(pcap([(0, opened(catalogue.BY_NAME["poll"], bytes([unused, 0xAB, 0xCD])))], USER0))
    (fields,) = tshark(file)
    assert (values(fields, "emtag.raw"), faults(fields)) == (["ab:cd"], [])


def assert_header_shown(case: dict[str, Any], fields: Fields) -> None:
    control = case["control"]
    shown = {name: values(fields, f"emtag.frame.{name}") for name in ("version", "direction", "kind", "alarm")}
    assert shown == {
        "version": ["1"],
        "direction": [str(control >> 4 & 1)],
        "kind": [str(control >> 3 & 1)],
        "alarm": [str(control >> 2 & 1)],
    }
    down, link = control >> 4 & 1, control >> 3 & 1
    assert values(fields, "emtag.frame.counter" if link else "emtag.frame.sequence") == [str(case["counter"])]
    assert values(fields, "emtag.frame.epoch") == ([] if down else [str(case["epoch"])])
    frame = bytes.fromhex(case["frame"])
    assert values(fields, "emtag.frame.sealed") == [frame[6:-8].hex(":")]
    assert values(fields, "emtag.frame.tag") == [frame[-8:].hex(":")]
    assert values(fields, "emtag.device_id") == [f"0x{case['device_id']:08x}"]
    assert faults(fields) == []


def test_sealed_frames_show_their_header_in_every_encapsulation(tshark: Any, tmp_path: Path) -> None:
    cases = vectors("frames.json")
    datagrams = [case["device_id"].to_bytes(4, "little") + bytes.fromhex(case["frame"]) for case in cases]
    streams = [bytes.fromhex(case["stream"]) for case in cases]
    udp = [
        bytes.fromhex("4500") + (28 + len(data)).to_bytes(2, "big") + bytes.fromhex("0000000040110000")
        + bytes([127, 0, 0, 1, 127, 0, 0, 1]) + bytes.fromhex("c3501a85") + (8 + len(data)).to_bytes(2, "big")
        + bytes(2) + data
        for data in datagrams
    ]  # fmt: skip
    for name, packets, link_type, options in (
        ("unopened", [b"\1" + data for data in datagrams], USER0, []),
        ("datagrams", datagrams, USER1, []),
        ("streams", streams, USER2, []),
        ("udp", udp, 101, ["-d", f"udp.port=={0x1A85},emtag_datagram"]),
    ):
        file = tmp_path / f"{name}.pcap"
        file.write_bytes(pcap([(0, packet) for packet in packets], link_type))
        for case, fields in zip(cases, tshark(file, *options), strict=True):
            assert_header_shown(case, fields)


def test_stream_frames_are_judged_as_the_link_judges_them(tshark: Any, tmp_path: Path) -> None:
    cases = vectors("stream.json")
    file = tmp_path / "streams.pcap"
    file.write_bytes(pcap([(0, bytes.fromhex(case["frame"])) for case in cases], USER2))
    for case, fields in zip(cases, tshark(file), strict=True):
        if "reason" in case:
            assert faults(fields) == [("stream", case["reason"], case["offset"])], case["case"]
            continue
        assert "stream" not in [layer for layer, _, _ in faults(fields)]
        crc = framing.crc16(bytes.fromhex(case["datagram"]))
        assert values(fields, "emtag.stream.crc") == [f"0x{crc:04x}"]


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (b"", ("frame", "truncated", 0)),
        (b"\x20", ("frame", "truncated", 1)),
        (b"\x20" + bytes(12), ("frame", "truncated", 13)),
        (b"\x40" + bytes(20), ("frame", "version", 0)),
        (b"\x20" + bytes(1020), ("frame", "oversize", 1020)),
    ],
)
def test_malformed_frames_are_told(tshark: Any, tmp_path: Path, frame: bytes, fault: tuple[str, str, int]) -> None:
    file = tmp_path / "malformed.pcap"
    file.write_bytes(pcap([(0, HEAD + frame)], USER1))
    (fields,) = tshark(file)
    assert faults(fields) == [fault]
    with pytest.raises(WireError) as refused:
        envelope.parse_header(frame)
    assert refused.value.args == fault[1:]


def test_nothing_makes_it_fail(tshark: Any, tmp_path: Path) -> None:
    """Every truncation of packets of each kind; the fixture fails at an error of Lua."""
    case = vectors("frames.json")[1]
    datagram, stream = HEAD + bytes.fromhex(case["frame"]), bytes.fromhex(case["stream"])
    message = opened(catalogue.BY_NAME["event"], bytes.fromhex(case["plaintext"]))
    for link_type, whole in ((USER0, message), (USER0, b"\1" + datagram), (USER1, datagram), (USER2, stream)):
        file = tmp_path / "cut.pcap"
        file.write_bytes(pcap([(0, whole[:size]) for size in range(1, len(whole))], link_type))
        for size, fields in enumerate(tshark(file), 1):
            assert faults(fields) or values(fields, "emtag.frame.tag"), (link_type, size)


def decode(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-c", "from emgate.cli import main; main()", "decode", *arguments],
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
async def test_a_captured_session(kind: Any, tshark: Any, tmp_path: Path) -> None:
    """A tag and a gateway talk over a broker; the capture is dissected, then opened and dissected again."""
    if kind not in brokers.available():
        pytest.skip(f"needs {kind}")
    with brokers.start_broker(kind, log_file=tmp_path / "broker.log") as broker:
        async with Tap(broker.port).running() as tap:
            gateway = GatewayProcess(tmp_path, toml(links=f'[mqtt]\nhost = "127.0.0.1"\nport = {tap.port}'))
            await gateway.start()
            tag = Tag(tmp_path / "tag")
            async with over_mqtt(tag, "127.0.0.1", tap.port):
                tag.record(hello_record())
                for number in range(20):
                    tag.record(event_record(number) if number % 7 == 0 else status_record(number), number % 7 == 0)
                await tag.until_delivered()
            assert await gateway.stop() == 0
    capture = tap.write(tmp_path / "session.pcap")
    as_mqtt = ["-d", f"tcp.port=={tap.port},mqtt"]

    # Sealed: framing and headers.
    status, lines = decode("--pcap", str(capture))
    assert (status, [line for line in lines if "error" in line]) == (0, [])
    frames = [line for line in lines if "deviceId" in line]
    dissected = tshark(capture, *as_mqtt)
    for number in ("emtag.frame.sequence", "emtag.frame.counter"):
        key = number.rpartition(".")[2]
        told = [str(line[key]) for line in frames if key in line]
        assert sorted(told) == sorted(shown for fields in dissected for shown in values(fields, number))
    assert sum(len(values(fields, "emtag.frame.tag")) for fields in dissected) == len(frames)
    assert not [fault for fields in dissected for fault in faults(fields)]
    assert {line["deviceId"] for line in frames} == {DEVICE}
    assert {line["direction"] for line in frames} == {"up", "down"}
    assert any(line["alarm"] for line in frames)
    assert {line["sequence"] for line in frames if line["kind"] == "record"} == set(range(21))

    # Opened: every field.
    clear = tmp_path / "opened.pcap"
    status, lines = decode("--pcap", str(capture), "--key", KEY.hex(), "--write", str(clear))
    assert (status, [line for line in lines if "error" in line]) == (0, [])
    dissected = tshark(clear)
    assert len(dissected) == len(lines) == len(frames)
    for line, fields in zip(lines, dissected, strict=True):
        assert faults(fields) == []
        given = {name: told_value(field, line["fields"][name]) for name, field in message_of(line).fields}
        assert_shown(message_of(line), given, fields)
    seen = {line["message"] for line in lines}
    assert seen >= {"hello", "status", "event", "sync", "acknowledgement", "time"}
    assert clear.stat().st_mode & 0o077 == 0
    # What was opened can be read back without a key.
    status, again = decode("--pcap", str(clear))
    assert status == 0
    assert [line["fields"] for line in again] == [line["fields"] for line in lines]

    # With a wrong key: told, header and all.
    status, lines = decode("--pcap", str(capture), "--key", bytes(16).hex())
    assert status == 1
    assert {(line["error"], line["offset"], line["layer"]) for line in lines} == {("authentication", 6, "frame")}


def message_of(line: dict[str, Any]) -> Message:
    return catalogue.BY_NAME[line["message"]]


def told_value(field: Any, told: dict[str, Any]) -> Any:
    value = told["value"]
    if isinstance(field, ItemList):
        return [tuple(told_value(part.subcon, row[part.name]) for part in field.item.subcons) for row in value]
    if isinstance(field, Integer):
        return value
    assert not isinstance(field, FixedBytes)  # hidden, and not in this session
    return bytes.fromhex(value)


def test_other_topics_are_left_alone(tshark: Any, tmp_path: Path) -> None:
    talk = Conversation()
    talk.up(connect())
    frame = bytes.fromhex(vectors("frames.json")[0]["frame"])
    for topic in (
        "emtag/v1/up/1122334",
        "emtag/v1/up/112233445",
        "emtag/v2/up/11223344",
        "other",
        "emtag/v1/backend/a/batch",
    ):
        talk.up(publish(topic, frame))
    # Two in one segment, the second for another device.
    talk.up(publish("emtag/v1/up/11223344", frame) + publish("emtag/v1/up/55667788", frame))
    file = tmp_path / "other.pcap"
    file.write_bytes(talk.file())
    shown = [shown for fields in tshark(file) for shown in values(fields, "emtag.device_id")]
    assert shown == ["0x11223344", "0x55667788"]
