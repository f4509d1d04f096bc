"""Evaluation: scores, boundary measures, intervals, the report, benchmark submissions."""
