"""The small dataset in SPICE's layout that ships with the package, and the script that generated it."""

from spice_data.example.locate import example_path

__all__ = ["example_path"]
