# Makes records: header with the present time and its uncertainty, body by the generated codec, into the journal.
from emwire import constants, device_codec

# Events that somebody acts on now, and those that end them: they overtake backlog and outlive it on flash.
ALARM_EVENTS = (
    constants.EVENT_STRAP_CUT,
    constants.EVENT_STRAP_RESTORED,
    constants.EVENT_CASE_OPEN,
    constants.EVENT_HOME_UNIT_MOVED,
    constants.EVENT_MAINS_LOST,
    constants.EVENT_MAINS_RESTORED,
    constants.EVENT_BATTERY_CRITICAL,
    constants.EVENT_BEACON_COPIED,
    constants.EVENT_CURFEW_LEFT_HOME,
    constants.EVENT_CURFEW_OUT_AT_START,
    constants.EVENT_CURFEW_RETURNED,
    constants.EVENT_CURFEW_OUT_AT_END,
    constants.EVENT_CONTACT_LOST,
    constants.EVENT_CONTACT_RESTORED,
    constants.EVENT_SAFE_MODE,
    constants.EVENT_ZONE_ENTERED,
    constants.EVENT_ZONE_LEFT,
    constants.EVENT_SHIELDING_SUSPECTED,
    constants.EVENT_SHIELDING_ENDED,
    constants.EVENT_GNSS_JAMMING_SUSPECTED,
    constants.EVENT_GNSS_JAMMING_ENDED,
    constants.EVENT_CELLULAR_JAMMING_SUSPECTED,
    constants.EVENT_CELLULAR_JAMMING_ENDED,
)
MAXIMUM_EVIDENCE = 64
_I32 = 0x7FFFFFFF


class Records:
    """The device's record book. Each method journals one record and wakes the uplink."""

    def __init__(self, clock):
        self._clock = clock
        self.journal = None
        self.wake = None
        self.made = 0

    def stamp(self) -> tuple:
        """Header fields of a record made now."""
        clock = self._clock
        return clock.source, clock.uncertainty_ms(), clock.time_s(), clock.ticks_ms() // 1000

    def event(self, event_type, value=0, subject_id=0, evidence=b"", event_time_s=None):
        """event_time_s: None = now."""
        if event_time_s is None:
            event_time_s = self._clock.time_s()
        value = max(-_I32 - 1, min(_I32, value))
        self._add(
            event_type in ALARM_EVENTS,
            device_codec.encode_event,
            (event_type, event_time_s, subject_id, value, bytes(evidence[:MAXIMUM_EVIDENCE])),
        )

    def hello(self, *fields):
        self._add(False, device_codec.encode_hello, fields)

    def status(self, *fields):
        self._add(False, device_codec.encode_status, fields)

    def position_block(self, block):
        self._add(False, device_codec.encode_position_block, (block,))

    def presence(self, *fields):
        self._add(False, device_codec.encode_presence, fields)

    def alcohol_reading(self, *fields):
        self._add(False, device_codec.encode_alcohol_reading, fields)

    def listening(self, *fields):
        self._add(False, device_codec.encode_listening, fields)

    def update_state(self, *fields):
        self._add(False, device_codec.encode_update_state, fields)

    def command_result(self, *fields):
        # In the alarm lane: whoever commands waits for it, and a device that reports by interval connects for alarms.
        self._add(True, device_codec.encode_command_result, fields)

    def _add(self, alarm, encode, fields):
        # What flash refuses at the moment waits inside the journal.
        self.journal.append(alarm, encode(*(self.stamp() + fields)))
        self.made += 1
        if self.wake:
            self.wake()
