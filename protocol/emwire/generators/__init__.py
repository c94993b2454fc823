"""Writers of the generated files: each takes the catalogue and returns the text of one file."""
