"""Painted landscapes with exact labels, made from a seed."""
