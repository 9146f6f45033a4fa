"""A small data set in SPICE's layout, and the script that generated it."""

from spice_data.example.locate import example_path

__all__ = ["example_path"]
