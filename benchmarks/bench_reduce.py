"""Traffic, memory and time of the gradient reduction of ``SyncAfterBackward`` by number of parameters, with gloo.

    python -m benchmarks.bench_reduce --json benchmarks/results/reduce.json

Every process holds float32 gradients in 50 tensors and reduces them as a training step does. Traffic is
what the loopback device counts over all rounds, per process and reduction, beside 2 (R − 1)/R times the bytes of the
gradients, which a ring of R processes sends. Memory is the growth of the largest resident memory over that with the
gradients alone. Times are least ones over rounds, on as many cores as the machine has.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from benchmarks.common import write_record

from mlip_train.training.ddp import reduce_gradients

TENSORS, ROUNDS = 50, 8
MIB = 2**20


def sent() -> int:
    """Bytes that the loopback device has sent."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    raise RuntimeError("/proc/net/dev must list the device lo")


def process(rank: int, world: int, parameters: int, bucket_mib: float, port: int, path: str) -> None:
    """Reduce gradients ``ROUNDS`` times; process 0 writes the figures."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    tensors = [torch.zeros(parameters // TENSORS, requires_grad=True) for _ in range(TENSORS)]
    for tensor in tensors:
        tensor.grad = torch.full_like(tensor, float(rank + 1))
    dist.barrier()
    before, resident = sent(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        reduce_gradients(tensors, "sum", bucket_mib)
        times.append(time.perf_counter() - begin)
    dist.barrier()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
    if rank == 0:
        traffic = (sent() - before) / ROUNDS / world
        torch.save((traffic / MIB, grown / 1024, 1e3 * min(times)), path)
    dist.barrier()
    dist.destroy_process_group()


def measure(world: int, parameters: int, bucket_mib: float) -> dict[str, float]:
    """Run the processes and return their figures."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "figures")
        arguments = (world, parameters, bucket_mib, port, path)
        mp.start_processes(process, arguments, nprocs=world, start_method="fork")
        traffic, memory, milliseconds = torch.load(path)
    size = 4 * parameters / MIB
    return {
        "processes": world,
        "parameters": parameters,
        "bucket, MiB": bucket_mib,
        "gradients, MiB": size,
        "sent per process, MiB": traffic,
        "ring, MiB": 2 * (world - 1) / world * size,
        "memory, MiB": memory,
        "ms": milliseconds,
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [
        measure(world, parameters, bucket_mib)
        for parameters in (100_000, 1_000_000, 10_000_000)
        for world in (1, 2, 4)
        for bucket_mib in ((0.0, 4.0) if parameters == 10_000_000 and world > 1 else (0.0,))
    ]
    for row in rows:
        print({key: round(value, 2) for key, value in row.items()}, flush=True)
    write_record(arguments.json, rows=rows)


if __name__ == "__main__":
    main()
