"""Engines run a network and return coarse logits as NumPy arrays."""
