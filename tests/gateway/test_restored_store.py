"""A store that is an older copy of itself gives out no down counter twice."""

import shutil
from pathlib import Path

from test_key_change import poll
from test_sessions import Bench


async def test_down_counters_go_on_above_what_the_copy_forgot(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.start()
    await bench.take(poll(0))
    await bench.stop()
    copies = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    used: set[bytes] = set()
    for number in range(1, 4):
        await bench.start()
        await bench.take(poll(number))
        used |= {frame[:6] for frame in bench.wire.sent}
        await bench.stop()
    for path in list(tmp_path.iterdir()):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    for path, data in copies.items():
        path.write_bytes(data)
    bench.clock.ms += 4000
    bench.wire.sent.clear()
    await bench.start()
    await bench.take(poll(4))
    again = {frame[:6] for frame in bench.wire.sent}
    await bench.stop()
    assert again and not again & used
