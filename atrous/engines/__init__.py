"""Engines: what runs a network and gives coarse logits as NumPy arrays."""
