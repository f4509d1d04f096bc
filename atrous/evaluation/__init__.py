"""How good a model is: counts, boundaries, intervals, the report, and what servers take."""
