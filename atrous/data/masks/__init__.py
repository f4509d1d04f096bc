"""Masks: from what people store (indices, colours, run lengths, shapes) to class indices."""
