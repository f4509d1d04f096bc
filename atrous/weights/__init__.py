"""Weights in any format in, one safe format out."""
