"""Frames, neighbor lists, batches and statistics."""
