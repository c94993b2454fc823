"""Uplinks drain the store into a backend, in batches, with a cursor of their own."""
