"""Declarations of the firmware update: manifest and chunks down, its state up."""

from __future__ import annotations

from emwire.declare import TIME, down, record
from emwire.enumerations import DEVICE_MODEL, UPDATE_CAUSE, UPDATE_PHASE
from emwire.fields import FixedBytes, RestBytes, i32, u8, u16, u32

SEMVER = "semver.org"
# A datagram's 1024 bytes less device id (4), frame header and tag (14), type, update id and chunk number (7) are 999;
# the next multiple of 64 below, so that a chunk ends on a cache line of any flash.
LONGEST_CHUNK = 960

MESSAGES = (
    record(
        "update_state",
        0x0B,
        "How far a firmware update has come: at each phase, and while receiving every 64 chunks.",
        "update_id" / u32("Update this is about", lowest=1),
        "update_phase" / u8("How far it is", enumeration=UPDATE_PHASE),
        "update_cause" / u8("Why it stopped", enumeration=UPDATE_CAUSE),
        "first_missing_chunk" / u16("First chunk that is not in flash: all below are"),
        "firmware_major" / u8("Running firmware, major", source=SEMVER),
        "firmware_minor" / u8("Running firmware, minor", source=SEMVER),
        "firmware_patch" / u8("Running firmware, patch", source=SEMVER),
        "battery_mv" / u16("Battery voltage", unit="mV", special={0: "not measured"}),
        "detail" / i32("Error number of the platform", special={0: "none"}, source="MicroPython errno"),
    ),
    down(
        "update_manifest",
        0x85,
        "A firmware image on offer. Its signature covers the bytes of this message before the signature.",
        "update_id" / u32("Number of the update, counted up per model", lowest=1),
        "device_model" / u8("Model it is for", enumeration=DEVICE_MODEL),
        "lowest_hardware_revision" / u8("First hardware revision it is for"),
        "highest_hardware_revision" / u8("Last hardware revision it is for"),
        "firmware_major" / u8("Version of the image, major", source=SEMVER),
        "firmware_minor" / u8("Version of the image, minor", source=SEMVER),
        "firmware_patch" / u8("Version of the image, patch", source=SEMVER),
        "security_version" / u16("A device never goes back below the one it runs", source="RFC 9019 §3 (rollback)"),
        "install_from_s" / u32("Not to be installed before", unit=TIME, special={0: "at once"}),
        "image_bytes" / u32("Size of the image", unit="B", lowest=1, highest=65536 * LONGEST_CHUNK),
        "chunk_bytes" / u16("Size of every chunk but the last", unit="B", lowest=64, highest=LONGEST_CHUNK),
        "image_sha256" / FixedBytes(32, "SHA-256 of the image", source="FIPS 180-4"),
        "signature" / FixedBytes(64, "ECDSA P-256 over SHA-256: r, s, each big endian", source="FIPS 186-5"),
    ),
    down(
        "update_chunk",
        0x87,
        "One chunk of the image a manifest has offered.",
        "update_id" / u32("Update it belongs to", lowest=1),
        "chunk_number" / u16("Number of the chunk, from 0; its offset is this times chunk_bytes"),
        "data" / RestBytes(1, LONGEST_CHUNK, "Bytes of the image"),
    ),
)
