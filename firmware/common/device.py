# What every model is made of: identity, boot epoch, journal, clock, settings, link, and the tasks they all need.
import asyncio
import struct
import sys

from emwire import constants
from emwire.device_link import DeviceLink

from common import safe_mode, space
from common.clock import Clock
from common.commands import Commands
from common.epoch import begin_epoch
from common.health import Health
from common.journal import Journal
from common.keys import Keys
from common.order import Orders
from common.records import Records
from common.retained_time import RetainedTime
from common.settings import Settings, newer
from common.supervisor import Supervisor
from common.tamper import Tamper
from common.timekeeper import Timekeeper
from common.update import Update
from common.uplink import Uplink
from common.version import VERSION
from common.watchdog import Watchdog

# Of a task that keeps failing, the first failure and then one in so many is recorded; every one is counted and logged.
FAILURES_PER_EVENT = 50
# Between a reboot's result and the reboot: a report over a modem that is connected takes seconds.
REBOOT_AFTER_MS = 10000


class Device:
    """One device. A model adds tasks with start() and its transport with link_over(), then awaits run()."""

    def __init__(self, board, model: int, capabilities: int):
        self.board = board
        self.model = model
        self.capabilities = capabilities
        self.identity = board.identity
        self.device_id = board.identity["device_id"]
        self.ticks_ms = board.clock.ticks_ms
        self.log = board.log
        # Before anything else: no frame may be sealed under an epoch that is not on flash.
        self.epoch = begin_epoch(board.storage_path, first_epoch=board.identity.get("first_epoch", 1))
        self.clock = Clock(self.ticks_ms, self._on_clock_jump)
        self.records = Records(self.clock)
        self._retained = RetainedTime(board, self.clock)
        self.journal = Journal(
            board.storage_path,
            self.epoch,
            space.journal_bytes(
                board.storage_path,
                space.MONTH_JOURNAL_BYTES if model == constants.MODEL_ALCOHOL else space.SMALLEST_JOURNAL_BYTES,
            ),
            stamp=self.records.stamp,
            on_append=getattr(board, "record_made", None),
        )
        self.records.journal = self.journal
        self.settings = Settings(board.storage_path, board.identity.get("settings"))
        self.supervisor = Supervisor(self.ticks_ms, board.log, self._on_failure)
        self.unknown_messages = 0  # down messages of a type that nothing here handles
        self.failed_messages = 0
        self.link = None
        self.uplink = None
        self.timekeeper = None
        self.safe_mode = False
        self.shaken_ms: "int | None" = None  # when its own motor last began to
        self.watchdog = Watchdog(self)
        self.commands = Commands(self)
        self.tamper = Tamper(self)
        # {part: async function() -> None or a verdict (common/self_test.py)}: of parts that tasks use.
        self.self_tests = {}
        self.health = Health(self)
        self._orders = Orders(self)
        self._handlers = {
            constants.MESSAGE_TIME: self._on_time,
            constants.MESSAGE_CONFIGURATION: self._on_configuration,
            constants.MESSAGE_PARAMETERS: self._on_parameters,
            constants.MESSAGE_ORDER_CONDITIONS: self._orders.received,
            constants.MESSAGE_ORDER_ZONE: self._orders.received,
            constants.MESSAGE_COMMAND: self.commands.received,
        }
        self.update = Update(self)

    def start(self, name: str, function, *arguments):
        """Run a task under supervision."""
        self.supervisor.start(name, function, *arguments)

    def has(self, capability: int) -> bool:
        return self.capabilities & capability != 0

    def on_message(self, message_type: int, handler):
        """handler(message) for a down message, as device_codec.decode gives it."""
        self._handlers[message_type] = handler

    @property
    def order(self):
        """The common.order.Order in force now, or None."""
        return self._orders.order

    def on_order(self, callback):
        """callback() after `order` changed: taken, begun, ended."""
        self._orders.on_change(callback)

    async def run(self):
        """Say hello, start what every device does, and go on for ever."""
        journal = self.journal
        major, minor, patch = VERSION
        self.records.hello(
            self.model,
            self.identity.get("hardware_revision", 0),
            major,
            minor,
            patch,
            self.board.reset_cause,
            self.capabilities,
            self.settings.version,
            journal.previous_epoch,
            journal.previous_epoch_records,
            min(journal.damaged_bytes, 65535),
        )
        if not self.safe_mode:
            self.tamper.start()
            self.start("healthy", safe_mode.stay_healthy, self.watchdog)
        self.health.start()
        self.commands.register(constants.COMMAND_SELF_TEST, self._self_test)
        self.commands.register(constants.COMMAND_REBOOT, self._reboot)
        self.commands.start()
        self.start("watchdog", self.watchdog.run)
        self.start("order", self._orders.run)
        if self.uplink is not None:
            self.start("uplink", self.uplink.run)
            self.start("time", self.timekeeper.run)
            self.update.start()
        await self.supervisor.wait()

    def link_over(self, transport, periodic=False):
        """Report over this transport: always, or every report interval and for alarms."""
        keys = Keys(self.board.storage_path, self.identity)
        self.link = DeviceLink(self.device_id, self.epoch, keys, self.journal)
        settings = self.settings if periodic else None
        self.uplink = Uplink(self.link, transport, self.board.clock, self._on_message, settings)
        self.timekeeper = Timekeeper(self.clock, self.link, self.uplink, self.settings)
        self.records.wake = self.uplink.wake

    def _on_message(self, message):
        handler = self._handlers.get(message[0])
        if handler is None:
            self.unknown_messages += 1
            return
        try:
            handler(message)
        except Exception as error:
            # A fault here must not cost the link by which it could be mended.
            self.failed_messages += 1
            self._on_failure("message %d" % message[0], error, self.failed_messages)

    def _on_time(self, message):
        self.timekeeper.told(message[1], message[2], message[3])

    def _on_configuration(self, message):
        if self.settings.apply(message[1], message[2:7], message[7]):
            self.log("configuration %d in force" % self.settings.version)
            # In force once its version appears in a record.
            self.health.report()

    def _on_parameters(self, message):
        version = message[1]
        settings = self.settings
        if version != settings.parameters_version and not newer(version, settings.parameters_version):
            return
        refused = settings.apply_parameters(version, message[2])
        if refused:
            self.records.event(constants.EVENT_PARAMETERS_REFUSED, version, evidence=refused)
        else:
            self.records.event(constants.EVENT_PARAMETERS_APPLIED, version)

    async def _self_test(self, argument):
        try:
            # Only here, and for now: the module is large, and rarely needed.
            from common import self_test

            result = await self_test.check(self.board, self.self_tests)
        finally:
            # Its package has it, too.
            if sys.modules.pop("common.self_test", None) is not None:
                delattr(sys.modules["common"], "self_test")
        mask = result["failed_mask"]
        names = ",".join(result["failed"]).encode()
        if mask:
            self.records.event(constants.EVENT_SELF_TEST_FAILED, mask, evidence=names)
            return constants.OUTCOME_FAILED, mask, names
        self.records.event(constants.EVENT_SELF_TEST_PASSED)
        return constants.OUTCOME_DONE, 0, b""

    async def _reboot(self, argument):
        asyncio.create_task(self._restart())
        return constants.OUTCOME_DONE, 0, b""

    async def _restart(self):
        # The result goes to flash when this lets the command finish; a moment more lets it reach the gateway.
        await asyncio.sleep_ms(REBOOT_AFTER_MS)
        safe_mode.forgive()
        self.board.restart()

    def _on_clock_jump(self, old_s, new_s, source, correction_ms):
        self.log("clock jumped %d ms" % correction_ms)
        evidence = struct.pack("<IIB", old_s, new_s, source)
        self.records.event(constants.EVENT_CLOCK_JUMPED, correction_ms, evidence=evidence)

    def _on_failure(self, name, error, count):
        if count % FAILURES_PER_EVENT == 1:
            text = "%s: %s %s" % (name, type(error).__name__, error)
            self.records.event(constants.EVENT_SELF_TEST_FAILED, count, evidence=text.encode())
