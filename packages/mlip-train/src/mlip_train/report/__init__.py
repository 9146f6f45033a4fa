"""Error metrics, evaluation and HTML reports."""
