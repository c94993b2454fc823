"""Some seconds of garbage on every link at once: real traffic arrives, memory is bounded. `make flood` runs longer."""

import shutil
from pathlib import Path

import pytest
from emgate.brokers import broker as brokers

if shutil.which("dbus-daemon") is None or "mosquitto" not in brokers.available():
    pytest.skip("needs dbus-daemon and mosquitto", allow_module_level=True)

from flood import MOST_KIB, flood, report


async def test_real_traffic_arrives_through_a_flood_in_bounded_memory(tmp_path: Path) -> None:
    outcome = await flood(tmp_path, quiet_s=1.0, flood_s=6.0)
    assert outcome.stored == outcome.delivered == sorted(outcome.made)
    assert all(outcome.garbage.values())
    assert max(outcome.rss_kib) <= MOST_KIB, report(outcome)
    links = {link["name"].split(":")[0]: link for link in outcome.status["links"]}
    assert links["mqtt"]["limited_strangers"] > 0
    assert links["serial"]["damaged"] > 0
    assert outcome.ble_connections == 1 and outcome.made_up_tried
    assert outcome.status["refused"]["authentication"] > 0
    print(report(outcome))
