"""Published data: fetched once, resumed, checked; every failure is one line."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qmodel.errors import InputError
from qmodel.io.data_sets import DATA_SETS, DataSet, data_folder, fetch_data, list_data

pytest.importorskip("pooch")
CONTENT = b"arrival_s,prompt_tokens,output_tokens\n" + b"0,5,5\n" * 5000


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT, whole or from a byte on; `broken` says it is longer than what it sends."""

    broken = False
    asked: list

    def do_GET(self):
        span = self.headers.get("Range")
        self.asked.append(span)
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        body = CONTENT[start:]
        if start and not body:
            self.send_error(416)
            return
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.broken else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("QMODEL_DATA", str(tmp_path / "data"))
    Server.broken, Server.asked = False, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def known(url: str, content: bytes = CONTENT) -> dict:
    entry = DataSet(
        file="t.csv", url=f"{url}t.csv", sha256=hashlib.sha256(content).hexdigest(), licence="none", about="test"
    )
    return {"test": entry}


def test_fetched_once_and_listed(server):
    sets = known(server)
    assert list_data(sets)[0]["path"] is None
    path = fetch_data("test", sets)
    assert path.read_bytes() == CONTENT
    assert path.parent == data_folder()
    assert fetch_data("test", sets) == path
    assert len(Server.asked) == 1
    assert list_data(sets)[0]["path"] == str(path)
    assert [p.name for p in data_folder().iterdir()] == ["t.csv"]


def test_a_broken_download_is_resumed(server):
    sets = known(server)
    Server.broken = True
    with pytest.raises(InputError, match="missing"):
        fetch_data("test", sets)
    assert not (data_folder() / "t.csv").exists()
    Server.broken = False
    assert fetch_data("test", sets).read_bytes() == CONTENT
    assert Server.asked == [None, f"bytes={len(CONTENT) // 2}-"]


def test_other_content_is_refused_and_left_nowhere(server):
    with pytest.raises(InputError, match="unchanged") as caught:
        fetch_data("test", known(server, b"other"))
    assert "\n" not in str(caught.value)
    assert list(data_folder().iterdir()) == []


def test_offline_says_where_to_put_the_file(server):
    with pytest.raises(InputError, match="put it at"):
        fetch_data("test", known("http://127.0.0.1:1/"))


def test_unknown_names_and_complete_entries():
    with pytest.raises(InputError, match="azure-2023-conv"):
        fetch_data("azure-2030")
    for entry in DATA_SETS.values():
        assert entry.url.startswith("https://")
        assert len(entry.sha256) == 64
        assert "/" not in entry.file
