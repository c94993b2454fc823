"""Runs on MicroPython: answers requests about the wire, one JSON line each way."""

import json
import sys

from emwire import beacon, device_codec, envelope, fragments, framing, topics
from emwire.errors import WireError


def plain(value):
    if isinstance(value, (bytes, bytearray)):
        return {"hex": value.hex()}
    if isinstance(value, (tuple, list)):
        return [plain(entry) for entry in value]
    return value


def native(value):
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    if isinstance(value, list):
        return [native(entry) for entry in value]
    return value


def reassemble(parts):
    reassembler = fragments.Reassembler()
    datagrams = []
    for part in parts:
        datagram = reassembler.feed(part)
        if datagram is not None:
            datagrams.append(datagram)
    return datagrams


def feed(maximum, pieces):
    decoder = framing.StreamDecoder(maximum)
    datagrams = []
    for piece in pieces:
        datagrams += decoder.feed(piece)
    return datagrams, (decoder.received, decoder.damaged, decoder.oversize, decoder.resynchronised)


def swap(block):
    # Stands for a block cipher: a permutation that is its own inverse.
    return bytes(byte ^ 0x5A for byte in reversed(block))


def judge(heard):
    watch = beacon.BeaconWatch(1)
    return [watch.heard(counter, now_ms) for counter, now_ms in heard]


def open_frame(key, device_id, frame):
    from common.ccm import Ccm

    return envelope.open_frame(Ccm(key), device_id, frame)


OPERATIONS = {
    "encode": lambda name, values: getattr(device_codec, "encode_" + name)(*values),
    "decode": device_codec.decode,
    "encode_stream": framing.encode_stream,
    "decode_stream": framing.decode_stream,
    "crc16": framing.crc16,
    "feed": feed,
    "fragment": fragments.fragment,
    "reassemble": reassemble,
    "open_frame": open_frame,
    "up": topics.up,
    "down": topics.down,
    "parse_topic": topics.parse,
    "beacon_build": lambda *values: beacon.build(swap, *values),
    "beacon_find": beacon.find,
    "beacon_open": lambda device_id, token: beacon.open_token(swap, device_id, token),
    "beacon_judge": judge,
}


def answer(request):
    try:
        return {"ok": plain(OPERATIONS[request[0]](*[native(value) for value in request[1:]]))}
    except WireError as error:
        return {"refused": [error.reason, error.offset]}
    except Exception as error:
        return {"crashed": repr(error)}


def serve():
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        print(json.dumps(answer(json.loads(line))))


if __name__ == "__main__":
    serve()
