# The device's end of the rig's wire: standard input and output are a socket to the rig.
# Format: rig_wire.py, which the rig puts on the module path.
import struct
import sys

from rig_wire import (
    CALL,
    CHANNELS,
    HEADER_FORMAT,
    HEADER_SIZE,
    MAXIMUM_PAYLOAD,
    NOTIFY,
    NOW,
    REPLY,
    TIME_FORMAT,
    WAIT,
)

_NUMBERS = {name: number for number, name in enumerate(CHANNELS)}
_input = sys.stdin.buffer
_output = sys.stdout.buffer
_callbacks = {}
_batch = []


def connect(line):
    """Take another line to the rig: line.read(count) -> exactly so many bytes, line.write(data)."""
    global _input, _output
    _input = _output = line


def on(channel, callback):
    """callback(operation, payload) for every message of this channel; runs between tasks, at the rig's now.

    The operation of a NOTIFY is its own; of other messages it is their kind (DATA, PIN).
    """
    _callbacks[_NUMBERS[channel]] = callback


def send(kind, channel, payload):
    """One message to the rig, at once."""
    number = _NUMBERS[channel]
    for start in range(0, max(len(payload), 1), MAXIMUM_PAYLOAD):
        part = payload[start : start + MAXIMUM_PAYLOAD]
        _output.write(struct.pack(HEADER_FORMAT, len(part), kind, number) + part)


def call(channel, operation, argument=b""):
    """Ask the rig and block for its answer; no virtual time passes."""
    send(CALL, channel, bytes((operation,)) + argument)
    kind, _, payload = _read()
    if kind != REPLY:
        raise OSError("the rig spoke out of turn")
    return payload


def wait(deadline_ms):
    """Block until the rig names the time, returned in ms; the input that came with it waits for hand_out()."""
    send(WAIT, "control", struct.pack(TIME_FORMAT, deadline_ms))
    while True:
        kind, number, payload = _read()
        if kind == NOW:
            return struct.unpack(TIME_FORMAT, payload)[0]
        _batch.append((kind, number, payload))


def hand_out():
    """Run the callbacks of the input that came with the last wait()."""
    while _batch:
        kind, number, payload = _batch.pop(0)
        callback = _callbacks.get(number)
        if callback:
            if kind == NOTIFY:
                callback(payload[0], payload[1:])
            else:
                callback(kind, payload)


def _read():
    header = _input.read(HEADER_SIZE)
    if not header or len(header) < HEADER_SIZE:
        raise SystemExit  # the rig is gone
    length, kind, number = struct.unpack(HEADER_FORMAT, header)
    return kind, number, _input.read(length) if length else b""
