"""The gateway's store: append-only, committed in groups, a cursor per consumer, bounded, checked and salvaged."""
