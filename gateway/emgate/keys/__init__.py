"""Keys and secrets: where the gateway's own comes from, and what it seals."""
