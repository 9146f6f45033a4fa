"""Shared data, small files in SPICE's layout, and a web server that misbehaves on request."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

import spice_data

SHARED = Path(
    os.environ.get("MLIP_SHARED_DATA", Path(__file__).resolve().parents[3].parent / "shared" / "data")
)
WATER = "[O:1]([H:2])[H:3]"


@pytest.fixture
def shared() -> Path:
    folder = SHARED / "spice"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.fixture(scope="session")
def example_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[spice_data.Store]:
    path = tmp_path_factory.mktemp("store") / "example.store"
    with spice_data.convert(spice_data.example_path(), path) as store:
        yield store


def write_group(
    file: h5py.File,
    name: str,
    smiles: str = WATER,
    numbers: tuple[int, ...] = (8, 1, 1),
    frames: int = 4,
    subset: str = "SPICE Water",
    seed: int = 0,
) -> h5py.Group:
    rng = np.random.default_rng(seed)
    n, text = len(numbers), h5py.string_dtype("utf-8")
    group = file.create_group(name)
    group.create_dataset("subset", data=[subset], dtype=text)
    group.create_dataset("smiles", data=[smiles], dtype=text)
    group.create_dataset("atomic_numbers", data=np.array(numbers, np.int16))
    for key, values, unit in (
        ("conformations", rng.normal(size=(frames, n, 3)).astype(np.float32) * 2, "bohr"),
        ("formation_energy", rng.normal(size=frames), "hartree"),
        ("dft_total_energy", -76 + rng.normal(size=frames), "hartree"),
        ("dft_total_gradient", 0.1 * rng.normal(size=(frames, n, 3)).astype(np.float32), "hartree/bohr"),
    ):
        group.create_dataset(key, data=values).attrs["units"] = unit
    return group


@pytest.fixture
def group_writer() -> Callable[..., h5py.Group]:
    return write_group


@pytest.fixture
def spice_file(tmp_path: Path) -> Path:
    """Three molecules of four frames, one group without frames."""
    path = tmp_path / "small.hdf5"
    with h5py.File(path, "w") as file:
        write_group(file, "water", seed=1)
        write_group(file, "hydroxide", "[O-:1][H:2]", (8, 1), seed=2, subset="SPICE Ions")
        write_group(file, "c", "[C:1]([H:2])([H:3])([H:4])[H:5]", (6, 1, 1, 1, 1), seed=3, subset="SPICE Gas")
        empty = write_group(file, "nothing", seed=4)
        for key in ("conformations", "formation_energy", "dft_total_energy", "dft_total_gradient"):
            dtype, unit = empty[key].dtype, empty[key].attrs["units"]
            del empty[key]
            empty.create_dataset(key, shape=(0,), dtype=dtype).attrs["units"] = unit
    return path


class Site:
    """A web server on this machine that sends ``data`` and answers each request as ``script`` says.

    The script is a list of words, one per request; when it is used up, requests are answered properly.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.script, self.ranges = data, [], []
        self.release = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                site.ranges.append(self.headers.get("Range"))
                site.answer(self, site.script.pop(0) if site.script else "proper")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # clients hang up on purpose
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/file"

    def answer(self, request: BaseHTTPRequestHandler, word: str) -> None:
        data, size = self.data, len(self.data)
        requested = request.headers.get("Range")
        start = int(requested.split("=")[1].split("-")[0]) if requested else 0
        kind, _, argument = word.partition(" ")
        if kind == "status":
            request.send_response(int(argument))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if kind == "portal":
            request.send_response(200)
            request.send_header("Content-Type", "text/html")
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            request.wfile.write(b"d\r\n<html></html>\r\n0\r\n\r\n")
            return
        if kind == "ignore-range":
            start, requested = 0, None
        if kind == "corrupt":
            data = bytes([data[0] ^ 1]) + data[1:]
        if kind == "wait":
            self.release.wait(60)
        body = data[start:] + (b"x" * 1000 if kind == "too-long" else b"")
        total = size + 5 if kind == "other-size" else size
        if requested:
            request.send_response(206)
            first = start + 7 if kind == "other-start" else start
            request.send_header("Content-Range", f"bytes {first}-{size - 1}/{total}")
            length = len(body)
        else:
            request.send_response(200)
            length = total if kind == "other-size" else len(body)
        if kind == "too-long" and not requested:
            request.send_header("Connection", "close")  # no length: only the bytes themselves can tell
        else:
            request.send_header("Content-Length", str(length))
        request.end_headers()
        if kind == "drop":
            body = body[: int(argument)]
            request.close_connection = True
        request.wfile.write(body)
        if kind == "too-long":
            request.close_connection = True

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site(np.random.default_rng(0).bytes(3_000_000))
    yield site
    site.close()
