"""Keep freed memory in the process, on request."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next allocations, as ``pair_style allegro`` does in LAMMPS.

    Every evaluation on a CPU allocates its activations again. By default glibc hands large blocks back to the system,
    and the next ones cost page faults. It holds for the whole process and cannot be undone, so nothing here calls
    it for you; what is kept is the most that was in use at once. The environment variable
    ``GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647`` does the same from outside.

    Returns
    -------
    bool
        Whether the C library did so; False where it is not glibc.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
        library.gnu_get_libc_version  # noqa: B018  # only glibc has it, and these numbers
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
