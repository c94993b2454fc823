"""Models of the parts that are wired to a device: what a real one sends, answers and gets wrong."""
