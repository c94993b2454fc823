"""Several gateways share one fleet: which of them a device belongs to, from who is there.

A shared subscription gives each frame to any gateway of the group, but one device needs one gateway at a time: its
acknowledgements are prefixes of what that gateway has. So every member says that it is there (a retained message that
its will takes back), all of them work out the same owner for a device, and a frame that came to another is handed on
through the broker. When a member goes, its devices get another owner, who asks them for what it lacks (docs/link.md);
the backend knows what it has already.
"""

import hashlib

from emwire import topics
from emwire.errors import WireError

MAXIMUM_MEMBERS = 16
"""More than four share no counters safely (`shared_place`); the rest is room for names that have changed."""
_ROOT = "emtag/v1/group/"


class Group:
    """One gateway's view of its group."""

    def __init__(self, name: str, gateway_id: str) -> None:
        self.me = gateway_id
        self.members: set[str] = {gateway_id}
        self.shared_filter = f"$share/{name}/{topics.UP_FILTER}"
        self.my_presence = f"{_ROOT}{name}/member/{gateway_id}"
        self.my_filter = f"{_ROOT}{name}/to/{gateway_id}/+"
        self.presence_filter = f"{_ROOT}{name}/member/+"
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

    def presence(self, topic: str, payload: bytes) -> bool:
        """Note who is there; False for another topic."""
        if not topic.startswith(self._presence):
            return False
        name = topic.removeprefix(self._presence)
        before = len(self.members)
        if payload and before < MAXIMUM_MEMBERS:
            self.members.add(name)
        elif not payload and name != self.me:
            self.members.discard(name)
        if len(self.members) != before:
            self._owners.clear()
        return True

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
