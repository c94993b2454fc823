"""What the tests of the firmware update share."""

from emrig.paths import firmware_folder, protocol_folder

FIRMWARE = firmware_folder()
PROTOCOL = protocol_folder()
