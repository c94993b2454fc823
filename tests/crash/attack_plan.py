"""What each round of the crash harness does: dealt from shuffled decks, so that every attack comes. The devices' own
dice are others: the same seed deals the same attacks, whatever the timing."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Generic, TypeVar

from broken_disk import FAULTS, FSYNC_FAILS, FULL, NO_GROWTH

T = TypeVar("T")

GATEWAY, BROKER, BACKEND = "gateway", "broker", "backend"
MQTT, HTTPS, LOCAL = "mqtt", "https", "local"


SECOND_REQUIRED, SECOND_OPTIONAL = "a second target, required", "a second target, not required"
SECONDS = (SECOND_REQUIRED, SECOND_OPTIONAL)


@dataclass(frozen=True)
class Kind:
    """What a bench is: whether the gateway seals what it keeps, by which uplink it delivers, and whether there is a
    second target, which is inside the gateway."""

    sealed: bool
    uplink: str
    second: str | None = None

    @property
    def title(self) -> str:
        """With the second target."""
        return f"{self}, {self.second}" if self.second else str(self)

    def __str__(self) -> str:
        return f"{'sealed' if self.sealed else 'in the clear'}, uplink {self.uplink}"


KINDS = [Kind(sealed, uplink) for sealed, uplink in product((True, False), (MQTT, HTTPS, LOCAL))]
CLOCKS = ("clock stopped", "clock back a day", "clock forward a year")
DISKS = [(who, what) for who in (GATEWAY, BACKEND) for what in FAULTS]
ANEW = ("during start", "during catch-up")
OVERWRITTEN = "last page of the store overwritten"
LATE = "started on a broken disk"
KILLED_ANEW = "killed again "
REGISTRY_CHANGED = "registry changed"
REGISTRY_CUT_OFF = "registry change cut off by a kill"
ATTACKS = (
    *(str(kind) for kind in KINDS),
    *SECONDS,
    *(f"SIGKILL {who}" for who in (GATEWAY, BROKER, BACKEND)),
    *(f"power cut of {who}" for who in (GATEWAY, BACKEND)),
    *(f"{who}: {FAULTS[what]}" for who, what in DISKS),
    OVERWRITTEN,
    *CLOCKS,
    LATE,
    *(KILLED_ANEW + when for when in ANEW),
    "writes lost",
    "writes lost before one kept",
    "writes torn",
    "directory changes lost",
    REGISTRY_CHANGED,
    REGISTRY_CUT_OFF,
)
"""All that have to come in a long run."""


class Deck(Generic[T]):
    """Every card comes before one comes again."""

    def __init__(self, chance: random.Random, cards: Sequence[T]) -> None:
        self._chance = chance
        self._cards = list(cards)
        self._left: list[T] = []

    def deal(self) -> T:
        """The next one."""
        if not self._left:
            self._left = list(self._cards)
            self._chance.shuffle(self._left)
        return self._left.pop()


@dataclass
class Plan:
    """One round."""

    load_s: float
    clock: str | None
    disk: tuple[str, int] | None  # whose, and what
    then: int | None  # another fault of the same disk, after the first
    broken_s: float
    victims: list[str]
    cut: dict[str, bool]  # whether the kill takes the power with it
    overwrite: bool
    late: bool  # the disk is mended only after the restart
    silence_s: float
    anew: str | None
    anew_s: float
    chance: random.Random  # for what depends on what is found

    def of_one_process(self) -> "Plan":
        """Where the backend is inside the gateway, and on its disk."""
        return replace(
            self,
            disk=None if self.disk is None else (GATEWAY, self.disk[1]),
            victims=list(dict.fromkeys(GATEWAY if each == BACKEND else each for each in self.victims)),
            cut={GATEWAY: any(self.cut.values())} if self.cut else {},
        )


class Dealer:
    """Deals rounds."""

    def __init__(self, seed: int) -> None:
        self._chance = chance = random.Random(f"attacks {seed}")
        self._kinds = Deck(random.Random(f"benches {seed}"), KINDS)
        self._seconds: Deck[str | None] = Deck(random.Random(f"targets {seed}"), [*SECONDS, None, None])
        everybody = (GATEWAY, BROKER, BACKEND)
        self._clocks: Deck[str | None] = Deck(chance, [*CLOCKS, None, None, None, None])
        self._disks: Deck[tuple[str, int] | None] = Deck(chance, [*DISKS, *[None] * 6])
        self._then: Deck[int | None] = Deck(chance, [FULL, FSYNC_FAILS, NO_GROWTH, *[None] * 5])
        self._victims = Deck(chance, [who for count in range(4) for who in combinations(everybody, count)])
        self._cuts = {who: Deck(chance, [True, True, True, False, False]) for who in (GATEWAY, BACKEND)}
        self._overwrite = Deck(chance, [True, False, False])
        self._late = Deck(chance, [True, False])
        self._anew: Deck[str | None] = Deck(chance, [*ANEW, None, None, None, None])

    def deal_kind(self) -> Kind:
        """The next bench."""
        return replace(self._kinds.deal(), second=self._seconds.deal())

    def deal(self) -> Plan:
        """The next round."""
        chance = self._chance
        disk, late = self._disks.deal(), False
        victims = list(self._victims.deal())
        chance.shuffle(victims)
        if disk is not None and (late := self._late.deal()) and disk[0] not in victims:
            victims.append(disk[0])
        if not victims and disk is None:
            victims.append(GATEWAY)
        return Plan(
            load_s=chance.uniform(0.3, 1.0),
            clock=self._clocks.deal(),
            disk=disk,
            then=self._then.deal() if disk is not None else None,
            broken_s=chance.uniform(0.1, 0.8),
            victims=victims,
            cut={who: deck.deal() for who, deck in self._cuts.items() if who in victims},
            overwrite=GATEWAY in victims and self._overwrite.deal(),
            late=late,
            silence_s=chance.uniform(0, 0.5),
            anew=self._anew.deal() if {GATEWAY, BACKEND} & set(victims) else None,
            anew_s=chance.uniform(0, 1),
            chance=random.Random(chance.getrandbits(64)),
        )
