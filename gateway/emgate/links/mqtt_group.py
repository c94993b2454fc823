"""Several gateways share one fleet: which of them a device belongs to, from who is there.

A shared subscription gives each frame to any gateway of the group, but one device needs one gateway at a time: its
acknowledgements are prefixes of what that gateway has. So every member says that it is there (a retained message that
its will takes back, said again every PRESENT_S, because a broker that was killed itself sends no wills), all of them
work out the same owner for a device, and a frame that came to another is handed on through the broker. When a member
goes, its devices get another owner, who asks them for what it lacks (docs/link.md); the backend knows what it has.
"""

import hashlib

from emwire import topics
from emwire.errors import WireError

MAXIMUM_MEMBERS = 16
"""More than four share no counters safely (`shared_place`); the rest is room for names that have changed."""
PRESENT_S, SILENT_S = 30.0, 90.0
"""How often a member says that it is there, and after how long it is none any more: two lost in a row are forgiven."""
MAXIMUM_DIGITS = 13
"""Of a down counter, u40."""
_ROOT = "emtag/v1/group/"


class Group:
    """One gateway's view of its group."""

    def __init__(self, name: str, gateway_id: str) -> None:
        self.me = gateway_id
        self._heard_s: dict[str, float] = {}
        self.shared_filter = f"$share/{name}/{topics.UP_FILTER}"
        self.my_presence = f"{_ROOT}{name}/member/{gateway_id}"
        self.my_filter = f"{_ROOT}{name}/to/{gateway_id}/+"
        self.presence_filter = f"{_ROOT}{name}/member/+"
        self.counter_topic = f"{_ROOT}{name}/counter"
        self._presence = f"{_ROOT}{name}/member/"
        self._to = f"{_ROOT}{name}/to/"
        self._owners: dict[int, str] = {}

    def owner(self, device_id: int) -> str:
        """The member with the highest digest (rendezvous hashing): one that goes moves only its own devices."""
        owner = self._owners.get(device_id)
        if owner is None:
            if len(self._owners) > 100_000:  # of strangers, in a flood
                self._owners.clear()
            owner = max(self.members, key=lambda name: hashlib.sha256(f"{name}/{device_id:08x}".encode()).digest())
            self._owners[device_id] = owner
        return owner

    @property
    def members(self) -> tuple[str, ...]:
        """Who is there, this one among them, in order."""
        return tuple(sorted({self.me, *self._heard_s}))

    def begin(self) -> None:
        """Alone until the broker says who else is there."""
        self._heard_s.clear()
        self._owners.clear()

    def presence(self, topic: str, payload: bytes, now_s: float) -> bool:
        """Note who is there; False for another topic."""
        if not topic.startswith(self._presence):
            return False
        name = topic.removeprefix(self._presence)
        before = len(self._heard_s)
        if payload and name != self.me and (name in self._heard_s or before < MAXIMUM_MEMBERS - 1):
            self._heard_s[name] = now_s
        elif not payload:
            self._heard_s.pop(name, None)
        if len(self._heard_s) != before:
            self._owners.clear()
        return True

    def forget_silent(self, now_s: float) -> None:
        """Who has said nothing for SILENT_S is no member, whatever the broker keeps of it."""
        silent = [name for name, heard_s in self._heard_s.items() if now_s - heard_s >= SILENT_S]
        for name in silent:
            del self._heard_s[name]
        if silent:
            self._owners.clear()

    @staticmethod
    def counter(payload: bytes) -> int | None:
        """What is said of counters (emgate.devices.counter_share); None when that is no number."""
        return int(payload) if payload.isdigit() and len(payload) <= MAXIMUM_DIGITS else None

    def handed_on(self, topic: str) -> int | None:
        """The device whose frame another member gives us; None for another topic."""
        prefix = f"{self._to}{self.me}/"
        if not topic.startswith(prefix):
            return None
        try:
            return topics.parse(topics.UP_FILTER.removesuffix("+") + topic.removeprefix(prefix))[1]
        except WireError:
            return None

    def hand_on_topic(self, device_id: int) -> str:
        """Where its owner hears of it."""
        return f"{self._to}{self.owner(device_id)}/{device_id:08x}"
