"""How long the BLE link waits for what."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """`_ms`: on the gateway's clock, as elapsed_ms(). `_s`: real time, about the adapter and not about devices."""

    idle_ms: int = 5_000
    """Silence after which a connection makes room for a tag that waits: longer than commit and acknowledgement."""
    maximum_idle_ms: int = 900_000
    """Silence after which it ends anyway. Otherwise the tag hangs up when it is done, for its battery's sake."""
    pause_ms: int = 2_000
    """After a connection that carried something: time for the tag to fall silent."""
    back_off_ms: int = 5_000
    """After a failure, doubled with each in a row."""
    maximum_back_off_ms: int = 120_000
    """Of somebody who was never known as a tag; an alarm has 180 s (NIJ 1004.00 §5.4.1)."""
    known_back_off_ms: int = 30_000
    """At most, of a tag: with an alarm it is tried again four times within these 180 s."""
    connect_timeout_s: float = 20.0
    """An advertiser of 1 s interval is met within 2 s; discovery takes 2 to 5 s on a slow stack."""
    stranger_timeout_s: float = 8.0
    """The same, without time for a second attempt: whoever was never known as a tag."""
    prove_ms: int = 10_000
    """A tag's first frame shows who it is, a second or two after connecting. Who has shown nothing after so long makes
    room for others."""
    heard_ms: int = 20_000
    """An advertiser not heard for so long is not there. With its filter of duplicates BlueZ tells of each once in a
    discovery: every 15 s."""
    refresh_s: float = 120.0
    """Scanning is started anew after so long without a tag: an adapter that fell silent must not stay so."""
    turn_ms: int = 60_000
    """While others wait a connection ends after so long even if it is busy: minutes of backlog have time, alarms have
    180 s."""
    tick_s: float = 0.05
    start_s: float = 10.0
    """Scanning starts within milliseconds; a stack that needs so long is stuck."""
    retry_s: float = 1.0
    deaf_s: float = 30.0
    """BlueZ pauses a long discovery for 5 s at a time; six times that is no pause."""
    watch_s: float = 1.0
    """How often to look for that, and at the ledger."""
    keep_s: float = 60.0
    """How often at most what is known of tags is written, so that nobody wears out a card with it."""
