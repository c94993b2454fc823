"""What tags themselves say of curfew, contact and health is kept as events; the backend alone judges: nothing twice."""

from collections.abc import Callable

import pytest
from backend_kit import HOME, ORDERS, PID, Clock, Device, at, batch
from emgate.backend.ingest import Backend
from emgate.backend.queries import Reader
from emgate.backend.vocabulary import EVENT_TYPES
from emwire import constants

# Of the tags in common, from PARAMETERS_APPLIED on.
OWN = sorted(value for name, value in vars(constants).items() if name.startswith("EVENT_") and 40 <= value < 60)


@pytest.mark.parametrize("alone", [True, False])
def test_devices_own_judgements_are_ingested_and_raise_no_alert_of_their_own(
    backend: Backend, reader: Reader, clock: Clock, load: Callable[[str], int], alone: bool
) -> None:
    load(ORDERS)
    start = at("2026-03-02T19:00:00")
    unit = Device(HOME)
    records = [unit.event(kind, start + 60_000 * number, PID, 600) for number, kind in enumerate(OWN)]
    if not alone:
        # Out from 20:00 on, as the unit says too.
        records += [unit.presence(PID, start + 60_000 * minute, heard=minute < 60) for minute in range(-30, 180)]
    assert backend.ingest(batch(records)) == len(records)
    clock.ms = start + 4 * 3_600_000
    backend.evaluate(clock.ms)
    kinds = [event["eventTypeId"] for event in reader.events()]
    assert sorted(kind for kind in kinds if kind in OWN) == OWN
    assert all(kind in EVENT_TYPES for kind in OWN), "each has a name"
    conditions = [alert["condition"] for alert in reader.alerts()]
    assert conditions == ([] if alone else ["curfew"]), conditions
