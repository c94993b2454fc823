"""Runs on MicroPython: heap bytes that encoding and decoding a message take, and that the results alone need.

For each line [message, values] one line [encoding, what its bytes need, decoding, what its tuple needs].
"""

import gc
import json
import sys

from emwire import device_codec

CALLS = 8


def native(value):
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    if isinstance(value, list):
        return tuple(native(entry) for entry in value)
    return value


def taken(call, argument):
    return used(call, argument) - used(nothing, argument)


def used(call, argument):
    call(argument)  # so that nothing is measured that is only made once
    before = gc.mem_alloc()
    for _ in range(CALLS):
        call(argument)
    return (gc.mem_alloc() - before) // CALLS


def joined(value):
    return () + value  # noqa: RUF005 - a star goes through a list


def rebuilt(value):
    # What the result itself occupies: heap of a copy, made of parts that exist already.
    if isinstance(value, tuple):
        total = taken(joined, value)
        for entry in value:
            total += rebuilt(entry)
        return total
    if isinstance(value, bytes):
        return taken(bytes, bytearray(value))
    return 0  # integers of these messages are small on a 64-bit port


def nothing(argument):
    return None


def spreading(function, count):
    """A function of one tuple that calls `function` with its parts; a star would make a tuple of its own."""
    names = {"function": function}
    arguments = ", ".join(f"given[{index}]" for index in range(count))
    exec(f"def spread(given):\n    return function({arguments})\n", names)
    return names["spread"]


def serve():
    gc.disable()
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        name, values = json.loads(line)
        arguments = tuple(native(value) for value in values)
        encode = spreading(getattr(device_codec, "encode_" + name), len(arguments))
        encoded = encode(arguments)
        decoded = device_codec.decode(encoded)
        answer = [taken(encode, arguments), rebuilt(encoded), taken(device_codec.decode, encoded), rebuilt(decoded)]
        print(json.dumps(answer))
        gc.collect()


serve()
