"""Masks: from stored indices, colours, run lengths and shapes to class indices."""
