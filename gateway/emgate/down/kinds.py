"""Kinds of requests to devices: from JSON to wire messages, and which record of the device is the answer."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from emwire import codec, constants
from emwire.errors import WireError

from emgate.down.downlink import LONGEST_MESSAGE

MOST_MESSAGES = 1 + 32 * 4
"""Of one request: an order's conditions and 32 zones of 4 parts, the most that the protocol has."""


class RequestError(ValueError):
    """A request cannot be carried out as it is; the text says what to change."""


@dataclass(slots=True, frozen=True)
class Made:
    """A request in the language of the wire."""

    messages: tuple[bytes, ...]
    number: int  # by which the answer is known: command number, order or parameter version
    body: dict[str, Any]  # what was asked, with every default filled in


@dataclass(slots=True, frozen=True)
class Answer:
    """What a record says about a request. `final`: nothing more is to be expected."""

    final: bool
    result: dict[str, Any]


@dataclass(slots=True, frozen=True)
class Asked:
    """What a Kind needs to know of a request to make its messages."""

    body: Mapping[str, Any]
    expires_s: int  # time_s on the wire; 0 = never
    number: Callable[[], int]  # the next command number of the device


class Kind(Protocol):
    """One kind of request."""

    name: str
    replaces: bool  # a newer one of the kind takes the place of those not answered yet

    def make(self, asked: Asked) -> Made:
        """RequestError when it cannot be made."""
        ...

    def answer(self, number: int, body: Mapping[str, Any], message: codec.Message) -> Answer | None:
        """What the record says about the request with this number; None = nothing."""
        ...


def names(prefix: str) -> dict[str, int]:
    """Members of an enumeration of the catalogue by name."""
    return {name.removeprefix(prefix): value for name, value in vars(constants).items() if name.startswith(prefix)}


def _name(prefix: str, value: int) -> str | int:
    return next((name for name, number in names(prefix).items() if number == value), value)


