# What a firmware update does to the flash: takes an offer, collects the image, unpacks it into the folder or slot that
# is not running, and hands that to the selector for a trial. Every step can be cut by a reset and is taken up again.
#
# On flash, outside of the folders that an update replaces: `update.0` and `update.1` (slots: how far it is, and the
# manifest), `update.image` (the chunks so far; they come in order, so that its length says which is missing). The
# journal's space is never touched: what an update needs must be there beyond it. Modules that only an update needs are
# imported when there is one: together some 3 kB of RAM.
from binascii import hexlify
from hashlib import sha256

import selector
from emwire import constants, device_codec
from emwire.errors import WireError

from common import space
from common.slots import Slots, sync

try:
    from typing import Callable
except ImportError:
    pass

import struct

# Position of the fields in an update_manifest as device_codec gives it.
_ID, _MODEL, _LOWEST_REVISION, _HIGHEST_REVISION, _MAJOR, _SECURITY = 1, 2, 3, 4, 5, 8
_INSTALL_FROM, _IMAGE_BYTES, _CHUNK_BYTES, _SHA256, _SIGNATURE = 9, 10, 11, 12, 13
_PATCH_END = 8
SIGNATURE_BYTES = 64
# The record in the slots: highest number ever tried, phase, cause, attempts at the image; then the manifest.
_RECORD = "<IBBB"
_RECORD_SIZE = struct.calcsize(_RECORD)
# How often a whole image is fetched: once more, in case that flash spoilt the first.
ATTEMPTS = 2
# Reported after so many chunks: the catalogue's word for update_state.
CHUNKS_PER_REPORT = 64
# Left over beyond journal and update: settings, orders, slots.
SPARE_BYTES = 8 * space.BLOCK_BYTES
_ENOSPC = 28
_ENODEV = 19
_UNDER_WAY = (constants.UPDATE_RECEIVING, constants.UPDATE_VERIFIED, constants.UPDATE_INSTALLED)


class Target:
    """What an image must be for, and what it must not be older than."""

    __slots__ = ("board", "hardware_revision", "model", "public_key", "security_version")

    def __init__(self, model: int, board: str, hardware_revision: int, security_version: int, public_key: bytes):
        self.model = model
        self.board = board
        self.hardware_revision = hardware_revision
        self.security_version = security_version
        self.public_key = public_key


