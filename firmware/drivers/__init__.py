# One file per part that a tag is built of; each takes its bus as a parameter.
