"""What a condition finds: a violation event, and an alert too where it breaks the order or concerns the device."""

from dataclasses import dataclass, field
from typing import Any

from emgate.backend.vocabulary import AlertCode, Category, Certainty

MAXIMUM_IDENTITIES = 40
"""Record identities shown with a finding; beyond it the first and last twenty, and the count is always given."""


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """Identity of a record, and the place inside it for a block."""

    device_id: int
    epoch: int
    sequence: int
    item: int | None = None

    def __str__(self) -> str:
        place = "" if self.item is None else f"#{self.item}"
        return f"{self.device_id}/{self.epoch}/{self.sequence}{place}"


def identities(records: list[Identity]) -> dict[str, Any]:
    """Evidence: which records, how many."""
    names = list(dict.fromkeys(str(record) for record in records))
    half = MAXIMUM_IDENTITIES // 2
    shown = names if len(names) <= MAXIMUM_IDENTITIES else names[:half] + names[-half:]
    return {"recordCount": len(names), "records": shown}


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation event. `key` names its cause within the condition's instance: same cause, same key."""

    key: str
    category: Category
    start_ms: int
    end_ms: int | None  # None: still open
    cause: str
    evidence: dict[str, Any]
    device_id: int
    device_activation_id: str
    alert_code: AlertCode | None = None
    certainty: Certainty = Certainty.VIOLATION
    scope_ms: int | None = None  # None: start_ms
    due_ms: int | None = None  # when time alone changes the judgement
    raised_ms: tuple[int, ...] = ()  # first and repeated raisings; empty: once, at the start
    extra: dict[str, Any] = field(default_factory=dict)  # further public keys

    @property
    def raised(self) -> bool:
        """Whether the service raises it as an alert."""
        return self.certainty is Certainty.VIOLATION


def minutes_text(milliseconds: int) -> str:
    """A duration for people."""
    seconds = round(milliseconds / 1000)
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
