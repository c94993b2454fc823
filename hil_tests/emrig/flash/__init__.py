"""`emtag flash`: puts a model's firmware, identity and keys on a board, tests it, and says what was installed."""
