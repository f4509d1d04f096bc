"""Data sets on disk, in the ways they are published, annotated and exported."""
