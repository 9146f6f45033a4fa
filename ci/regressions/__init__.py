"""Regressions: exact counters and same-run ratios that gate a change, and a page with the history of every figure."""
