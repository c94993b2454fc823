"""Conditions: pure judgements over ordered evidence, one file each, and the engine that runs them."""
