"""How the threads of a program share Python's lock, and how often it stops for garbage."""

import gc
import sys

SWITCH_S = 0.0005
"""A thread that wants the lock waits this long for one that computes. With Python's 5 ms an alarm, which needs it some
ten times on its way, takes twice as long while a backlog is read or ingested; this costs less than 1 %."""


def share_quickly() -> None:
    """By every program that must answer while another of its threads computes."""
    sys.setswitchinterval(SWITCH_S)


ALLOCATIONS = 10_000
"""Between two searches for cycles of objects. A batch makes some 20,000 objects and no cycle: with Python's 700 a
search comes every 50 records, and all of them take a twentieth of the time. Cycles (of failed tasks) wait longer."""


def collect_seldom() -> None:
    """By every program that handles many records."""
    gc.set_threshold(ALLOCATIONS, 20, 10)
