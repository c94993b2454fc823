"""One way to build an MQTT client from a configured broker; link, uplink and backend service share it."""

import socket
import ssl

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from emgate.config import Broker
from emgate.errors import ConfigError

SESSION_EXPIRY_S = 7 * 86_400
"""MQTT 5: how long a broker keeps a persistent session; a week outlasts any outage that devices are meant to bridge."""
INFLIGHT_FRAMES = 1000
"""Unacknowledged at once each way: ten commits, so that more is there when one is done. MQTT 3.1.1 brokers go by their
own limit."""
AT_ONCE = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
"""Packets are small and answer each other. Else a small one waits until the last is acknowledged (RFC 9293 §3.7.4),
which the other side delays by 40 ms."""


def tls_context(broker: Broker) -> ssl.SSLContext | None:
    """None without TLS; ConfigError when a certificate or key cannot be loaded."""
    if broker.ca_file is None:
        return None
    loading = broker.ca_file
    try:
        context = ssl.create_default_context(cafile=str(broker.ca_file))
        if broker.certificate_file is not None:
            loading = broker.certificate_file
            context.load_cert_chain(broker.certificate_file, broker.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{loading}: cannot load the certificate, or the key that belongs to it: {error}") from None
    return context


def make_client(
    broker: Broker, client_id: str, *, persistent: bool, will: aiomqtt.Will | None = None
) -> aiomqtt.Client:
    """A client, not connected yet. `persistent`: the broker keeps subscriptions and messages while it is away."""
    version5 = broker.protocol == "5"
    properties = None
    if version5:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_EXPIRY_S if persistent else 0
        properties.ReceiveMaximum = INFLIGHT_FRAMES
    client = aiomqtt.Client(
        broker.host,
        broker.port,
        username=broker.username,
        password=broker.read_password(),
        identifier=broker.client_id or client_id,
        protocol=aiomqtt.ProtocolVersion.V5 if version5 else aiomqtt.ProtocolVersion.V311,
        clean_session=None if version5 else not persistent,
        clean_start=not persistent if version5 else 3,  # 3 = paho's MQTT_CLEAN_START_FIRST_ONLY, unused before MQTT 5
        keepalive=broker.keepalive_s,
        max_inflight_messages=INFLIGHT_FRAMES,
        properties=properties,
        will=will,
        tls_context=tls_context(broker),
        socket_options=AT_ONCE,
    )
    client.pending_calls_threshold = 2 * INFLIGHT_FRAMES  # only a warning in its log
    return client
