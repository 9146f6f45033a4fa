"""Published models: downloaded once from a server, through every kind of failure."""

import hashlib
import http.server
import logging
import sys
import threading
from functools import partial

import pytest

from localgraph import RetryPolicy, fetch, is_published_name, load_model, published

CONTENT = bytes(range(256)) * 4096  # 1 MiB
NAME = "test.org:group/Model-S:0.1"
QUICK = RetryPolicy(timeout=5.0, attempts=3, pause=0.01)


class Handler(http.server.BaseHTTPRequestHandler):
    """A file with ranges; ``server.faults`` is what goes wrong with each next request."""

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        fault = server.faults.pop(0) if server.faults else None
        body, start = server.content, 0
        if self.path != "/files/model.bin" or fault == "missing":
            self.send_error(404)
            return
        if fault == "busy":
            self.send_error(503)
            return
        if self.headers.get("Range") and fault != "no ranges":
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        rest = body[start:]
        if fault == "interrupted":
            rest = rest[: len(rest) // 2]
        if fault == "other bytes":
            rest = b"x" + rest[1:]
        self.wfile.write(rest)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server of one file, what it was asked for, and what goes wrong."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.content, running.requests, running.faults = CONTENT, [], []
        running.url = f"http://127.0.0.1:{running.server_port}/files"
        thread = threading.Thread(target=partial(running.serve_forever, poll_interval=0.01))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def table(server, tmp_path, monkeypatch):
    """An installed package that publishes the file of the server; the cache is a new folder."""
    site = tmp_path / "site"
    info = site / "publisher-0.1.dist-info"
    info.mkdir(parents=True)
    row = {
        "file": "model.bin",
        "md5": hashlib.md5(CONTENT).hexdigest(),
        "urls": [f"{server.url}/model.bin"],
        "license": "CC-BY-4.0",
        "source": "https://doi.org/10.0/none",
    }
    (site / "publisher.py").write_text(f"def table():\n    return {{{NAME!r}: {row!r}}}\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: publisher\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[mlip.published]\ntest = publisher:table\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("MLIP_CACHE", str(tmp_path / "cache"))
    yield
    sys.modules.pop("publisher", None)


def part_of(tmp_path):
    return tmp_path / "cache" / f".model.bin.{hashlib.md5(CONTENT).hexdigest()[:8]}.part"


def test_downloaded_once(server, tmp_path, caplog):
    path = fetch(NAME)
    assert path == tmp_path / "cache" / "model.bin" and path.read_bytes() == CONTENT
    assert "license CC-BY-4.0 (https://doi.org/10.0/none)" in caplog.text
    assert not part_of(tmp_path).exists()
    caplog.clear()
    server.shutdown()  # offline from here on
    assert fetch(NAME) == path and not caplog.text and len(server.requests) == 1


@pytest.mark.parametrize(
    "faults, ranges",
    [
        (["interrupted"], [None, "bytes=524288-"]),
        (["interrupted", "interrupted"], [None, "bytes=524288-", "bytes=786432-"]),
        (["busy", "interrupted", "busy"], [None, None, "bytes=524288-", "bytes=524288-"]),
        (["interrupted", "no ranges"], [None, "bytes=524288-"]),
        (["interrupted", "other bytes"], [None, "bytes=524288-", None]),
    ],
)
def test_interruptions(server, faults, ranges):
    server.faults = faults.copy()
    assert fetch(NAME, retry=QUICK).read_bytes() == CONTENT
    assert [r for _, r in server.requests] == ranges


def test_next_call_continues(server, tmp_path):
    server.faults = ["interrupted"] + ["busy"] * 3
    with pytest.raises(ConnectionError, match="503"):
        fetch(NAME, retry=QUICK)
    assert part_of(tmp_path).stat().st_size == len(CONTENT) // 2
    server.requests.clear()
    assert fetch(NAME, retry=QUICK).read_bytes() == CONTENT
    assert server.requests == [("/files/model.bin", "bytes=524288-")]


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more", b"x" * 100])
def test_what_an_earlier_call_left(server, tmp_path, left):
    (tmp_path / "cache").mkdir()
    part_of(tmp_path).write_bytes(left)
    assert fetch(NAME, retry=QUICK).read_bytes() == CONTENT


def test_wrong_md5(server, tmp_path):
    server.content = CONTENT[::-1]
    with pytest.raises(ConnectionError, match=f"MD5 {hashlib.md5(CONTENT[::-1]).hexdigest()} instead of"):
        fetch(NAME, retry=QUICK)
    assert not (tmp_path / "cache" / "model.bin").exists() and not part_of(tmp_path).exists()


def test_damaged_copy_in_the_cache(server, tmp_path, caplog):
    fetch(NAME).write_bytes(CONTENT[:-1])
    assert fetch(NAME).read_bytes() == CONTENT and "has another MD5" in caplog.text


def test_offline(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match="a copy from elsewhere is used if it is put at") as e:
        fetch(NAME, retry=QUICK)
    assert str(tmp_path / "cache" / "model.bin") in str(e.value) and f"{server.url}/model.bin" in str(e.value)
    (tmp_path / "cache" / "model.bin").write_bytes(CONTENT)
    assert fetch(NAME).read_bytes() == CONTENT


def test_mirrors_come_first(server):
    root = server.url.removesuffix("/files")
    assert fetch(NAME, mirrors=[f"{root}/other", f"{root}/files/"], retry=QUICK).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/other/model.bin", "/files/model.bin"]


def test_two_at_once_download_once(server):
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(NAME))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(server.requests) == 1


def test_names(tmp_path, monkeypatch):
    assert NAME in published() and is_published_name(NAME)
    monkeypatch.chdir(tmp_path)
    for path in ("model.safetensors", "a/b:c", "C:x", "example", "./test.org:a/b:1/c"):
        assert not is_published_name(path)
    with pytest.raises(
        ValueError, match=f"name must be that of a published model, got .*none:0.*known: .*{NAME}"
    ):
        load_model("test.org:group/none:0")


def test_load_model_downloads(server, caplog):
    caplog.set_level(logging.WARNING)
    with pytest.raises(ValueError, match="path must be a complete model file"):  # the bytes are no model
        load_model(NAME)
    assert "downloading" in caplog.text and len(server.requests) == 1
