"""Adapters that read ASE Atoms and torch-sim states; neither library is imported."""
