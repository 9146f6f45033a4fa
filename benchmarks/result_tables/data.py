"""Tables of reading, converting and growing data sets."""

from __future__ import annotations

from benchmarks.result_tables.records import (
    NAMES,
    filled_rows,
    record,
    rows_of,
    table,
)


def data_reading() -> str:
    """Return readers of frames."""
    power, rows = {10_000: "10⁴", 1_000_000: "10⁶"}, record("data_reading")["rows"]
    for row in rows:
        row |= {"name": NAMES[row["reader"]], "power": power[row["frames"]]}
        row["order"] = " (in order)" if row["reader"] == "extxyz" else ""
    head = "reader | frames | random frames/s | × HDF5 | shuffled epoch frames/s | resident MB"
    return filled_rows(head, "{name}|{power}|{random:,.0f}|{ratio:.1f}|{epoch:,.0f}{order}|{rss:,.0f}", rows)


def data_converting() -> str:
    """Return conversion of files."""
    rows = record("data_converting")["rows"]
    for row in rows:
        row["ms"] = row["convert_microseconds_per_group"] / 1e3
        speeds = row["megabytes_per_second"]
        kinds = ("convert", "h5py", "whole file")
        row["speeds"] = "|".join(f"{speeds[k]:,.0f} ({speeds[f'{k}, cold']:,.0f})" for k in kinds)
    head = "file | groups | MB | convert | h5py | whole file | ms a group"
    return filled_rows(head, "{file}|{groups:,}|{megabytes:.1f}|{speeds}|{ms:.2f}", rows)


def data_growth() -> str:
    """Return what every stage of a store costs, by number of frames."""
    names = {"write": "write", "open": "open", "check": "compare checksums"}
    names |= {
        "first pass": "first pass, 2 workers",
        "plan": "later start",
        "read": "read 10⁴ shuffled frames",
    }
    names |= {"extxyz": "write and convert extended XYZ, 10⁴ or 2 · 10⁴ frames"}
    rows = record("data_growth")["rows"]
    sizes = sorted({row["frames"] for row in rows})
    cells = {(r["stage"], r["frames"]): f"{r['cpu']:.1f} s, {r['peak_MB']:,.0f} MB" for r in rows}
    lines = [["size on disk", *(f"{r['bytes'] / 1e6:,.0f} MB" for r in rows if r["stage"] == "write")]]
    lines += [[text, *(cells[k, n] for n in sizes)] for k, text in names.items() if (k, sizes[0]) in cells]
    return table(" | ".join(["stage", *(f"{n:,} frames" for n in sizes)]), lines)


def data_batches() -> str:
    """Return what a batch of 256 frames costs a loader worker."""
    (row,) = rows_of("data_batches", stage="batches")
    parts = {"read": "read frames", "lists": "neighbor lists", "batch": "all of a batch"}
    parts |= {"batch of cached lists": "all of a batch, neighbor lists cached"}
    rows = [[text, f"{row['ms'][key]:.1f} ms"] for key, text in parts.items()]
    rows += [["neighbor lists, per edge", f"{row['ns_per_edge']:.0f} ns"]]
    rows += [["size of a batch", f"{row['bytes'] / 1e6:.1f} MB for {row['edges']:,} edges"]]
    return table("quantity | least processor time", rows)
