"""The rivals of bench_codec.py: one message of integers and at most one byte string at its end, in other codecs.

Each is given as the source of what its users would write, so that the timed loop holds that and nothing else. What a
code generator would write (Kaitai, protobuf) is made here at run time from the catalogue.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cbor2
import construct as c
import kaitaistruct
import msgspec
from emwire import catalogue, codec
from emwire.fields import Integer, Message, PrefixedBytes
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import api_implementation

_CONSTRUCT = {
    "B": c.Int8ul,
    "H": c.Int16ul,
    "HB": c.Int24ul,
    "I": c.Int32ul,
    "b": c.Int8sl,
    "h": c.Int16sl,
    "i": c.Int32sl,
}
_KAITAI = {"B": "u1", "H": "u2le", "I": "u4le", "b": "s1", "h": "s2le", "i": "s4le"}

Timed = Callable[[int, Callable[[], int]], int]


@dataclass
class Rival:
    """Source over `data`, `message` and the field names; `names` are what else it uses."""

    parse: str  # expression of `data`
    read: str  # expression of one field, with {} for its name
    make: str  # expression of the fields' values: an object that can be built
    build: str  # expression of `message`: bytes
    names: dict[str, Any]

    def loop(self, fields: list[str], body: list[str], **given: Any) -> Timed:
        """timed(count, clock): what `count` runs of the body take by the clock."""
        lines = [f"def timed(count, clock, {', '.join(f'{name}={name}' for name in {**self.names, **given})}):"]
        lines += [" start = clock()", " for _ in range(count):", *(f"  {line}" for line in body)]
        lines += [" return clock() - start"]
        scope = {**self.names, **given}
        exec("\n".join(lines), scope)
        return scope["timed"]  # type: ignore[no-any-return]

    def parsing(self, values: dict[str, Any], data: bytes) -> Timed:
        """bytes to every field read once."""
        body = [f"message = {self.parse}", *(self.read.format(name) for name in values)]
        return self.loop(list(values), body, data=data)

    def building(self, values: dict[str, Any]) -> Timed:
        """An object that has its values, to bytes."""
        return self.loop(list(values), [self.build], message=self.evaluate(self.make, **values))

    def making(self, values: dict[str, Any]) -> Timed:
        """Values to bytes."""
        return self.loop(list(values), [f"message = {self.make}", self.build], **values)

    def evaluate(self, expression: str, **given: Any) -> Any:
        """Value of one of the expressions."""
        return eval(expression, {**self.names, **given})

    def encoded(self, values: dict[str, Any]) -> bytes:
        """The message as this codec writes it, proved by reading it back."""
        data = bytes(self.evaluate(self.build, message=self.evaluate(self.make, **values)))
        message = self.evaluate(self.parse, data=data)
        assert {name: self.evaluate(self.read.format(name), message=message) for name in values} == values
        return data


def _positional(message: Message) -> str:
    return ", ".join(name for name, _ in message.fields)


def _mapping(message: Message) -> str:
    return f"{{{', '.join(f'{name!r}: {name}' for name, _ in message.fields)}}}"


def _generated(message: Message) -> Rival:
    names = {"decode": codec.decode, "Class": getattr(codec, message.class_name)}
    return Rival("decode(data)", "message.{}", f"Class({_positional(message)})", "message.encode()", names)


def _catalogue(message: Message) -> Rival:
    names = {"parse": catalogue.parse, "build": catalogue.build, "name": message.name}
    return Rival("parse(data)[1]", "message['{}']", _mapping(message), "build(name, message)", names)


def _construct(message: Message, compiled: bool) -> Rival:
    subcons = ["message_type" / c.Const(message.message_type, c.Int8ul)]
    for name, field in message.fields:
        kind = _CONSTRUCT[field.code] if isinstance(field, Integer) else c.Prefixed(c.Int8ul, c.GreedyBytes)
        subcons.append(name / kind)
    declaration = c.Struct(*subcons, c.Terminated)
    if compiled:
        declaration = declaration.compile()
    names = {"parse": declaration.parse, "build": declaration.build}
    return Rival("parse(data)", "message['{}']", _mapping(message), "build(message)", names)


def _protobuf(message: Message) -> Rival:
    if api_implementation.Type() != "upb":
        raise RuntimeError(f"protobuf runs on {api_implementation.Type()}, not upb")
    file = descriptor_pb2.FileDescriptorProto(name=f"{message.name}.proto", package="bench", syntax="proto3")
    entry = file.message_type.add(name=message.class_name)
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, (name, field) in enumerate(message.fields, 1):
        kind = kinds.TYPE_BYTES
        if isinstance(field, Integer):
            kind = kinds.TYPE_SINT32 if field.signed else kinds.TYPE_UINT32
        entry.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    cls: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"bench.{message.class_name}"))
    keywords = ", ".join(f"{name}={name}" for name, _ in message.fields)
    names = {"Class": cls, "parse": cls.FromString}
    return Rival("parse(data)", "message.{}", f"Class({keywords})", "message.SerializeToString()", names)


def _msgspec(message: Message) -> Rival:
    kinds = [(name, int if isinstance(field, Integer) else bytes) for name, field in message.fields]
    cls = msgspec.defstruct(message.class_name, kinds, array_like=True, gc=False)
    names = {
        "Class": cls,
        "parse": msgspec.msgpack.Decoder(cls).decode,
        "build": msgspec.msgpack.Encoder().encode,
    }
    return Rival("parse(data)", "message.{}", f"Class({_positional(message)})", "build(message)", names)


def _cbor(message: Message) -> Rival:
    names = {"parse": cbor2.loads, "build": cbor2.dumps}
    return Rival("parse(data)", "message['{}']", _mapping(message), "build(message)", names)


def _kaitai(message: Message) -> Rival:
    reads, writes, sizes, size = [], [], [], "1"
    for name, field in message.fields:
        if isinstance(field, PrefixedBytes):
            reads += [f"self.{name}_size = self._io.read_u1()", f"self.{name} = self._io.read_bytes(self.{name}_size)"]
            writes += [f"self._io.write_u1(self.{name}_size)", f"self._io.write_bytes(self.{name})"]
            sizes.append(f"made.{name}_size = len({name})")
            size += f" + 1 + message.{name}_size"
        else:
            reads.append(f"self.{name} = self._io.read_{_KAITAI[field.code]}()")
            writes.append(f"self._io.write_{_KAITAI[field.code]}(self.{name})")
            size += f" + {field.bits // 8}"
    constant = bytes([message.message_type])
    source = "\n".join(
        [
            "class Class(ReadWriteKaitaiStruct):",
            " def __init__(self, _io=None, _parent=None, _root=None):",
            "  super().__init__(_io)",
            "  self._parent = _parent",
            "  self._root = _root or self",
            " def _read(self):",
            "  self.message_type = self._io.read_bytes(1)",
            f"  if self.message_type != {constant!r}:",
            "   raise ValueError(self.message_type)",
            *(f"  {line}" for line in reads),
            "  self._dirty = False",
            " def _check(self):",
            "  self._dirty = False",
            " def _fetch_instances(self):",
            "  pass",
            " def _write__seq(self, io=None):",
            "  super()._write__seq(io)",
            f"  self._io.write_bytes({constant!r})",
            *(f"  {line}" for line in writes),
            "def parse(data):",
            " made = Class(KaitaiStream(BytesIO(data)))",
            " made._read()",
            " return made",
            f"def make({_positional(message)}):",
            " made = Class()",
            *(f" made.{name} = {name}" for name, _ in message.fields),
            *(f" {line}" for line in sizes),
            " made._check()",
            " return made",
            "def build(message):",
            f" stream = KaitaiStream(BytesIO(bytes({size})))",
            " message._write(stream)",
            " return stream.to_byte_array()",
        ]
    )
    names: dict[str, Any] = {
        "ReadWriteKaitaiStruct": kaitaistruct.ReadWriteKaitaiStruct,
        "KaitaiStream": kaitaistruct.KaitaiStream,
        "BytesIO": io.BytesIO,
    }
    exec(source, names)
    made = {name: names[name] for name in ("parse", "make", "build")}
    return Rival("parse(data)", "message.{}", f"make({_positional(message)})", "build(message)", made)


def rivals(message: Message) -> dict[str, Rival]:
    """All of them by name, the generated codec first."""
    return {
        "emtag": _generated(message),
        "Construct": _construct(message, compiled=False),
        "Construct, compiled": _construct(message, compiled=True),
        "Construct with emtag's checks": _catalogue(message),
        "protobuf (upb)": _protobuf(message),
        "msgspec (MessagePack)": _msgspec(message),
        "cbor2": _cbor(message),
        "kaitaistruct": _kaitai(message),
    }
