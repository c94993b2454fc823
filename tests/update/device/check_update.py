"""Updates as a whole device lives them, on the in-memory board: what the host made is in the folder that is given."""

import asyncio
import gc

import selector
import virtual
from common import safe_mode
from common.device import Device
from common.installer import Installer, Target
from common.p256 import verify_in_steps
from emwire import constants, device_codec

HOUR_S = 3600
LOW_COUNTS = 34000  # 3.4 V: empty
BODY = 5
# Garbage of one piece of work, and what is in use between two; a board's pointers have half the size.
CHUNK_GARBAGE_BYTES = 4096
PIECE_GARBAGE_BYTES = 8192
IN_USE_BYTES = 8192


class Silent:
    """A gateway that is never there: messages are handed to the device as its uplink would."""

    async def connect(self):
        await asyncio.Event().wait()

    def send(self, frame):
        pass

    async def receive(self):
        await asyncio.Event().wait()

    async def close(self):
        pass


def load(folder, name):
    with open(folder + "/" + name, "rb") as file:
        return file.read()


class Boot:
    """One boot of the device in this folder."""

    def __init__(self, folder, safe_mode=False, battery_counts=39000):
        selector.begin(folder)
        key = load(folder, "update_key").decode()
        identity = {"device_id": 7, "model": "home_unit", "key": "00" * 16, "update_key": key}
        self.folder = folder
        self.board = virtual.Board(folder, identity)
        self.board.adcs["battery"].counts = battery_counts
        self.device = Device(self.board, constants.MODEL_HOME_UNIT, constants.CAPABILITY_SERIAL)
        self.device.safe_mode = safe_mode
        self.device.link_over(Silent())
        self.installer = self.device.update.installer
        self.task = asyncio.create_task(self.device.run())

    def stop(self):
        self.task.cancel()

    def hear(self, message):
        self.device._on_message(message)

    async def receive(self, name):
        """Manifest and chunks of the host's files."""
        manifest = device_codec.decode(load(self.folder, name + ".manifest"))
        image = load(self.folder, name + ".image")
        self.hear(manifest)
        await passed(5)
        size = manifest[11]
        for number in range(-(-len(image) // size)):
            data = image[number * size : (number + 1) * size]
            self.hear((constants.MESSAGE_UPDATE_CHUNK, manifest[1], number, data))
        await passed(5)

    def states(self):
        """(phase, cause) of each update_state in the journal, of this boot."""
        from common import segment

        found = []
        for epoch, _, _, payload in segment.records(self.folder + "/journal"):
            if payload[0] == constants.MESSAGE_UPDATE_STATE and epoch == self.device.epoch:
                found.append(device_codec.decode(payload)[BODY + 1 : BODY + 3])
        return found


async def passed(seconds):
    await asyncio.sleep_ms(seconds * 1000)


async def installed(folder):
    boot = Boot(folder)
    await passed(1)
    await boot.receive("new")
    await passed(70)
    assert boot.board.restarts, boot.states()
    boot.stop()
    return boot


async def check_installs_and_restarts(folder):
    boot = await installed(folder)
    phases = [phase for phase, _ in boot.states()]
    assert phases[0] == constants.UPDATE_OFFERED and phases[-1] == constants.UPDATE_VERIFIED, phases
    assert selector.begin(folder) == folder + "/b"


async def check_a_low_battery_waits_for_the_charger(folder):
    boot = Boot(folder, battery_counts=LOW_COUNTS)
    await passed(1)
    await boot.receive("new")
    await passed(HOUR_S)
    assert boot.states()[-1] == (constants.UPDATE_VERIFIED, constants.UPDATE_CAUSE_BATTERY)
    assert len(boot.states()) == len(set(boot.states())), "said again and again"
    assert not boot.board.restarts
    boot.board.inputs["charger"].set(1)
    await passed(130)
    assert boot.board.restarts


async def check_waits_until_it_may_install(folder):
    boot = Boot(folder)
    await passed(1)
    await boot.receive("later")
    await passed(HOUR_S)
    assert not boot.board.restarts, "the clock is not even set"
    from_s = boot.installer.install_from_s
    now_ms = (from_s - 600) * 1000
    assert boot.device.clock.observe(constants.CLOCK_GATEWAY, now_ms, 100)
    await passed(500)
    assert not boot.board.restarts
    await passed(200)
    assert boot.board.restarts


async def check_kept_after_a_healthy_hour(folder):
    await installed(folder)
    boot = Boot(folder)
    assert selector.booted.running == 1
    await passed(HOUR_S + 60)
    assert boot.states() == [(constants.UPDATE_INSTALLED, 0)], "kept though nobody answered"
    boot.device.uplink.heard = 1
    await passed(130)
    assert boot.states()[-1] == (constants.UPDATE_CONFIRMED, 0)
    boot.stop()
    for _ in range(selector.TRIAL_BOOTS + 1):
        assert selector.begin(folder) == folder + "/b"


async def check_a_failing_task_begins_the_hour_anew(folder):
    await installed(folder)
    boot = Boot(folder)
    boot.device.uplink.heard = 1

    async def fail_once():
        if not boot.device.supervisor.failures:
            await passed(HOUR_S // 2)
            raise ValueError("once")
        await asyncio.Event().wait()

    boot.device.start("fails", fail_once)
    await passed(HOUR_S + 120)
    assert boot.installer.phase == constants.UPDATE_INSTALLED
    # From when it was looked at.
    await passed(HOUR_S)
    assert boot.installer.phase == constants.UPDATE_CONFIRMED


async def check_left_again_when_nobody_answers(folder):
    await installed(folder)
    boot = Boot(folder)
    await passed(23 * HOUR_S)
    assert not boot.board.restarts
    await passed(2 * HOUR_S)
    assert boot.board.restarts
    boot.stop()
    old = Boot(folder)
    assert selector.booted.running == 0
    await passed(5)
    assert old.states() == [(constants.UPDATE_ROLLED_BACK, constants.UPDATE_CAUSE_NOT_CONFIRMED)]


async def check_settings_over_the_air(folder):
    await installed(folder)
    boot = Boot(folder)
    boot.device.uplink.heard = 1
    boot.hear((constants.MESSAGE_PARAMETERS, 1, ((constants.PARAMETER_UPDATE_CONFIRM_S, 120),)))
    await passed(200)
    assert boot.installer.phase == constants.UPDATE_CONFIRMED


async def check_in_safe_mode(folder):
    for _ in range(5):
        selector.begin(folder)
    boot = Boot(folder, safe_mode=True)
    await passed(1)
    await boot.receive("new")
    await passed(70)
    assert boot.board.restarts
    boot.stop()
    # The new firmware is on trial, not in safe mode.
    assert selector.begin(folder) == folder + "/b"
    boot.board.reset_cause = constants.RESET_WATCHDOG
    assert not safe_mode.wanted(boot.board)
    # Nor is the old one at once, if it comes back.
    for _ in range(selector.TRIAL_BOOTS):
        selector.begin(folder)
    assert selector.booted.running == 0 and not safe_mode.wanted(boot.board)


async def check_an_unreadable_key_refuses_and_does_not_stop_the_device(folder):
    with open(folder + "/update_key", "w") as file:
        file.write("no key")
    boot = Boot(folder)
    await passed(1)
    await boot.receive("new")
    assert boot.states() == [(constants.UPDATE_REFUSED, constants.UPDATE_CAUSE_SIGNATURE)]


async def check_a_link_that_hangs_up_stays_for_the_next_chunk(folder):
    boot = Boot(folder)
    await passed(1)
    before = boot.device.uplink.stay_until_ms
    await boot.receive("new")
    assert boot.device.uplink.stay_until_ms > before + 20000


def check_memory(folder):
    """Garbage between two moments at which others may run, what is in use at them, and what stays."""
    selector.begin(folder)
    key = bytes(int(load(folder, "update_key")[at : at + 2], 16) for at in range(0, 128, 2))
    manifest = device_codec.decode(load(folder, "new.manifest"))
    image = load(folder, "new.image")
    target = Target(constants.MODEL_HOME_UNIT, "memory", 0, 1, key)
    installer = Installer(folder, selector.booted, target, lambda *said: None, lambda: 0)
    gc.collect()
    gc.disable()

    def most(generator):
        garbage = in_use = 0
        gc.collect()
        begun = gc.mem_alloc()
        while True:
            before = gc.mem_alloc()
            try:
                next(generator)
            except StopIteration:
                return garbage, in_use
            garbage = max(garbage, gc.mem_alloc() - before)
            gc.collect()
            in_use = max(in_use, gc.mem_alloc() - begun)

    offered = most(installer.offer(manifest))
    size = manifest[11]
    worst = 0
    gc.collect()
    begun = gc.mem_alloc()
    for number in range(installer.chunks):
        message = (constants.MESSAGE_UPDATE_CHUNK, 1, number, image[number * size : (number + 1) * size])
        before = gc.mem_alloc()
        assert installer.chunk(message)
        worst = max(worst, gc.mem_alloc() - before)
        gc.collect()
    message = None
    gc.collect()
    stays = gc.mem_alloc() - begun
    verified = most(installer.verify())
    judged = most(Installer(folder, selector.booted, target, lambda *said: None, lambda: 0).start())
    unpacked = most(installer.install())
    signature = most(verify_in_steps(key, manifest[13], bytes(32)))
    print(
        "garbage, in use: offer %s, verifying %s, at a boot %s, unpacking %s, signature %s; chunk %d, stays %d"
        % (offered, verified, judged, unpacked, signature, worst, stays)
    )
    assert installer.installed
    assert worst <= CHUNK_GARBAGE_BYTES and stays <= 256
    assert max(verified[0], unpacked[0]) <= PIECE_GARBAGE_BYTES
    # The signature's large integers are garbage at once, and collected whenever the heap wants it.
    assert max(offered[1], verified[1], judged[1], unpacked[1], signature[1]) <= IN_USE_BYTES
