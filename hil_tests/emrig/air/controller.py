"""Bumble's virtual controllers on a link that knows distance: who hears whom, how loudly, and how they part."""

import asyncio
import dataclasses
from collections.abc import Callable

from bumble import core, hci, ll
from bumble.controller import Connection, Controller
from bumble.link import LocalLink

Reach = Callable[[int, int], int | None]
"""(transmitter, receiver) -> RSSI in dBm, None = not heard now."""

# One Link Layer PDU with data length extension (Core Specification Vol 6, Part B, 2.4), so that an ATT PDU of
# MTU 247 crosses HCI in one packet.
ACL_PACKET_LENGTH = 251


@dataclasses.dataclass
class Advertisement(ll.AdvInd):
    """One advertising event: ADV_IND, ADV_SCAN_IND or ADV_NONCONN_IND, with the response to an active scanner."""

    kind: int = hci.HCI_LE_Advertising_Report_Event.EventType.ADV_IND
    response: bytes = b""

    @property
    def connectable(self) -> bool:
        """Whether a central may answer with a connection request."""
        return self.kind == hci.HCI_LE_Advertising_Report_Event.EventType.ADV_IND

    @property
    def scannable(self) -> bool:
        """Whether an active scanner gets a response."""
        return self.kind != hci.HCI_LE_Advertising_Report_Event.EventType.ADV_NONCONN_IND


