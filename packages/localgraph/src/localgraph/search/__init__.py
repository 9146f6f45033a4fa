"""Neighbor search: checked arguments, vesin on the CPU, a cell list in torch elsewhere."""
