"""Entry: micropython run.py CHECK_MODULE FUNCTION FOLDER. The function may be asynchronous; it gets the folder."""

import asyncio
import sys

import virtual  # noqa: F401  installs virtual time before any firmware is imported


def main():
    function = getattr(__import__(sys.argv[1]), sys.argv[2])
    outcome = function(sys.argv[3])
    if hasattr(outcome, "send"):
        asyncio.run(outcome)
    print("passed")


main()
