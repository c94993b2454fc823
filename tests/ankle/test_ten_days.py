"""Ten days without a network: every position of a moving tag is kept, in the journal's real capacity."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from common.journal import Journal
from common.segment import records
from common.settings import TABLE
from emwire import device_codec
from emwire.positions import decode_block
from tags import trail

DAYS = 10
DEFAULTS = {row[0]: row[1] for row in TABLE}


def _walk(seconds: int, seed: int) -> list[tuple]:
    """One who never rests, each fix with a receiver's scatter and all columns: more bits than real trails have."""
    choice = random.Random(seed)
    time_s, latitude, longitude, fixes = 500_000_000, 51_500_000, -120_000, []
    for _ in range(DAYS * 86400 // seconds):
        time_s += seconds + choice.choice((0, 0, 0, 0, 1, -1))
        latitude += choice.randrange(-9000, 9001)
        longitude += choice.randrange(-14000, 14001)
        fixes.append(
            (
                time_s,
                latitude,
                longitude,
                choice.randrange(0, 700),
                choice.randrange(360),
                choice.randrange(3, 40),
                choice.randrange(5, 20),
                choice.randrange(6, 30),
                1,
            )
        )
    return fixes


@pytest.mark.parametrize("report_s", [DEFAULTS["report_interval_s"], 60])
def test_ten_days_fit(report_s: int, tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), 1, durable=False)
    fixes = _walk(DEFAULTS["fix_interval_s"], 1)
    a_block = report_s // DEFAULTS["fix_interval_s"]
    for start in range(0, len(fixes), a_block):
        for _, block in trail.blocks(fixes[start : start + a_block]):
            journal.append(False, device_codec.encode_position_block(1, 500, 500_000_000, 60, block))
    journal.close()
    assert journal.dropped_records == 0 and journal.write_errors == 0
    kept = [fix for _, _, _, payload in records(str(tmp_path / "journal")) for fix in decode_block(payload[12:])]
    print(f"blocks of {a_block}: {journal.bytes} bytes of flash, {DAYS * 983040 / journal.bytes:.0f} days until full")
    assert kept == fixes
