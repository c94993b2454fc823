"""TCP payloads of captured packets in order: link layers, IPv4, IPv6, reassembly. Bounded memory.

Not understood, and counted: IP fragments, extension headers other than none, tunnels. A hole that is never filled (the
capture lost a packet) is told as soon as what waits behind it is more than a window, and at the end.
"""

from __future__ import annotations

import heapq
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import NamedTuple

from emgate.captures import pcap_file
from emgate.captures.pcap_file import Packet

# What waits behind a hole; a TCP window without scaling is 64 KiB, loopback uses a few of them.
MAXIMUM_WAITING = 1 << 20
# What a waiting segment costs besides its bytes.
OVERHEAD = 128
MAXIMUM_FLOWS = 4096

_IP4, _IP6 = 0x0800, 0x86DD
_VLAN_TAGS = (0x8100, 0x88A8)
_TCP = 6
_FIN, _SYN, _RST = 1, 2, 4


class Flow(NamedTuple):
    """One direction of a connection."""

    source: str  # address:port
    destination: str

    def reverse(self) -> Flow:
        """The other direction."""
        return Flow(self.destination, self.source)


class Piece(NamedTuple):
    """Something of a flow: bytes in order, a begin, or a hole."""

    flow: Flow
    kind: str  # "begin", "data" or "gap"
    time_us: int
    data: bytes
    offset: int  # of the data in the flow's stream


@dataclass(slots=True)
class _State:
    expected: int  # sequence number
    offset: int = 0
    waiting: list[tuple[int, int, bytes]] = field(default_factory=list)  # heap of offset, time, bytes
    waiting_bytes: int = 0


