"""Firmware images: a model's modules made small, compiled, packed for a board, signed."""
