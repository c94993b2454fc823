"""Modules of the rig that run on a simulated device's MicroPython, or describe its wire to the rig."""
