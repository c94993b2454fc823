"""What the gateway delivers into: ingest, conditions, and the public vocabulary."""
