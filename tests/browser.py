"""Chromium without a window, driven by the WebDriver protocol of Debian's ``chromium-driver``."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]
TAB = "\ue004"


class Browser:
    """One window."""

    def __init__(self, address: str) -> None:
        options = {"binary": CHROMIUM, "args": ARGUMENTS}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self._address = f"{address}/session"
        self._address += f"/{self._ask('', {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"

    def open(self, page: Path, *, width: int = 1280, scheme: str = "light") -> None:
        """Open a page in a window of this width, for a reader who prefers this colour scheme."""
        self.develop("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        self.develop("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._ask("/url", {"url": page.as_uri()})

    def script(self, body: str) -> Any:
        """Run a script in the page; give what it returns."""
        return self._ask("/execute/sync", {"script": body, "args": []})

    def develop(self, command: str, **parameters: object) -> Any:
        """Give a command of the developer tools."""
        return self._ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def press(self, key: str) -> None:
        """Press a key."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._ask("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Take what was logged since the last time: ``browser`` for the console, ``performance`` for the network."""
        return self._ask("/se/log", {"type": kind})

    def requests(self) -> list[str]:
        """Take the addresses that were asked for since the last time."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def close(self) -> None:
        """Close the window."""
        self._ask("", None, method="DELETE")

    def _ask(self, path: str, body: object, *, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, method=method)  # noqa: S310  # this machine
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return json.load(answer)["value"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the driver and a window; both are gone afterwards."""
    assert DRIVER is not None
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        assert driver.stdout is not None
        port = next(line.rstrip(".\n").split()[-1] for line in driver.stdout if "on port" in line and "success" in line)
        try:
            browser = Browser(f"http://127.0.0.1:{port}")
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.terminate()
