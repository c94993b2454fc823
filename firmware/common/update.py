# Firmware updates as the device lives them: manifests and chunks come from the gateway over whatever link there is, an
# image is installed when time and battery allow, and new firmware is kept after a healthy while or left again.
# What happens on flash is in common/installer.py, the choice at boot in selector.py.
import asyncio
from binascii import unhexlify

import selector
from emwire import constants

from common.installer import Installer, Target
from common.version import SECURITY_VERSION, VERSION
from common.wait import Signal

# A link that hangs up when all is said stays up for so long after a manifest or chunk, for the next one.
LINGER_MS = 30000
# The same answer to the same question is not journalled more often.
ANSWER_AGAIN_MS = 10000
# Battery or time do not allow it yet: look again.
LOOK_AGAIN_MS = 60000
# Before a restart: what was reported last reaches the gateway, if it is there.
RESTART_AFTER_MS = 2000


class Update:
    """Task "update" of a device that has a link."""

    def __init__(self, device):
        self._device = device
        self._offered = None
        self._signal = Signal()
        self._told = None
        self._told_ms = 0
        self.not_judged = 0  # manifests that came while another one was judged
        identity = device.identity
        target = Target(
            device.model,
            device.board.name,
            identity.get("hardware_revision", 0),
            SECURITY_VERSION,
            self._public_key(identity.get("update_key", "")),
        )
        self.installer = Installer(
            device.board.storage_path, selector.booted, target, self._report, self._journal_reserve
        )
        device.on_message(constants.MESSAGE_UPDATE_MANIFEST, self._on_manifest)
        device.on_message(constants.MESSAGE_UPDATE_CHUNK, self._on_chunk)

    def start(self):
        self._device.start("update", self._run)

    def _public_key(self, text):
        try:
            return unhexlify(text)
        except (ValueError, TypeError):
            # Without a key every manifest is refused; all else works.
            self._device.log("identity.json: update_key must be 128 hexadecimal digits")
            return b""

    # -- messages -----------------------------------------------------------------------------------------

    def _on_manifest(self, message):
        self._stay()
        if self._offered is not None:
            self.not_judged += 1
            return
        self._offered = message
        self._signal.set()

    def _on_chunk(self, message):
        self._stay()
        self.installer.chunk(message)
        if self.installer.complete:
            self._signal.set()

    def _stay(self):
        uplink = self._device.uplink
        uplink.stay_until_ms = self._device.ticks_ms() + LINGER_MS

    # -- task ---------------------------------------------------------------------------------------------

    async def _run(self):
        installer = self.installer
        await self._work(installer.start())
        while True:
            if self._offered is not None:
                await self._work(installer.offer(self._offered))
                self._offered = None
            elif installer.complete:
                await self._work(installer.verify())
            elif installer.installed:
                await self._restart()
            elif installer.phase == constants.UPDATE_VERIFIED and self._may_install():
                self._device.log("installing update %d" % installer.update_id)
                await self._work(installer.install())
            elif installer.phase == constants.UPDATE_INSTALLED:
                await self._try_out()
            else:
                waits = installer.phase == constants.UPDATE_VERIFIED
                await self._signal.wait(LOOK_AGAIN_MS if waits else None)

    async def _work(self, steps):
        # Piece by piece: the watchdog, alarms and the receiver go on.
        for _ in steps:
            await asyncio.sleep_ms(0)

    def _may_install(self):
        device, installer = self._device, self.installer
        now_s = device.clock.time_s()
        if installer.install_from_s and (not now_s or now_s < installer.install_from_s):
            return False
        health = device.health
        enough = health.charging or health.battery.percent >= device.settings.update_battery_percent
        cause = constants.UPDATE_CAUSE_NONE if enough else constants.UPDATE_CAUSE_BATTERY
        if cause != installer.cause:
            # Said once, and again if the gateway asks: it waits for the charger.
            installer.cause = cause
            installer.tell()
        return enough

    async def _restart(self):
        device = self._device
        device.log("restarting into update %d" % self.installer.update_id)
        await asyncio.sleep_ms(RESTART_AFTER_MS)
        device.board.restart()

    async def _try_out(self):
        """On trial: one look at whether this firmware is healthy, and a wait until the next."""
        device, installer, settings = self._device, self.installer, self._device.settings
        healthy_since = 0
        failures = 0
        while installer.phase == constants.UPDATE_INSTALLED:
            now = device.ticks_ms()
            failed = sum(device.supervisor.failures.values())
            if failed != failures:
                failures = failed
                healthy_since = now
            confirm_ms = healthy_since + settings.update_confirm_s * 1000
            give_up_ms = settings.update_trial_s * 1000
            if now >= confirm_ms and device.uplink.heard:
                if installer.confirm():
                    device.log("update %d confirmed" % installer.update_id)
                    return
            elif now >= give_up_ms and installer.roll_back():
                await self._restart()
            if self._offered is not None:
                # A trial ends before anything else begins; the answer says so.
                await self._work(installer.offer(self._offered))
                self._offered = None
            wait = min(max(confirm_ms - now, LOOK_AGAIN_MS), max(give_up_ms - now, LOOK_AGAIN_MS))
            await self._signal.wait(wait)

    # -- what the installer needs of the device -----------------------------------------------------------

    def _report(self, update_id, phase, cause, first_missing, detail):
        device = self._device
        said = (update_id, phase, cause, first_missing, detail)
        now = device.ticks_ms()
        if said == self._told and now - self._told_ms < ANSWER_AGAIN_MS:
            return
        self._told = said
        self._told_ms = now
        device.log("update %d: phase %d, cause %d, chunk %d" % (update_id, phase, cause, first_missing))
        if not update_id:
            return
        major, minor, patch = VERSION
        millivolts = device.health.battery.millivolts or 0
        device.records.update_state(
            update_id, phase, cause, min(first_missing, 65535), major, minor, patch, millivolts, detail
        )

    def _journal_reserve(self):
        # Records never give way to an update: what the journal may still grow by stays free.
        journal = self._device.journal
        return max(0, journal.capacity_bytes - journal.bytes)
