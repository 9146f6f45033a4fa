"""Readers of model files of other programs, which execute nothing of the file."""
