"""What judging a zone takes of the heap: nothing that stays, and little that goes."""

import gc
from array import array

from common.order import Zone
from common.settings import Settings
from emwire import constants
from tags.zones import Zones

# Of one judgement, in bytes, however many vertices: an evidence and a list.
LIMIT = 1000


def _ring(count):
    vertices = array("i")
    for index in range(count):
        across = index if index < count // 2 else count - index
        vertices.append(51500000 + 40 * index * (1 if index < count // 2 else -1))
        vertices.append(-120000 + 300 * across)
    return vertices


def check_judging_keeps_nothing(folder):
    zone = Zone((0x88, 1, 1, 0, constants.ZONE_EXCLUSION, constants.SHAPE_POLYGON, 0, 0, 2, 0, 0, 1, ()))
    zone.vertices = _ring(256)
    zones = Zones(Settings(folder))
    zones.take(1, [zone], 0)
    zones.judge(60, 51500000, -120000, 10)
    gc.collect()
    before = gc.mem_alloc()
    gc.disable()
    zones.judge(120, 51500000, -120000, 10)
    taken = gc.mem_alloc() - before
    gc.enable()
    for step in range(100):
        zones.judge(180 + 60 * step, 51500000 + 1000 * (step % 7), -120000 + 999 * (step % 11), 10)
    gc.collect()
    print("judging 256 vertices took", taken, "bytes")
    assert taken < LIMIT
    assert gc.mem_alloc() - before < LIMIT
