"""Weights from elsewhere: every format in, none of them executed."""