def number_of(prefix: str, given: object, what: str) -> int:
    """The number of a member given by name; RequestError names the nearest."""
    known = names(prefix)
    if isinstance(given, str) and given.upper().replace("-", "_") in known:
        return known[given.upper().replace("-", "_")]
    near = difflib.get_close_matches(str(given).upper(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    raise RequestError(f"unknown {what} {given!r:.40}; {hint}")


def integer(body: Mapping[str, Any], key: str, lowest: int, highest: int, default: int | None = None) -> int:
    """An integer of a request's body within bounds."""
    value = body.get(key, default)
    if type(value) is not int or not lowest <= value <= highest:
        raise RequestError(f"{key} must be a whole number from {lowest} to {highest}, not {value!r:.40}")
    return value


def _only(body: Mapping[str, Any], *allowed: str) -> None:
    for key in body:
        if key not in allowed:
            raise RequestError(f"unknown key {key!r:.40}; known here: {', '.join(allowed)}")


I32 = (-(1 << 31), (1 << 31) - 1)


class CommandKind:
    """`command`: {"command": "LOCATE_NOW", "argument": 60}; answered by command_result."""

    name = "command"
    replaces = False

    def make(self, asked: Asked) -> Made:
        """One message, with the device's next command number."""
        _only(asked.body, "command", "argument", "commandNumber")
        kind = number_of("COMMAND_", asked.body.get("command"), "command")
        argument = integer(asked.body, "argument", *I32, default=0)
        given = "commandNumber" in asked.body  # by the backend, whose numbers are its own
        number = integer(asked.body, "commandNumber", 1, 0xFFFF_FFFF) if given else asked.number()
        message = codec.Command(number, kind, argument, asked.expires_s).encode()
        return Made((message,), number, {"command": _name("COMMAND_", kind), "argument": argument})

    def answer(self, number: int, body: Mapping[str, Any], message: codec.Message) -> Answer | None:
        """ACCEPTED is not final: another result follows."""
        if not isinstance(message, codec.CommandResult) or message.command_number != number:
            return None
        if _name("COMMAND_", message.command_kind) != body.get("command"):
            return None
        return Answer(
            message.outcome != constants.OUTCOME_ACCEPTED,
            {
                "commandNumber": number,
                "outcome": _name("OUTCOME_", message.outcome),
                "value": message.value,
                "detail": bytes(message.detail).hex(),
                "finishedTimeS": message.finished_time_s,
            },
        )


class ParametersKind:
    """`parameters`: {"version": 7, "parameters": {"FIX_INTERVAL_S": 30}}; answered by an event."""

    name = "parameters"
    replaces = False  # a later version need not name what an earlier one does; they go in order

    def make(self, asked: Asked) -> Made:
        """One message."""
        _only(asked.body, "version", "parameters")
        version = integer(asked.body, "version", 1, 0xFFFF)
        given = asked.body.get("parameters")
        if not isinstance(given, Mapping) or not given:
            raise RequestError('parameters must name at least one, for example {"FIX_INTERVAL_S": 30}')
        values = {number_of("PARAMETER_", name, "parameter"): integer(given, name, *I32) for name in given}
        try:
            message = codec.Parameters(version, sorted(values.items())).encode()
        except WireError as error:
            raise RequestError(f"these parameters do not fit one message: {error}; send them in several") from None
        named = {str(_name("PARAMETER_", number)): value for number, value in sorted(values.items())}
        return Made((message,), version, {"version": version, "parameters": named})

    def answer(self, number: int, body: Mapping[str, Any], message: codec.Message) -> Answer | None:
        """Applied, or refused as a whole."""
        if not isinstance(message, codec.Event) or message.value != number:
            return None
        outcomes = {
            constants.EVENT_PARAMETERS_APPLIED: "APPLIED",
            constants.EVENT_PARAMETERS_REFUSED: "REFUSED",
        }
        outcome = outcomes.get(message.event_type)
        if outcome is None:
            return None
        return Answer(True, {"version": number, "outcome": outcome, "detail": bytes(message.evidence).hex()})


class OrderKind:
    """`order`: {"messages": [hex, …]} of one activation and version; answered by an event."""

    name = "order"
    replaces = True

    def make(self, asked: Asked) -> Made:
        """The messages as given, checked: one order_conditions, all its zones and parts, one identity."""
        _only(asked.body, "messages")
        given = asked.body.get("messages")
        if not isinstance(given, list) or not 1 <= len(given) <= MOST_MESSAGES:
            raise RequestError(f"messages must be a list of 1 to {MOST_MESSAGES} hexadecimal strings")
        messages = tuple(_message(item) for item in given)
        decoded = [_decoded(message) for message in messages]
        conditions = [item for item in decoded if isinstance(item, codec.OrderConditions)]
        zones = [item for item in decoded if isinstance(item, codec.OrderZone)]
        if len(conditions) != 1 or len(conditions) + len(zones) != len(decoded):
            raise RequestError("an order is one order_conditions and any number of order_zone")
        head = conditions[0]
        if any((zone.activation_id, zone.order_version) != (head.activation_id, head.order_version) for zone in zones):
            raise RequestError("all messages of an order carry the same activation and version")
        there = {(zone.zone_number, zone.part_number) for zone in zones}
        parts = {zone.zone_number: zone.part_count for zone in zones}
        wanted = {(zone, part) for zone in range(head.zone_count) for part in range(parts.get(zone, 1))}
        if there != wanted or len(zones) != len(wanted):
            raise RequestError(f"the order announces {head.zone_count} zones: every part of each must be there once")
        return Made(
            messages, head.order_version, {"activationId": head.activation_id, "orderVersion": head.order_version}
        )

    def answer(self, number: int, body: Mapping[str, Any], message: codec.Message) -> Answer | None:
        """Taken, or refused. An order that only ends the one before is taken like any other."""
        if not isinstance(message, codec.Event) or message.value != number:
            return None
        outcomes = {
            constants.EVENT_ORDER_APPLIED: "APPLIED",
            constants.EVENT_ORDER_REFUSED: "REFUSED",
        }
        outcome = outcomes.get(message.event_type)
        evidence = bytes(message.evidence)
        if outcome is None or evidence[:4] != int(body["activationId"]).to_bytes(4, "little"):
            return None
        return Answer(True, {**body, "outcome": outcome, "detail": evidence.hex()})


def _message(value: object) -> bytes:
    try:
        message = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        message = b""
    if not 1 <= len(message) <= LONGEST_MESSAGE:
        raise RequestError(f"a message must be 1 to {LONGEST_MESSAGE} bytes in hexadecimal")
    return message


def _decoded(message: bytes) -> codec.Message:
    try:
        return codec.decode(message)
    except WireError as error:
        raise RequestError(f"a message of the order is malformed: {error}") from None


KINDS: tuple[Kind, ...] = (CommandKind(), OrderKind(), ParametersKind())
