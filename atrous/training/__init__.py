"""The loop, and what it stands on: batch norm, processes, guards, the run folder."""
