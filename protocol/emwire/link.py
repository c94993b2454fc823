"""Both ends of the link; a board imports emwire.device_link alone. See docs/link.md."""

from emwire.device_link import DeviceLink
from emwire.gateway_link import GatewayLink, Received, first_counter, lost_range
from emwire.ranges import RangeSet

__all__ = ["DeviceLink", "GatewayLink", "RangeSet", "Received", "first_counter", "lost_range"]
