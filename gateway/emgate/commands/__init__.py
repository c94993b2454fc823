"""The work of the emtag command's parts; their options are in cli.py and in the files here that are named *_options."""
