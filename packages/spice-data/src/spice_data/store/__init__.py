"""The store: frames on disk once, written by streaming, read at random."""

from spice_data.store._convert import convert
from spice_data.store._split import Split, split
from spice_data.store.layout import Units
from spice_data.store.reader import Store
from spice_data.store.statistics import Statistics
from spice_data.store.writer import StoreWriter

__all__ = ["Split", "Statistics", "Store", "StoreWriter", "Units", "convert", "split"]
