# After three boots that failed: only journal, link, commands and updates run, so that the device can still report, be
# commanded and be updated. The selector counts the boots; a healthy while forgets them.
import asyncio

import selector
from emwire import constants

# Of the firmware in force; one that is on trial is rolled back by the selector instead.
FAILED_BOOTS = 3
HEALTHY_MS = 600000
# A device in safe mode monitors nobody: it tries again.
TRY_AGAIN_MS = 3600000
# Whoever takes the power away makes no failed boot, or a wearer could switch the monitoring off with it.
_POWER = (constants.RESET_POWER_ON, constants.RESET_BROWNOUT)


def wanted(board) -> bool:
    """Whether this boot is to run in safe mode; also tells the selector of boots that did not fail by themselves."""
    state = selector.booted
    if state is None:
        return False
    if board.reset_cause in _POWER and state.boots > 1:
        state.boots = 1
        state.save()
    return state.boots > FAILED_BOOTS


def forgive():
    """This boot is none that failed: before a restart that is meant."""
    if selector.booted is not None:
        selector.booted.healthy()


async def stay_healthy(watchdog):
    """Task: call this boot healthy after a while, unless a task hangs by then."""
    await asyncio.sleep_ms(HEALTHY_MS)
    if watchdog.stuck is None:
        forgive()


async def run(board):
    """The device without its model's own work, until it tries again."""
    model = board.identity["model"]
    if model == "pid":
        # It has no link to report by: a beacon that says so.
        again = asyncio.create_task(_try_again(board))
        try:
            await __import__("tags.pid", None, None, ("run",)).run(board, True)
        finally:
            again.cancel()
    from common import transports
    from common.device import Device

    device = Device(board, *_KINDS[model])
    device.safe_mode = True
    device.link_over(*transports.of(device))
    device.records.event(constants.EVENT_SAFE_MODE, selector.booted.boots - 1)
    device.start("again", _try_again, board)
    await device.run()


async def _try_again(board):
    await asyncio.sleep_ms(TRY_AGAIN_MS)
    forgive()
    board.restart()


_KINDS = {
    "ankle_gps": (constants.MODEL_ANKLE_GPS, constants.CAPABILITY_CELLULAR),
    "home_unit": (constants.MODEL_HOME_UNIT, constants.CAPABILITY_SERIAL),
    "alcohol": (constants.MODEL_ALCOHOL, constants.CAPABILITY_BLE),
}