class TcpStreams:
    """Feeds on packets, gives pieces."""

    def __init__(self, counters: Counter[str]) -> None:
        self._flows: dict[Flow, _State] = {}
        self._counters = counters

    def feed(self, packet: Packet) -> Iterator[Piece]:
        """The pieces that became complete with this packet."""
        payload = _network(packet.link_type, packet.data)
        if payload is None:
            self._counters["packets without TCP"] += 1
            return
        try:
            segment = self._segment(*payload)
        except (IndexError, struct.error):
            self._counters["packets with damaged headers"] += 1
            return
        if segment:
            yield from self._arrived(packet.time_us, *segment)

    def finish(self) -> Iterator[Piece]:
        """What waits behind holes that nothing fills any more."""
        for flow, state in self._flows.items():
            while state.waiting:
                yield from self._jump(flow, state)
        self._flows.clear()

    def _segment(self, kind: int, data: bytes) -> tuple[Flow, int, int, bytes] | None:
        """Flow, sequence number, flags, payload."""
        if kind == _IP4:
            header = (data[0] & 15) * 4
            total, fragment, protocol = struct.unpack_from(">H2xHxB", data, 2)
            if fragment & 0x3FFF:
                self._counters["IP fragments"] += 1
                return None
            source, destination = data[12:16], data[16:20]
            # Zero where the network card cuts segments itself.
            end = total or len(data)
        elif kind == _IP6:
            header = 40
            total, protocol = struct.unpack_from(">HB", data, 4)
            source, destination = data[8:24], data[24:40]
            end = total + 40 if total else len(data)
        else:
            self._counters["packets without TCP"] += 1
            return None
        if protocol != _TCP:
            self._counters["packets without TCP"] += 1
            return None
        tcp = data[header:end]
        source_port, destination_port, sequence = struct.unpack_from(">HHI", tcp)
        start, flags = (tcp[12] >> 4) * 4, tcp[13]
        if header < 20 or start < 20:
            raise IndexError
        flow = Flow(_name(source, source_port), _name(destination, destination_port))
        return flow, sequence, flags, tcp[start:]

    def _arrived(self, time_us: int, flow: Flow, sequence: int, flags: int, data: bytes) -> Iterator[Piece]:
        state = self._flows.get(flow)
        if flags & _SYN:
            if state is None or state.expected != (sequence + 1) & 0xFFFFFFFF:
                yield from self._begin(flow, (sequence + 1) & 0xFFFFFFFF, time_us)
            return
        if state is None:
            if not data:
                return
            # The capture began in the middle.
            yield from self._begin(flow, sequence, time_us)
            state = self._flows[flow]
        if data:
            yield from self._data(flow, state, sequence, time_us, data)
        if flags & (_FIN | _RST) and flow in self._flows:
            while state.waiting:
                yield from self._jump(flow, state)
            if flags & _RST:
                del self._flows[flow]

    def _begin(self, flow: Flow, expected: int, time_us: int) -> Iterator[Piece]:
        old = self._flows.pop(flow, None)
        while old and old.waiting:
            yield from self._jump(flow, old)
        if len(self._flows) >= MAXIMUM_FLOWS:
            self._flows.pop(next(iter(self._flows)))
        self._flows[flow] = _State(expected)
        yield Piece(flow, "begin", time_us, b"", 0)

    def _data(self, flow: Flow, state: _State, sequence: int, time_us: int, data: bytes) -> Iterator[Piece]:
        ahead = (sequence - state.expected) & 0xFFFFFFFF
        if ahead >= 0x80000000:
            # Sent again: keep what is new of it.
            data = data[0x100000000 - ahead :]
            if not data:
                return
            ahead = 0
        if ahead:
            heapq.heappush(state.waiting, (state.offset + ahead, time_us, data))
            state.waiting_bytes += len(data) + OVERHEAD
            while state.waiting_bytes > MAXIMUM_WAITING:
                yield from self._jump(flow, state)
            return
        yield self._take(flow, state, time_us, data)
        yield from self._follow(flow, state)

    def _take(self, flow: Flow, state: _State, time_us: int, data: bytes) -> Piece:
        piece = Piece(flow, "data", time_us, data, state.offset)
        state.expected = (state.expected + len(data)) & 0xFFFFFFFF
        state.offset += len(data)
        return piece

    def _follow(self, flow: Flow, state: _State) -> Iterator[Piece]:
        """What waited and now has its place."""
        while state.waiting and state.waiting[0][0] <= state.offset:
            offset, time_us, data = heapq.heappop(state.waiting)
            state.waiting_bytes -= len(data) + OVERHEAD
            if fresh := data[state.offset - offset :]:
                yield self._take(flow, state, time_us, fresh)

    def _jump(self, flow: Flow, state: _State) -> Iterator[Piece]:
        """Over the hole in front of what waits."""
        offset, time_us, _ = state.waiting[0]
        yield Piece(flow, "gap", time_us, b"", state.offset)
        state.expected = (state.expected + offset - state.offset) & 0xFFFFFFFF
        state.offset = offset
        yield from self._follow(flow, state)


def _name(address: bytes, port: int) -> str:
    text = str(ip_address(address))
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _network(link_type: int, data: bytes) -> tuple[int, bytes] | None:
    """EtherType and packet of the network layer; None for what is no IP."""
    if link_type == pcap_file.ETHERNET:
        kind, start = int.from_bytes(data[12:14], "big"), 14
        while kind in _VLAN_TAGS:
            kind, start = int.from_bytes(data[start + 2 : start + 4], "big"), start + 4
        return kind, data[start:]
    if link_type == pcap_file.LINUX_SLL:
        return int.from_bytes(data[14:16], "big"), data[16:]
    if link_type == pcap_file.LINUX_SLL2:
        return int.from_bytes(data[:2], "big"), data[20:]
    if link_type in (pcap_file.NULL, pcap_file.LOOP):
        data = data[4:]
    elif link_type not in (
        pcap_file.RAW,
        pcap_file.RAW_BSD,
        pcap_file.RAW_OPENBSD,
        pcap_file.IPV4,
        pcap_file.IPV6,
    ):
        return None
    if not data:
        return None
    return {4: _IP4, 6: _IP6}.get(data[0] >> 4, 0), data
