"""A store that is an older copy of itself gives out no down counter twice."""

from pathlib import Path

from test_key_change import poll
from test_sessions import Bench


def read_all(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.iterdir()}


def put_back(folder: Path, files: dict[Path, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for path, data in files.items():
        path.write_bytes(data)


async def test_down_counters_go_on_above_what_the_copy_forgot(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.start()
    await bench.take(poll(0))
    await bench.stop()
    copies = read_all(tmp_path)
    used: set[bytes] = set()
    for number in range(1, 4):
        await bench.start()
        await bench.take(poll(number))
        used |= {frame[:6] for frame in bench.wire.sent}
        await bench.stop()
    put_back(tmp_path, copies)
    bench.clock.ms += 4000
    bench.wire.sent.clear()
    await bench.start()
    await bench.take(poll(4))
    again = {frame[:6] for frame in bench.wire.sent}
    await bench.stop()
    assert again and not again & used
