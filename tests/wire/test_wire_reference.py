"""The protocol reference alone is enough: a codec made of its tables passes the golden vectors."""

import json
import re
from typing import Any

import pytest
from emwire import catalogue, constants, framing
from emwire.generators.vectors import from_json
from page_codec import PAGE, PageCodec, Refused
from wire_kit import ROOT, VECTORS


@pytest.fixture(scope="module")
def page() -> PageCodec:
    return PageCodec()


def vectors(name: str) -> list[dict[str, Any]]:
    return json.loads((VECTORS / name).read_text())  # type: ignore[no-any-return]


def verdict(call: Any) -> Any:
    try:
        return call()
    except Refused as refused:
        return refused.args


def test_every_message_is_on_the_page(page: PageCodec) -> None:
    assert page.types == {message.name: message.message_type for message in catalogue.MESSAGES}
    for message in catalogue.MESSAGES:
        assert [field.name for field in page.fields[message.name]] == [name for name, _ in message.fields]


def test_the_page_gives_the_golden_bytes(page: PageCodec) -> None:
    for vector in vectors("messages.json"):
        values = from_json(vector["values"])
        assert page.encode(vector["message"], values).hex() == vector["hex"], vector["case"]
        assert page.decode(bytes.fromhex(vector["hex"])) == (vector["message"], values), vector["case"]


def test_the_page_refuses_what_is_refused(page: PageCodec) -> None:
    for vector in vectors("refused_bytes.json"):
        expected = (vector["reason"], vector["offset"])
        assert verdict(lambda v=vector: page.decode(bytes.fromhex(v["hex"]))) == expected, vector["case"]
    lowest = {v["message"]: from_json(v["values"]) for v in vectors("messages.json") if v["case"] == "lowest"}
    for vector in vectors("refused_values.json"):
        values = {**lowest[vector["message"]], vector["field"]: from_json(vector["value"])}
        expected = (vector["reason"], vector["offset"])
        assert verdict(lambda m=vector["message"], v=values: page.encode(m, v)) == expected, vector


def test_the_example_is_a_vector_and_its_bytes_add_up() -> None:
    text = PAGE.read_text(encoding="utf-8").split("## A message byte by byte")[1].split("\n## ")[0]
    example = next(vector for vector in vectors("messages.json") if vector["case"] == "example")
    table = re.findall(r"^\| (\d+) \| `([0-9a-f ]+)` \|", text, re.M)
    assert "".join(part.replace(" ", "") for _, part in table) == example["hex"] and example["hex"] in text
    place = 0
    for offset, part in table:
        assert int(offset) == place
        place += len(bytes.fromhex(part))
    datagram, crc, line = (bytes.fromhex(part) for part in re.findall(r"`((?:[0-9a-f]{2} )+[0-9a-f]{2})`", text)[-3:])
    assert framing.crc16(datagram).to_bytes(2, "little") == crc
    assert framing.decode_stream(line) == datagram


def test_the_page_names_every_vector_file() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert {path.name for path in VECTORS.glob("*.json")} <= set(re.findall(r"^\| `(\w+\.json)`", text, re.M))


def test_every_reason_on_the_page_has_a_vector() -> None:
    """But those that need a session to come about: tests/link has them."""
    text = PAGE.read_text(encoding="utf-8").split("## Errors")[1].split("\n## ")[0]
    reasons = {name for row in re.findall(r"^\| (`.*?`) \|", text, re.M) for name in re.findall(r"`(\w+)`", row)}
    files = [found for path in VECTORS.glob("*.json") if isinstance(found := vectors(path.name), list)]
    given = {entry["reason"] for entries in files for entry in entries if "reason" in entry}
    assert reasons - given == {"key", "direction", "counter", "replay"}
    assert given <= reasons


def test_message_types_are_in_their_ranges() -> None:
    assigned = {("up", "record"): (0x01, 0x2F), ("up", "link"): (0x40, 0x6F), ("down", "link"): (0x80, 0xBF)}
    text = PAGE.read_text(encoding="utf-8")
    for message in catalogue.MESSAGES:
        lowest, highest = assigned[message.direction, message.kind]
        assert lowest <= message.message_type <= highest
    for lowest, highest in assigned.values():
        assert f"| `{lowest:02x}` … `{highest:02x}` |" in text


def test_numbers_once_given_stay() -> None:
    """Of the first release: a change here breaks devices in the field."""
    kept = {
        "MESSAGE": "HELLO 1 POSITION_BLOCK 2 PRESENCE 3 ALCOHOL_READING 4 EVENT 5 STATUS 6 GAP 7 LISTENING 8 LOG 9"
        " COMMAND_RESULT 10 UPDATE_STATE 11 SYNC 64 POLL 65 ACKNOWLEDGEMENT 128 TIME 129 CONFIGURATION 130"
        " ORDER_CONDITIONS 131 COMMAND 132 UPDATE_MANIFEST 133 KEY_UPDATE 134 UPDATE_CHUNK 135 ORDER_ZONE 136",
        "EVENT": "STRAP_CUT 1 STRAP_RESTORED 2 CASE_OPEN 3 HOME_UNIT_MOVED 4 MAINS_LOST 5 MAINS_RESTORED 6"
        " BATTERY_LOW 7 BATTERY_CRITICAL 8 CHARGE_STARTED 9 CHARGE_STOPPED 10 STRAP_FAULT 11 BEACON_COPIED 12"
        " CLOCK_JUMPED 13 RESET 14 SELF_TEST_FAILED 15 RECEIVER_DEAF 16 WAN_LOST 17 WAN_RESTORED 18 GNSS_FAULT 19"
        " NO_FIX 20 CHARGE_FAILED 21 SHIELDING_SUSPECTED 22 SHIELDING_ENDED 23 GNSS_JAMMING_SUSPECTED 24"
        " GNSS_JAMMING_ENDED 25 MOTION_WITHOUT_GNSS 26 ZONE_ENTERED 27 ZONE_LEFT 28 CASE_CLOSED 29"
        " CELLULAR_JAMMING_SUSPECTED 30"
        " SELF_TEST_PASSED 31 ORDER_APPLIED 32 ORDER_REFUSED 33 ORDER_ENDED 34",
        "MECHANISM": "GPS 1 RF 4 LBS 5 WIFI 6",
    }
    for prefix, text in kept.items():
        words = text.split()
        for name, number in zip(words[::2], words[1::2], strict=True):
            assert getattr(constants, f"{prefix}_{name}") == int(number)


def test_no_enumeration_gives_a_number_or_name_twice() -> None:
    for enumeration in catalogue.ENUMERATIONS:
        names = [name for name, _, _ in enumeration.members]
        numbers = [number for _, number, _ in enumeration.members]
        assert len(set(names)) == len(names) and len(set(numbers)) == len(numbers), enumeration.name
        if enumeration.flags:
            assert all(number and not number & number - 1 for number in numbers)
    prefixes = [enumeration.prefix for enumeration in catalogue.ENUMERATIONS]
    assert len(set(prefixes)) == len(prefixes)


def test_links_of_the_page_lead_somewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (ROOT / "docs" / target).is_file(), target
