"""No gateway process outlives its test."""

from gateway_kit import no_gateway_is_left

__all__ = ["no_gateway_is_left"]