class AirLink(LocalLink):
    """The medium. Advertisements arrive within the sender's call: virtual time must not pass while they fly."""

    controllers: set[Controller]

    def __init__(self, reach: Reach, on_activity: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reach = reach
        self.on_activity = on_activity

    def heard(self, sender: Controller, receiver: Controller) -> int | None:
        """RSSI of one at the other, None = out of range."""
        if isinstance(sender, AirController) and isinstance(receiver, AirController):
            return self.reach(sender.radio_id, receiver.radio_id)
        return None

    def peer(self, connection: Connection) -> Connection | None:
        """The other end of a connection, if it is still there."""
        for controller in self.controllers:
            other = controller.le_connections.get(connection.self_address)
            if other is not None and other.self_address == connection.peer_address:
                return other
        return None

    def send_advertising_pdu(self, sender_controller: Controller, packet: ll.AdvertisingPdu) -> None:
        """To everybody in range."""
        for receiver in list(self.controllers):
            if receiver is sender_controller or not isinstance(receiver, AirController):
                continue
            if isinstance(packet, Advertisement) and not receiver.listening:
                continue
            rssi_dbm = self.heard(sender_controller, receiver)
            if rssi_dbm is not None:
                receiver.hear(packet, rssi_dbm)

    def send_acl_data(
        self,
        sender_controller: Controller,
        destination_address: hci.Address,
        transport: core.PhysicalTransport,
        data: bytes,
    ) -> None:
        """To the peer; a peer out of range costs the connection, as the supervision timeout would."""
        connection = sender_controller.le_connections.get(destination_address)
        if connection is None:
            return
        self.on_activity()
        other = self.peer(connection)
        if other is None or self.heard(sender_controller, other.controller) is None:
            self.part(connection, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)
            return
        asyncio.get_running_loop().call_soon(
            other.controller.on_link_acl_data, connection.self_address, transport, data
        )

    def send_ll_control_pdu(
        self, sender_address: hci.Address, receiver_address: hci.Address, packet: ll.ControlPdu
    ) -> None:
        """To the peer, if it is still there."""
        self.on_activity()
        for controller in self.controllers:
            connection = controller.le_connections.get(sender_address)
            if connection is not None and connection.self_address == receiver_address:
                asyncio.get_running_loop().call_soon(controller.on_ll_control_pdu, sender_address, packet)
                return

    def part(self, connection: Connection, reason: int) -> None:
        """Both ends lose the connection at once."""
        self.on_activity()
        other = self.peer(connection)
        connection.controller.on_le_disconnected(connection, reason)
        if other is not None:
            other.controller.on_le_disconnected(other, reason)

    def check_range(self) -> bool:
        """Part the connections whose ends no longer hear each other; whether any connection is left."""
        connected = False
        for controller in list(self.controllers):
            for connection in list(controller.le_connections.values()):
                other = self.peer(connection)
                if other is None or self.heard(other.controller, controller) is None:
                    self.part(connection, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)
                else:
                    connected = True
        return connected


class AirController(Controller):
    """A controller at a place. Legacy advertising only: that is what MicroPython's radios speak."""

    le_features = Controller.le_features & ~(
        hci.LeFeatureMask.LE_EXTENDED_ADVERTISING | hci.LeFeatureMask.LE_PERIODIC_ADVERTISING
    )
    le_acl_data_packet_length = ACL_PACKET_LENGTH
    acl_data_packet_length = ACL_PACKET_LENGTH
    supported_max_tx_octets = ACL_PACKET_LENGTH
    supported_max_rx_octets = ACL_PACKET_LENGTH

    def __init__(self, name: str, link: AirLink, radio_id: int) -> None:
        super().__init__(name, link=link)
        self.air_link = link
        self.radio_id = radio_id
        self._reported: set[tuple[bytes, bytes]] = set()

    @property
    def listening(self) -> bool:
        """Whether an advertisement could matter here."""
        return self.le_scan_enable or self.pending_le_connection is not None

    def hear(self, packet: ll.AdvertisingPdu, rssi_dbm: int) -> None:
        """An advertising channel PDU arrived here."""
        if isinstance(packet, ll.ConnectInd):
            self.on_le_connect_ind(packet)
        elif isinstance(packet, Advertisement):
            self.on_advertisement(packet, rssi_dbm)
            pending = self.pending_le_connection
            if pending and packet.connectable and pending.peer_address == packet.advertiser_address:
                self.create_le_connection(packet.advertiser_address)

    def on_advertisement(self, packet: Advertisement, rssi_dbm: int) -> None:
        """Report it to the host, if it scans."""
        if not self.le_scan_enable:
            return
        self._report(packet.kind, packet.advertiser_address, packet.data, rssi_dbm)
        # A scannable advertiser answers an active scanner always, if need be with nothing.
        if self.le_scan_type and packet.scannable:
            kind = hci.HCI_LE_Advertising_Report_Event.EventType.SCAN_RSP
            self._report(kind, packet.advertiser_address, packet.response, rssi_dbm)

    def _report(self, kind: int, address: hci.Address, data: bytes, rssi_dbm: int) -> None:
        if self.filter_duplicates:
            key = (bytes(address) + bytes((kind,)), data)
            if key in self._reported:
                return
            self._reported.add(key)
        report = hci.HCI_LE_Advertising_Report_Event.Report(
            event_type=kind, address_type=address.address_type, address=address, data=data, rssi=rssi_dbm
        )
        self.send_hci_packet(hci.HCI_LE_Advertising_Report_Event([report]))

    def on_hci_le_set_scan_enable_command(
        self, command: hci.HCI_LE_Set_Scan_Enable_Command
    ) -> hci.HCI_StatusReturnParameters:
        """Scanning anew reports everybody anew."""
        self._reported.clear()
        return super().on_hci_le_set_scan_enable_command(command)

    def create_le_connection(self, peer_address: hci.Address) -> None:
        """As the central: connect; if the peripheral did not hear the request, the connection fails to establish."""
        self.air_link.on_activity()
        super().create_le_connection(peer_address)
        connection = self.le_connections.get(peer_address)
        if connection is not None and self.air_link.peer(connection) is None:
            reason = hci.HCI_ErrorCode.CONNECTION_FAILED_TO_BE_ESTABLISHED_ERROR
            self.on_le_disconnected(connection, reason)

    def on_hci_le_create_connection_cancel_command(
        self, _command: hci.HCI_LE_Create_Connection_Cancel_Command
    ) -> hci.HCI_StatusReturnParameters:
        """Ends with an event (Core Specification Vol 4, Part E, 7.8.13); bumble's controller would leave it pending."""
        pending = self.pending_le_connection
        if pending is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        self.pending_le_connection = None
        asyncio.get_running_loop().call_soon(
            self.send_hci_packet,
            hci.HCI_LE_Connection_Complete_Event(
                status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
                connection_handle=0,
                role=hci.Role.CENTRAL,
                peer_address_type=pending.peer_address.address_type,
                peer_address=pending.peer_address,
                connection_interval=0,
                peripheral_latency=0,
                supervision_timeout=0,
                central_clock_accuracy=0,
            ),
        )
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    def on_le_disconnected(self, connection: Connection, reason: int) -> None:
        """Once per connection, whoever notices first."""
        if self.le_connections.get(connection.peer_address) is connection:
            super().on_le_disconnected(connection, reason)

    def on_hci_reset_command(self, _command: hci.HCI_Reset_Command) -> hci.HCI_StatusReturnParameters:
        """Bumble's controller keeps its state over a reset; a real one forgets it."""
        self.silence(hci.HCI_ErrorCode.REMOTE_USER_TERMINATED_CONNECTION_ERROR)
        return super().on_hci_reset_command(_command)

    def silence(self, reason: int) -> None:
        """Stop transmitting and listening; peers see `reason`."""
        self.le_legacy_advertiser.stop()
        self.le_scan_enable = False
        self.pending_le_connection = None
        for connection in list(self.le_connections.values()):
            self.air_link.part(connection, reason)