class Installer:
    """One update at a time. What takes long is a generator that yields whenever others may run.

    `report(update_id, phase, cause, first_missing, detail)` journals an update_state; `reserve()` is how many bytes
    must be left free on the flash for records.
    """

    def __init__(self, storage_path: str, state, target: Target, report: "Callable", reserve: "Callable[[], int]"):
        """state: the selector's BootState of this boot, None if the selector did not start this firmware."""
        self.phase = 0
        self.cause = 0
        self.first_missing = 0
        self.last_id = 0  # the highest that was tried: nothing at or below it is taken again
        self.manifest: "tuple | None" = None
        self.ignored = 0  # chunks that were not the next one
        self.write_failures = 0
        self._storage_path = storage_path
        self._image_path = storage_path + "/update.image"
        self._state = state
        self._target = target
        self._report = report
        self._reserve = reserve
        self._attempts = 0
        self._gap_told = -1
        self._slots = Slots(storage_path + "/update.")
        self._load()

    # -- after a boot -------------------------------------------------------------------------------------

    def start(self):
        """Generator: find out what the boot means for the update under way, and say so."""
        state = self._state
        if state is None:
            return
        if state.running != selector.NONE and state.running == state.trial:
            if self.phase != constants.UPDATE_INSTALLED:
                self._enter(constants.UPDATE_INSTALLED)
            self._drop_image()
        elif state.rolled_back:
            if self.phase in (constants.UPDATE_VERIFIED, constants.UPDATE_INSTALLED):
                crashed = state.rolled_back == selector.CRASHED
                cause = constants.UPDATE_CAUSE_CRASHED if crashed else constants.UPDATE_CAUSE_NOT_CONFIRMED
                self.last_id = max(self.last_id, self.update_id)
                self._enter(constants.UPDATE_ROLLED_BACK, cause)
            if self.phase != constants.UPDATE_RECEIVING:
                # Else it was told before, and these are the chunks of the next one.
                self._drop_image()
            state.rolled_back = 0
            state.save()
        elif self.installed:
            # The selector could not count this boot, and would not count the next. If flash cannot take the trial back
            # either but counts again at a later boot, that is the trial.
            state.trial = selector.NONE
            state.save()
            self.give_up(constants.UPDATE_CAUSE_FLASH)
        elif self.phase == constants.UPDATE_INSTALLED and state.trial == selector.NONE:
            if self._runs_it():
                # The power was cut between the confirmation and this record of it.
                self._confirmed()
            else:
                # Other firmware was written by cable meanwhile, or the selector has lost both of its slots.
                self._enter(constants.UPDATE_REFUSED, constants.UPDATE_CAUSE_WITHDRAWN)
        if self.phase in (constants.UPDATE_RECEIVING, constants.UPDATE_VERIFIED):
            # Newer firmware or another key that was written by cable meanwhile may not allow it any more.
            allowed = self.manifest[_SECURITY] >= self._target.security_version
            if allowed:
                for allowed in self._signature_verdict(self.manifest):
                    yield
            if allowed is not True:
                self.give_up(constants.UPDATE_CAUSE_WITHDRAWN)

    @property
    def update_id(self) -> int:
        """Of the update under way or the last; 0 = none yet."""
        return self.manifest[_ID] if self.manifest else 0

    @property
    def install_from_s(self) -> int:
        return self.manifest[_INSTALL_FROM] if self.manifest else 0

    @property
    def chunks(self) -> int:
        """How many the image has."""
        return -(-self.manifest[_IMAGE_BYTES] // self.manifest[_CHUNK_BYTES])

    @property
    def complete(self) -> bool:
        """Every chunk is on flash, and it is time to verify."""
        return self.phase == constants.UPDATE_RECEIVING and self.first_missing >= self.chunks

    # -- manifest -----------------------------------------------------------------------------------------

    def offer(self, message):
        """Generator: judge an update_manifest message, and begin. The same one again asks how far it is."""
        update_id = message[_ID]
        same = self.manifest is not None and _signed(message) == _signed(self.manifest)
        on_trial = self.installed or self.phase == constants.UPDATE_INSTALLED
        if on_trial or (same and self.phase in _UNDER_WAY):
            # What is on trial, or will be with the next boot, has its trial before anything else begins.
            self.tell()
            return
        if update_id == self.last_id == self.update_id:
            self.tell()
            return
        cause = self._objection(message)
        if cause:
            self._report(update_id, constants.UPDATE_REFUSED, cause, 0, _ENODEV if self._state is None else 0)
            return
        verdict = False
        for verdict in self._signature_verdict(message):
            yield
        if verdict is not True:
            self._report(update_id, constants.UPDATE_REFUSED, constants.UPDATE_CAUSE_SIGNATURE, 0, 0)
            return
        if self.phase in _UNDER_WAY:
            self.give_up(constants.UPDATE_CAUSE_WITHDRAWN)
        try:
            for _ in self._clear():
                yield
            self._drop_image()
            lacking = self._lacking_for(message[_IMAGE_BYTES])
        except OSError as error:
            self._report(update_id, constants.UPDATE_REFUSED, constants.UPDATE_CAUSE_FLASH, 0, error.args[0])
            return
        if lacking > 0:
            self._report(update_id, constants.UPDATE_REFUSED, constants.UPDATE_CAUSE_NO_SPACE, 0, _ENOSPC)
            return
        self.manifest = message
        self.first_missing = 0
        self._attempts = 0
        self._gap_told = -1
        self._report(update_id, constants.UPDATE_OFFERED, constants.UPDATE_CAUSE_NONE, 0, 0)
        self._keep(constants.UPDATE_RECEIVING, constants.UPDATE_CAUSE_NONE)

    def _signature_verdict(self, manifest):
        from common import p256

        digest = sha256(_signed(manifest)).digest()
        return p256.verify_in_steps(self._target.public_key, manifest[_SIGNATURE], digest)

    def _objection(self, message):
        target = self._target
        if self._state is None:
            return constants.UPDATE_CAUSE_FLASH
        revision = target.hardware_revision
        if message[_MODEL] != target.model or not message[_LOWEST_REVISION] <= revision <= message[_HIGHEST_REVISION]:
            return constants.UPDATE_CAUSE_OTHER_MODEL
        if message[_ID] <= self.last_id or (self.phase in _UNDER_WAY and message[_ID] <= self.update_id):
            return constants.UPDATE_CAUSE_REPLAYED
        if message[_SECURITY] < target.security_version:
            return constants.UPDATE_CAUSE_OLDER
        return constants.UPDATE_CAUSE_NONE

    # -- chunks -------------------------------------------------------------------------------------------

    def chunk(self, message) -> bool:
        """Take an update_chunk message; True if it was the next one of the image."""
        if self.phase != constants.UPDATE_RECEIVING or message[1] != self.update_id or self.complete:
            self.ignored += 1
            return False
        number, data = message[2], message[3]
        begin = number * self.manifest[_CHUNK_BYTES]
        expected = min(self.manifest[_CHUNK_BYTES], self.manifest[_IMAGE_BYTES] - begin)
        if number != self.first_missing or len(data) != expected:
            self.ignored += 1
            if number > self.first_missing and self._gap_told != self.first_missing:
                # Something was lost on the way: once for each place.
                self._gap_told = self.first_missing
                self.tell()
            return False
        try:
            with open(self._image_path, "r+b" if number else "wb") as file:
                file.seek(begin)
                if file.write(data) != len(data):
                    raise OSError(_ENOSPC)
                sync(file)
            objection = self._contents_objection() if not number else 0
        except OSError as error:
            self._failed(error)
            return False
        if objection:
            self.give_up(objection)
            return False
        self.first_missing += 1
        if self.first_missing % CHUNKS_PER_REPORT == 0:
            self.tell()
        return True

    # -- image --------------------------------------------------------------------------------------------

    def verify(self):
        """Generator: compare the complete image with its manifest."""
        from common import image

        digest = b""
        try:
            for digest in image.digest_of(self._image_path):
                yield
            if digest != self.manifest[_SHA256]:
                self._attempts += 1
                self._drop_image()
                if self._attempts < ATTEMPTS:
                    self.first_missing = 0
                    self._gap_told = -1
                    self._enter(constants.UPDATE_RECEIVING, constants.UPDATE_CAUSE_DIGEST)
                else:
                    self.give_up(constants.UPDATE_CAUSE_DIGEST)
                return
            objection = self._contents_objection()
        except OSError as error:
            self._failed(error)
            return
        if objection:
            self.give_up(objection)
        else:
            self._enter(constants.UPDATE_VERIFIED)

    def install(self):
        """Generator: unpack the verified image and put it on trial from the next boot on; see `installed`."""
        from common import image

        try:
            for _ in self._clear():
                yield
            for _ in self._unpack(self.manifest[_SHA256]):
                yield
        except OSError as error:
            self._failed(error)
            return
        except (image.BadImage, ValueError):
            self.give_up(constants.UPDATE_CAUSE_IMAGE)
            return
        state = self._state
        state.trial = self._free_folder()
        state.trial_boots = 0
        # What the old firmware failed at is not the new one's fault: it begins outside of safe mode.
        state.boots = 0
        state.rolled_back = 0
        if not state.save():
            state.trial = selector.NONE
            self.give_up(constants.UPDATE_CAUSE_FLASH)

    @property
    def installed(self) -> bool:
        """The next boot is the new firmware's first."""
        state = self._state
        return state is not None and state.trial != selector.NONE and state.trial != state.running

    # -- trial --------------------------------------------------------------------------------------------

    def confirm(self) -> bool:
        """The firmware on trial is kept. False if flash refused: it stays on trial."""
        state = self._state
        before = state.active
        state.active, state.trial = state.running, selector.NONE
        state.trial_boots = state.boots = 0
        if not state.save():
            state.trial, state.active = state.running, before
            return False
        try:
            # Nobody takes the old one for whole any more; its space is for the next: the first step of this.
            next(self._clear())
        except OSError:
            self.write_failures += 1
        self._confirmed()
        return True

    def roll_back(self) -> bool:
        """The old firmware runs from the next boot on, and reports why."""
        state = self._state
        state.trial = selector.NONE
        state.trial_boots = 0
        state.rolled_back = selector.NOT_CONFIRMED
        if not state.save():
            state.trial, state.rolled_back = state.running, 0
            return False
        return True

    def give_up(self, cause: int, detail: int = 0):
        """Report, and forget the image; the same update may be offered again."""
        self._enter(constants.UPDATE_REFUSED, cause, detail)
        try:
            self._drop_image()
        except OSError:
            self.write_failures += 1

    def tell(self, detail: int = 0):
        """Report how far it is."""
        self._report(self.update_id, self.phase, self.cause, self.first_missing, detail)

    # -- inside -------------------------------------------------------------------------------------------

    def _runs_it(self):
        from common import image

        state = self._state
        folder = state.folder(state.running)
        if folder is None:
            return False
        if state.rom:
            found = state.rom.whole(state.running)
            return found is not None and found[-1] == self.manifest[_SHA256]
        try:
            with open(folder + "/" + image.MARKER, "rb") as file:
                return hexlify(self.manifest[_SHA256]) in file.read()
        except OSError:
            return False

    def _free_folder(self):
        return 1 if self._state.running == 0 else 0

    def _clear(self):
        rom = self._state.rom
        if rom:
            from common import rom_image

            return rom_image.clear(rom, self._free_folder())
        from common import image

        return image.remove_tree(self._state.folder(self._free_folder()))

    def _unpack(self, digest):
        rom = self._state.rom
        if rom:
            from common import rom_image

            return rom_image.unpack(self._image_path, rom, self._free_folder(), digest)
        from common import image

        folder = self._state.folder(self._free_folder())
        return image.unpack(self._image_path, folder, digest, self._room)

    def _lacking_for(self, image_bytes):
        rom = self._state.rom
        if rom:
            # Slots are apart from the file system; more than a slot never fits.
            return max(image_bytes - rom.slot_bytes, self._lacking(image_bytes))
        return self._lacking(2 * image_bytes + space.TREE_WASTE_BYTES)

    def _lacking(self, needed):
        return needed + self._reserve() + SPARE_BYTES - space.free_bytes(self._storage_path)

    def _room(self, size):
        if self._lacking(-(-size // space.BLOCK_BYTES) * space.BLOCK_BYTES) > 0:
            raise OSError(_ENOSPC)

    def _contents_objection(self):
        from common import image

        manifest, target = self.manifest, self._target
        try:
            header = image.read_header(self._image_path)
        except (image.BadImage, ValueError):
            return constants.UPDATE_CAUSE_IMAGE
        if header.model != target.model:
            return constants.UPDATE_CAUSE_OTHER_MODEL
        if header.board != target.board:
            return constants.UPDATE_CAUSE_OTHER_BOARD
        stated = tuple(manifest[_MAJOR:_PATCH_END])
        if header.version != stated or header.security_version != manifest[_SECURITY]:
            return constants.UPDATE_CAUSE_IMAGE
        return constants.UPDATE_CAUSE_NONE

    def _failed(self, error):
        number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        full = number == _ENOSPC
        self.give_up(constants.UPDATE_CAUSE_NO_SPACE if full else constants.UPDATE_CAUSE_FLASH, number)

    def _confirmed(self):
        self.last_id = max(self.last_id, self.update_id)
        self._enter(constants.UPDATE_CONFIRMED)

    def _enter(self, phase, cause=0, detail=0):
        # First the report: what is told twice after a power cut is harmless, what is never told is not.
        self._report(self.update_id, phase, cause, self.first_missing, detail)
        self._keep(phase, cause)

    def _keep(self, phase, cause):
        self.phase = phase
        self.cause = cause
        record = struct.pack(_RECORD, self.last_id, phase, cause, self._attempts)
        if self.manifest:
            record += device_codec.encode_update_manifest(*self.manifest[1:])
        try:
            self._slots.write(record)
        except OSError:
            # After a reset the gateway offers it again.
            self.write_failures += 1

    def _load(self):
        value = self._slots.value
        if value is None or len(value) < _RECORD_SIZE:
            return
        self.last_id, self.phase, self.cause, self._attempts = struct.unpack(_RECORD, value[:_RECORD_SIZE])
        try:
            if len(value) > _RECORD_SIZE:
                self.manifest = device_codec.decode(value[_RECORD_SIZE:])
        except WireError:
            pass
        if self.manifest is None:
            self.phase = 0
        elif self.phase == constants.UPDATE_RECEIVING:
            from common import image

            # A chunk that was cut short is written again.
            size = image.file_size(self._image_path)
            whole = size >= self.manifest[_IMAGE_BYTES]
            self.first_missing = self.chunks if whole else size // self.manifest[_CHUNK_BYTES]
        elif self.phase != constants.UPDATE_REFUSED:
            self.first_missing = self.chunks

    def _drop_image(self):
        from common import image

        image.remove(self._image_path)


def _signed(manifest):
    return device_codec.encode_update_manifest(*manifest[1:])[:-SIGNATURE_BYTES]
