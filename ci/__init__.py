"""What checks the repository as a whole: examples, regressions, releases."""
