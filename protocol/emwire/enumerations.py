"""The enumerations of the catalogue: what the numbers in its fields are called. Members are only ever appended."""

from __future__ import annotations

from emwire.fields import Enumeration

VOCABULARY = "MoJ electronic monitoring vocabulary"

DEVICE_MODEL = Enumeration(
    "device_model",
    "MODEL",
    "Kind of device.",
    "emtag",
    (
        ("ANKLE_GPS", 1, "Ankle tag with GNSS and cellular"),
        ("HOME_UNIT", 2, "Home monitoring unit (HMU)"),
        ("ALCOHOL", 3, "Transdermal alcohol tag"),
        ("PID", 4, "Personal identification device, the RF tag a home unit hears"),
    ),
)
RESET_CAUSE = Enumeration(
    "reset_cause",
    "RESET",
    "Why the device started.",
    "MicroPython machine.reset_cause()",
    (
        ("UNKNOWN", 0, "Not known"),
        ("POWER_ON", 1, "Power was applied"),
        ("HARD", 2, "Reset pin or command"),
        ("WATCHDOG", 3, "The watchdog was not fed"),
        ("DEEP_SLEEP", 4, "Woke from deep sleep"),
        ("SOFT", 5, "Restart by the firmware itself"),
        ("BROWNOUT", 6, "Supply voltage fell too low"),
    ),
)
CLOCK_SOURCE = Enumeration(
    "clock_source",
    "CLOCK",
    "What last set the device's clock.",
    "emtag",
    (
        ("UNKNOWN", 0, "Never set since the boot: time is unknown"),
        ("GNSS", 1, "Satellite time"),
        ("NETWORK", 2, "Cellular network time"),
        ("GATEWAY", 3, "A time message of the gateway"),
        ("RETAINED", 4, "Kept by the device over a reset"),
    ),
)
CAPABILITY = Enumeration(
    "capabilities",
    "CAPABILITY",
    "What the device has fitted.",
    "emtag",
    (
        ("GNSS", 1, "Satellite receiver"),
        ("CELLULAR", 2, "Cellular modem"),
        ("BLE", 4, "Bluetooth LE data link"),
        ("SERIAL", 8, "Serial data link"),
        ("BEACON_SENDER", 16, "Sends presence beacons"),
        ("BEACON_RECEIVER", 32, "Hears presence beacons"),
        ("ALCOHOL_CELL", 64, "Transdermal alcohol cell"),
        ("STRAP", 128, "Strap continuity sensor"),
        ("CASE", 256, "Case switch"),
        ("MAINS", 512, "Runs on mains with a battery behind"),
        ("VIBRATION", 1024, "Can alert the wearer by vibration"),
        ("MOTION", 2048, "Motion sensor"),
    ),
    flags=True,
)
AUTHENTICITY = Enumeration(
    "authenticity",
    "AUTHENTICITY",
    "Judgement of the beacon that was heard.",
    "emtag",
    (
        ("UNKNOWN", 0, "Nothing heard, or no key to judge by"),
        ("AUTHENTIC", 1, "Opened with the device's key, counter fresh"),
        ("COPIED", 2, "The same token heard again later, or two counters advancing at once"),
        ("REPLAYED", 3, "A token from the past"),
    ),
)
STRAP = Enumeration(
    "strap",
    "STRAP",
    "State of a strap.",
    "emtag",
    (("CLOSED", 0, "Closed"), ("OPEN", 1, "Open"), ("UNKNOWN", 255, "Not heard, or not fitted")),
)
QUALITY = Enumeration(
    "quality",
    "QUALITY",
    "Doubts about an alcohol reading.",
    "emtag",
    (
        ("CONTACT_LOST", 1, "Infrared contact differs from its own baseline"),
        ("WET_SENSOR", 2, "Sensor wet: noise"),
        ("INTERFERENT_SUSPECTED", 4, "Fast isolated spike: perfume, cleaning fluid"),
        ("TEMPERATURE_OUT_OF_RANGE", 8, "Skin temperature outside the cell's range"),
        ("CELL_FAULT", 16, "The cell failed its own check"),
    ),
    flags=True,
)
EVENT_TYPE = Enumeration(
    "event_type",
    "EVENT",
    "What the device saw.",
    "emtag; names after the " + VOCABULARY,
    (
        ("STRAP_CUT", 1, "Strap opened"),
        ("STRAP_RESTORED", 2, "Strap closed again"),
        ("CASE_OPEN", 3, "Case opened"),
        ("HOME_UNIT_MOVED", 4, "Home unit moved"),
        ("MAINS_LOST", 5, "Mains power lost"),
        ("MAINS_RESTORED", 6, "Mains power back"),
        ("BATTERY_LOW", 7, "Battery low; value: percent"),
        ("BATTERY_CRITICAL", 8, "Battery nearly empty; value: percent"),
        ("CHARGE_STARTED", 9, "Charger connected"),
        ("CHARGE_STOPPED", 10, "Charger disconnected"),
        ("STRAP_FAULT", 11, "Strap flickers: a fault of the device, not a cut; value: edges seen"),
        ("BEACON_COPIED", 12, "Another sender uses the pid's beacons"),
        ("CLOCK_JUMPED", 13, "Clock corrected; value: milliseconds"),
        ("RESET", 14, "Device restarted; value: reset cause"),
        ("SELF_TEST_FAILED", 15, "Self test failed"),
        ("RECEIVER_DEAF", 16, "Radio receiver did not listen; value: seconds"),
        ("WAN_LOST", 17, "Wide area link lost"),
        ("WAN_RESTORED", 18, "Wide area link back; value: seconds without"),
        ("GNSS_FAULT", 19, "Satellite receiver gives no sense"),
        ("NO_FIX", 20, "Receiver works, no position: when begun, hourly, when over; value: seconds without"),
        ("CHARGE_FAILED", 21, "Charger connected, battery does not charge: a fault, not the wearer; value: mV"),
        ("SHIELDING_SUSPECTED", 22, "Satellites and cell lost together without ordinary cause; value: seconds"),
        ("SHIELDING_ENDED", 23, "Satellites or cell back; value: seconds it lasted"),
        ("GNSS_JAMMING_SUSPECTED", 24, "Satellite receiver reports jamming; value: its indicator"),
        ("GNSS_JAMMING_ENDED", 25, "Jamming no longer reported; value: seconds it lasted"),
        ("MOTION_WITHOUT_GNSS", 26, "Moves, but has no position; value: seconds of motion"),
        ("ZONE_ENTERED", 27, "Position inside a zone of the order; value: zone number; evidence: order version u16"),
        ("ZONE_LEFT", 28, "Position outside a zone again; value: zone number; evidence: order version u16"),
        ("CASE_CLOSED", 29, "Case closed again"),
        ("CELLULAR_JAMMING_SUSPECTED", 30, "Strong signal, yet no cell can be read; value: seconds"),
        ("SELF_TEST_PASSED", 31, "Self test passed"),
        ("ORDER_APPLIED", 32, "An order is in force; value: order version; evidence: activation_id u32"),
        ("ORDER_REFUSED", 33, "An order is not understood; value: order version; evidence: activation_id u32"),
        ("ORDER_ENDED", 34, "An order is no longer in force; value: order version; evidence: activation_id u32"),
    ),
)
GAP_CAUSE = Enumeration(
    "cause",
    "GAP",
    "Why records are missing.",
    "emtag",
    (
        ("STORAGE_FULL", 1, "Dropped for want of flash"),
        ("STORAGE_DAMAGED", 2, "Found damaged at recovery"),
        ("RADIO_DEAF", 3, "The radio did not listen"),
        ("RESET", 4, "Lost by a reset"),
    ),
)
MECHANISM = Enumeration(
    "mechanism",
    "MECHANISM",
    "How a position was found (inside position blocks).",
    VOCABULARY,
    (
        ("GPS", 1, "Satellites"),
        ("RF", 4, "Radio beacon"),
        ("LBS", 5, "Cellular network"),
        ("WIFI", 6, "Wireless networks"),
    ),
)
RECEIVER = Enumeration(
    "receiver",
    "RECEIVER",
    "A radio receiver of the device.",
    "emtag",
    (
        ("GNSS", 1, "Satellite receiver"),
        ("CELLULAR", 2, "Cellular modem"),
        ("BLE", 3, "Bluetooth LE: beacons and data link"),
        ("RF", 4, "Any other short-range radio"),
    ),
)
DEAF_CAUSE = Enumeration(
    "deaf_cause",
    "DEAF",
    "Why a receiver could not hear.",
    "emtag; shielding and jamming as NIJ 1004.00 §5.7",
    (
        ("NONE", 0, "It was not deaf"),
        ("ASLEEP", 1, "Switched off between uses, as configured"),
        ("BUSY", 2, "The radio did something else: sending, another protocol"),
        ("FAULT", 3, "The receiver failed or did not answer"),
        ("RESET", 4, "The device was restarting"),
        ("JAMMING", 5, "Interference drowned everything"),
        ("NO_POWER", 6, "Switched off to spare the battery"),
        ("UPDATE", 7, "Firmware was being installed"),
        ("UNKNOWN", 255, "Not known"),
    ),
)
LOG_LEVEL = Enumeration(
    "level",
    "LOG",
    "How grave a log line is.",
    "RFC 5424 §6.2.1 (severity)",
    (
        ("CRITICAL", 2, "The device cannot do its work"),
        ("ERROR", 3, "Something failed"),
        ("WARNING", 4, "Something is about to fail"),
        ("NOTICE", 5, "Rare but ordinary"),
        ("INFORMATION", 6, "Ordinary"),
        ("DEBUG", 7, "For development"),
    ),
)
COMMAND_KIND = Enumeration(
    "command_kind",
    "COMMAND",
    "What a device is asked to do.",
    "emtag",
    (
        ("LOCATE_NOW", 1, "Find and report a position; argument: seconds to try (NIJ draft: at most 180)"),
        ("NOTIFY_WEARER", 2, "Alert the wearer; argument: pattern, 1 short, 2 long, 3 until acknowledged"),
        ("SELF_TEST", 3, "Test every part and report"),
        ("RANGE_TEST", 4, "Report each beacon as it is heard; argument: seconds"),
        ("SET_PROFILE", 5, "Change the transmit and listen profile; argument: profile number"),
        ("REBOOT", 6, "Restart once the result of this command is in flash"),
    ),
)
OUTCOME = Enumeration(
    "outcome",
    "OUTCOME",
    "How far a command came.",
    "emtag",
    (
        ("ACCEPTED", 1, "Begun; another result follows"),
        ("DONE", 2, "Carried out"),
        ("FAILED", 3, "Tried and failed"),
        ("UNSUPPORTED", 4, "This device has no such command or part"),
        ("REFUSED", 5, "Argument out of range, or not now"),
        ("EXPIRED", 6, "Came after its time"),
    ),
)
CURFEW_ADDRESS = Enumeration(
    "curfew_address",
    "ADDRESS",
    "Which of the order's addresses a curfew is at.",
    VOCABULARY,
    (("PRIMARY", 1, "First"), ("SECONDARY", 2, "Second"), ("TERTIARY", 3, "Third")),
)
ZONE_TYPE = Enumeration(
    "zone_type",
    "ZONE",
    "What a zone means.",
    VOCABULARY,
    (
        ("EXCLUSION", 1, "Not to be entered"),
        ("INCLUSION", 2, "Not to be left"),
        ("RESTRICTION", 3, "To be entered only under conditions the backend judges"),
    ),
)
ZONE_SHAPE = Enumeration(
    "zone_shape",
    "SHAPE",
    "How a zone is drawn.",
    "emtag; sides as RFC 7946 §3.1.1: straight in longitude and latitude",
    (
        ("CIRCLE", 1, "One vertex, the centre, and a radius"),
        ("POLYGON", 2, "Three or more vertices in order, closed by itself; radius 0"),
    ),
)
UPDATE_PHASE = Enumeration(
    "update_phase",
    "UPDATE",
    "How far a firmware update has come.",
    "emtag",
    (
        ("OFFERED", 1, "Manifest understood and authentic"),
        ("RECEIVING", 2, "Chunks are arriving"),
        ("VERIFIED", 3, "Image complete, digest and signature right"),
        ("INSTALLED", 4, "Running on trial"),
        ("CONFIRMED", 5, "Running and kept"),
        ("ROLLED_BACK", 6, "The trial failed, the old image runs"),
        ("REFUSED", 7, "Not begun, or given up: see cause"),
    ),
)
UPDATE_CAUSE = Enumeration(
    "update_cause",
    "UPDATE_CAUSE",
    "Why an update stopped.",
    "emtag",
    (
        ("NONE", 0, "It did not stop"),
        ("OTHER_MODEL", 1, "For another model or hardware revision"),
        ("OLDER", 2, "Its security version is below the running one's"),
        ("SIGNATURE", 3, "Signature wrong"),
        ("DIGEST", 4, "Digest of the image wrong"),
        ("NO_SPACE", 5, "Does not fit the flash"),
        ("BATTERY", 6, "Battery too low to install"),
        ("NOT_CONFIRMED", 7, "The new image did not confirm itself in time"),
        ("WITHDRAWN", 8, "Another manifest took its place"),
        ("FLASH", 9, "Flash could not be written"),
    ),
)
ENUMERATIONS = (
    DEVICE_MODEL,
    RESET_CAUSE,
    CLOCK_SOURCE,
    CAPABILITY,
    AUTHENTICITY,
    STRAP,
    QUALITY,
    EVENT_TYPE,
    GAP_CAUSE,
    MECHANISM,
    RECEIVER,
    DEAF_CAUSE,
    LOG_LEVEL,
    COMMAND_KIND,
    OUTCOME,
    CURFEW_ADDRESS,
    ZONE_TYPE,
    ZONE_SHAPE,
    UPDATE_PHASE,
    UPDATE_CAUSE,
)
