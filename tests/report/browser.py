"""A headless Chromium driven over WebDriver's plain HTTP, for tests that look at a page."""

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1180,1400",
)  # fmt: skip


def why_not() -> str:
    """Return why no browser can be started, or nothing."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(missing)} not installed (Debian: chromium, chromium-driver)" if missing else ""


class Browser:
    """One session."""

    def __init__(self, base):
        self._base = base
        options = {"args": list(FLAGS), "binary": shutil.which("chromium")}
        self._folder = tempfile.mkdtemp(prefix="chromium-")
        options["args"].append(f"--user-data-dir={self._folder}")
        wanted = {"browserName": "chrome", "goog:chromeOptions": options}
        wanted["goog:loggingPrefs"] = {"browser": "ALL", "performance": "ALL"}
        self._session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["value"]

    def open(self, address):
        """Load a page and wait for it."""
        self._call("POST", f"/session/{self._session}/url", {"url": address})

    def run(self, script):
        """Return what a script in the page returns."""
        return self._call("POST", f"/session/{self._session}/execute/sync", {"script": script, "args": []})

    def log(self, kind):
        """Return the entries of a log since the last call."""
        return self._call("POST", f"/session/{self._session}/se/log", {"type": kind})

    def close(self):
        """End the session."""
        self._call("DELETE", f"/session/{self._session}")
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def browser():
    """Yield a browser."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["chromedriver", f"--port={port}"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        page = Browser(f"http://127.0.0.1:{port}")
        try:
            yield page
        finally:
            page.close()
    finally:
        driver.terminate()
        driver.wait()
