"""The kits of gateway's and uplinks' tests serve here too, and its rule that no gateway process outlives its test."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "uplinks"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "gateway"))

from gateway_kit import no_gateway_is_left

__all__ = ["no_gateway_is_left"]
