"""The virtual air: real Bluetooth controllers, hosts and GATT (bumble) without a radio, in the rig's virtual time."""

from emrig.air.air import GATEWAY, Air, Clock, Handle
from emrig.air.hci_server import HciServer
from emrig.air.recording import BeaconRecording

__all__ = ["GATEWAY", "Air", "BeaconRecording", "Clock", "Handle", "HciServer"]
