"""One decoder a file: `check(data)` feeds it bytes, and raises unless it answers as documented."""
