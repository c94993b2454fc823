"""Public names of what the backend stores: the vocabulary of the Ministry of Justice public services.

Numbers come from the wire (emwire.constants); names, codes and spellings from the published services where those
have one. Codes marked `ours` have no public counterpart and follow the pattern of the one published event code.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from emwire import constants as wire

# MoJ data service: battery reports carry this code with the percentage in the status flags.
EV_BATTERY_PERCENTAGE = "EV_REPORT_TRACKER_BATTERY_PERCENTAGE"
BATTERY_EVENT_TYPE_ID = 1001  # ours: outside the wire's u16 enumeration in use, so that the two never meet


class Criticality(StrEnum):
    """eventTypeCriticality."""

    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


@dataclass(frozen=True, slots=True)
class EventType:
    """eventTypeId, eventTypeName, eventTypeCode, eventTypeCriticality."""

    event_type_id: int
    name: str
    code: str
    criticality: Criticality


def _event(number: int, name: str, code: str, criticality: Criticality) -> tuple[int, EventType]:
    return number, EventType(number, name, code, criticality)


EVENT_TYPES: dict[int, EventType] = dict(
    [
        _event(wire.EVENT_STRAP_CUT, "Strap cut", "EV_STRAP_CUT", Criticality.HIGH),
        _event(wire.EVENT_STRAP_RESTORED, "Strap restored", "EV_STRAP_RESTORED", Criticality.HIGH),
        _event(wire.EVENT_CASE_OPEN, "Case open", "EV_CASE_OPEN", Criticality.HIGH),
        _event(wire.EVENT_HOME_UNIT_MOVED, "HMU moved", "EV_HMU_MOVED", Criticality.HIGH),
        _event(wire.EVENT_MAINS_LOST, "HMU mains to battery power", "EV_HMU_MAINS_LOST", Criticality.MEDIUM),
        _event(wire.EVENT_MAINS_RESTORED, "HMU mains power restored", "EV_HMU_MAINS_RESTORED", Criticality.LOW),
        _event(wire.EVENT_BATTERY_LOW, "Battery low", "EV_BATTERY_LOW", Criticality.MEDIUM),
        _event(wire.EVENT_BATTERY_CRITICAL, "Battery nearly empty", "EV_BATTERY_CRITICAL", Criticality.HIGH),
        _event(wire.EVENT_CHARGE_STARTED, "Charging started", "EV_CHARGE_STARTED", Criticality.LOW),
        _event(wire.EVENT_CHARGE_STOPPED, "Charging stopped", "EV_CHARGE_STOPPED", Criticality.LOW),
        _event(wire.EVENT_STRAP_FAULT, "Strap fault", "EV_STRAP_FAULT", Criticality.MEDIUM),
        _event(wire.EVENT_BEACON_COPIED, "Beacon copied", "EV_BEACON_COPIED", Criticality.HIGH),
        _event(wire.EVENT_CLOCK_JUMPED, "Clock corrected", "EV_CLOCK_JUMPED", Criticality.LOW),
        _event(wire.EVENT_RESET, "Device restarted", "EV_RESET", Criticality.LOW),
        _event(wire.EVENT_SELF_TEST_FAILED, "Self test failed", "EV_SELF_TEST_FAILED", Criticality.MEDIUM),
        _event(wire.EVENT_RECEIVER_DEAF, "Receiver deaf", "EV_RECEIVER_DEAF", Criticality.LOW),
        _event(wire.EVENT_WAN_LOST, "Network lost", "EV_WAN_LOST", Criticality.LOW),
        _event(wire.EVENT_WAN_RESTORED, "Network restored", "EV_WAN_RESTORED", Criticality.LOW),
        _event(wire.EVENT_GNSS_FAULT, "Satellite receiver fault", "EV_GNSS_FAULT", Criticality.MEDIUM),
        _event(wire.EVENT_NO_FIX, "No position", "EV_NO_FIX", Criticality.LOW),
        _event(wire.EVENT_CHARGE_FAILED, "Charging failed", "EV_CHARGE_FAILED", Criticality.MEDIUM),
        _event(wire.EVENT_SHIELDING_SUSPECTED, "Shielding suspected", "EV_SHIELDING_SUSPECTED", Criticality.HIGH),
        _event(wire.EVENT_SHIELDING_ENDED, "Shielding ended", "EV_SHIELDING_ENDED", Criticality.LOW),
        _event(wire.EVENT_GNSS_JAMMING_SUSPECTED, "GNSS jamming suspected", "EV_GNSS_JAMMING", Criticality.HIGH),
        _event(wire.EVENT_GNSS_JAMMING_ENDED, "GNSS jamming ended", "EV_GNSS_JAMMING_ENDED", Criticality.LOW),
        _event(wire.EVENT_MOTION_WITHOUT_GNSS, "Motion without GNSS", "EV_MOTION_NO_GNSS", Criticality.MEDIUM),
        _event(wire.EVENT_ZONE_ENTERED, "Zone entered", "EV_ZONE_ENTERED", Criticality.HIGH),
        _event(wire.EVENT_ZONE_LEFT, "Zone left", "EV_ZONE_LEFT", Criticality.HIGH),
        _event(wire.EVENT_CASE_CLOSED, "Case closed", "EV_CASE_CLOSED", Criticality.HIGH),
        _event(wire.EVENT_CELLULAR_JAMMING_SUSPECTED, "Cellular jamming suspected", "EV_JAMMING", Criticality.HIGH),
        _event(wire.EVENT_SELF_TEST_PASSED, "Self test passed", "EV_SELF_TEST_PASSED", Criticality.LOW),
        _event(wire.EVENT_ORDER_APPLIED, "Order in force on the device", "EV_ORDER_APPLIED", Criticality.LOW),
        _event(wire.EVENT_ORDER_REFUSED, "Order refused by the device", "EV_ORDER_REFUSED", Criticality.MEDIUM),
        _event(wire.EVENT_ORDER_ENDED, "Order ended on the device", "EV_ORDER_ENDED", Criticality.LOW),
        _event(wire.EVENT_PARAMETERS_APPLIED, "Parameters in force", "EV_PARAMETERS_APPLIED", Criticality.LOW),
        _event(wire.EVENT_PARAMETERS_REFUSED, "Parameters refused", "EV_PARAMETERS_REFUSED", Criticality.MEDIUM),
        _event(wire.EVENT_CURFEW_LEFT_HOME, "HMU: left home during curfew", "EV_CURFEW_LEFT", Criticality.HIGH),
        _event(wire.EVENT_CURFEW_OUT_AT_START, "HMU: out at curfew start", "EV_CURFEW_OUT_START", Criticality.HIGH),
        _event(wire.EVENT_CURFEW_RETURNED, "HMU: came home in curfew", "EV_CURFEW_RETURNED", Criticality.MEDIUM),
        _event(wire.EVENT_CURFEW_OUT_AT_END, "HMU: out at curfew end", "EV_CURFEW_OUT_END", Criticality.HIGH),
        _event(wire.EVENT_CURFEW_UNKNOWN, "HMU: home or out unknown", "EV_CURFEW_UNKNOWN", Criticality.MEDIUM),
        _event(wire.EVENT_CURFEW_KNOWN_AGAIN, "HMU: known at home again", "EV_CURFEW_KNOWN", Criticality.LOW),
        _event(wire.EVENT_SAFE_MODE, "Device in safe mode", "EV_SAFE_MODE", Criticality.HIGH),
        _event(wire.EVENT_CONTACT_LOST, "Alcohol tag off the skin", "EV_CONTACT_LOST", Criticality.HIGH),
        _event(wire.EVENT_CONTACT_RESTORED, "Alcohol tag in contact again", "EV_CONTACT_RESTORED", Criticality.LOW),
        _event(wire.EVENT_CELL_FAULT, "Alcohol cell fault", "EV_CELL_FAULT", Criticality.MEDIUM),
        _event(wire.EVENT_CELL_RESTORED, "Alcohol cell works again", "EV_CELL_RESTORED", Criticality.LOW),
        _event(wire.EVENT_WEARER_PROMPTED, "Wearer prompted", "EV_WEARER_PROMPTED", Criticality.LOW),
        _event(wire.EVENT_BEACON_BATTERY_LOW, "PID battery low", "EV_PID_BATTERY_LOW", Criticality.MEDIUM),
        _event(wire.EVENT_TASK_STUCK, "Device hangs", "EV_TASK_STUCK", Criticality.MEDIUM),
        _event(wire.EVENT_CHARGE_RECOVERED, "Charging works again", "EV_CHARGE_RECOVERED", Criticality.LOW),
        _event(wire.EVENT_POSITION_DOUBTED, "Position doubted", "EV_POSITION_DOUBTED", Criticality.LOW),
        _event(wire.EVENT_DOCKED, "Docked at home", "EV_DOCKED", Criticality.LOW),
        _event(wire.EVENT_UNDOCKED, "Undocked", "EV_UNDOCKED", Criticality.LOW),
        _event(wire.EVENT_CELLULAR_JAMMING_ENDED, "Cellular jamming ended", "EV_JAMMING_ENDED", Criticality.LOW),
        _event(wire.EVENT_MOTION_GNSS_RESTORED, "GNSS in motion restored", "EV_MOTION_GNSS", Criticality.LOW),
        _event(wire.EVENT_POSITIONS_DAMAGED, "Positions damaged", "EV_POSITIONS_DAMAGED", Criticality.LOW),
        _event(wire.EVENT_GATEWAY_STARTED, "Gateway started", "EV_GATEWAY_STARTED", Criticality.LOW),
        _event(wire.EVENT_GATEWAY_LINK_LOST, "Gateway link lost", "EV_GATEWAY_LINK_LOST", Criticality.MEDIUM),
        _event(wire.EVENT_GATEWAY_LINK_RESTORED, "Gateway link back", "EV_GATEWAY_LINK_RESTORED", Criticality.LOW),
        _event(wire.EVENT_GATEWAY_WRONG_DEVICE, "No tag on a link", "EV_GATEWAY_WRONG_DEVICE", Criticality.MEDIUM),
        _event(wire.EVENT_GATEWAY_ADAPTER_RESET, "Gateway radio reset", "EV_GATEWAY_ADAPTER_RESET", Criticality.LOW),
        _event(wire.EVENT_GATEWAY_FLOOD, "Gateway flooded", "EV_GATEWAY_FLOOD", Criticality.MEDIUM),
        _event(wire.EVENT_GATEWAY_CLOCK_STEPPED, "Gateway clock jumped", "EV_GATEWAY_CLOCK", Criticality.MEDIUM),
        _event(wire.EVENT_GATEWAY_RECORDS_LOST, "Gateway lost records", "EV_GATEWAY_RECORDS_LOST", Criticality.HIGH),
        _event(wire.EVENT_GATEWAY_HEARS_NOTHING, "Gateway hears nothing", "EV_GATEWAY_SILENCE", Criticality.HIGH),
        _event(wire.EVENT_GATEWAY_HEARS_AGAIN, "Gateway hears again", "EV_GATEWAY_SILENCE_END", Criticality.LOW),
        _event(wire.EVENT_GATEWAY_GROUP_CHANGED, "Gateways of a fleet", "EV_GATEWAY_GROUP", Criticality.LOW),
        _event(wire.EVENT_GATEWAY_TARGET_MISSED, "Target missed records", "EV_GATEWAY_TARGET", Criticality.MEDIUM),
        _event(BATTERY_EVENT_TYPE_ID, "Battery percentage", EV_BATTERY_PERCENTAGE, Criticality.LOW),
    ]
)


def event_type(number: int) -> EventType:
    """The event type, or one that says it is unknown: a newer device may send what this backend has no name for."""
    known = EVENT_TYPES.get(number)
    return known or EventType(number, f"Unknown event {number}", f"EV_UNKNOWN_{number}", Criticality.LOW)


MODEL_NAMES = {
    wire.MODEL_ANKLE_GPS: "ankle_gps",
    wire.MODEL_HOME_UNIT: "home_unit",
    wire.MODEL_ALCOHOL: "alcohol",
    wire.MODEL_PID: "pid",
}
AUTHENTICITY_NAMES = {
    wire.AUTHENTICITY_UNKNOWN: "UNKNOWN",
    wire.AUTHENTICITY_AUTHENTIC: "AUTHENTIC",
    wire.AUTHENTICITY_COPIED: "COPIED",
    wire.AUTHENTICITY_REPLAYED: "REPLAYED",
}
GAP_CAUSES = {
    wire.GAP_STORAGE_FULL: "STORAGE_FULL",
    wire.GAP_STORAGE_DAMAGED: "STORAGE_DAMAGED",
    wire.GAP_RADIO_DEAF: "RADIO_DEAF",
    wire.GAP_RESET: "RESET",
}
MECHANISM_NAMES = {
    wire.MECHANISM_GPS: "GPS",
    wire.MECHANISM_RF: "RF",
    wire.MECHANISM_LBS: "LBS",
    wire.MECHANISM_WIFI: "WIFI",
}
QUALITY_BITS = {
    wire.QUALITY_CONTACT_LOST: "CONTACT_LOST",
    wire.QUALITY_WET_SENSOR: "WET_SENSOR",
    wire.QUALITY_INTERFERENT_SUSPECTED: "INTERFERENT_SUSPECTED",
    wire.QUALITY_TEMPERATURE_OUT_OF_RANGE: "TEMPERATURE_OUT_OF_RANGE",
    wire.QUALITY_CELL_FAULT: "CELL_FAULT",
    wire.QUALITY_CONTACT_FAULT: "CONTACT_FAULT",
}


class AlertCode(StrEnum):
    """Published alert codes. A category without one (zones, alcohol, tag tampers) has alertCode null."""

    AL04 = "AL04"
    AL05 = "AL05"
    AL08 = "AL08"
    AL09 = "AL09"
    AL10 = "AL10"
    AL11 = "AL11"
    AL12 = "AL12"
    AL21 = "AL21"
    AL23 = "AL23"
    AL24 = "AL24"


ALERT_NAMES = {
    AlertCode.AL04: "Power off of curfew equipment at home",
    AlertCode.AL05: "Home monitoring unit moved",
    AlertCode.AL08: "Out past curfew commencement",
    AlertCode.AL09: "Returned home late",
    AlertCode.AL10: "Left home during curfew",
    AlertCode.AL11: "Out at end of curfew",
    AlertCode.AL12: "Out for entire curfew period",
    AlertCode.AL21: "Non-charged device low battery",
    AlertCode.AL23: "Charged device battery dead",
    AlertCode.AL24: "Fault with device (non-tamper)",
}


class Category(StrEnum):
    """What a violation is about. Tamper names as published; the last five are ours."""

    CURFEW = "Curfew"
    EXCLUSION_ZONE = "Exclusion zone"
    ALCOHOL = "Alcohol"
    STRAP_CUT = "Strap cut"
    CASE_OPEN = "Case open"
    HMU_MOVED = "HMU moved"
    HMU_MAINS = "HMU mains to battery power"
    BATTERY = "Battery"
    DEVICE_FAULT = "Device fault"
    BEACON_COPIED = "Beacon copied"
    ALCOHOL_CONTACT = "Alcohol sensor contact"
    ALCOHOL_INTERFERENT = "Alcohol interferent"


class State(StrEnum):
    """State of a violation. WITHDRAWN: later evidence showed that it was not so; kept because it was raised."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"
    WITHDRAWN = "WITHDRAWN"


class Certainty(StrEnum):
    """VIOLATION is raised as an alert; POSSIBLE and INFORMATION are violation events only."""

    VIOLATION = "VIOLATION"
    POSSIBLE = "POSSIBLE"
    INFORMATION = "INFORMATION"


def unix_ms(wire_time_s: int) -> int | None:
    """Wire time (seconds since 2010, 0 unknown) as unix milliseconds."""
    return (wire_time_s + wire.TIME_EPOCH_UNIX_S) * 1000 if wire_time_s else None


def iso(unix_milliseconds: int | None) -> str | None:
    """Unix milliseconds as ISO 8601 UTC with milliseconds where there are any."""
    if unix_milliseconds is None:
        return None
    moment = datetime.fromtimestamp(unix_milliseconds // 1000, UTC).replace(microsecond=unix_milliseconds % 1000 * 1000)
    text = moment.isoformat(timespec="milliseconds" if unix_milliseconds % 1000 else "seconds")
    return text.replace("+00:00", "Z")
