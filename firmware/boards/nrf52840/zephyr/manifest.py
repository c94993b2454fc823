# mypy: ignore-errors
# ruff: noqa: F821 - what MicroPython's tools/makemanifest.py offers
# The Python that is frozen into the nRF52840's MicroPython.
include("$(MPY_DIR)/extmod/asyncio")
module("_boot.py")
