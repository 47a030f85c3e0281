"""A real browser, driven over a pipe by the DevTools protocol: no package, no port, no network."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from select import select

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--mute-audio"]
PATIENCE = 30  # seconds for one answer: the machine may be busy
KEYS = {"ArrowUp": 38, "ArrowDown": 40, "PageUp": 33, "Escape": 27, " ": 32}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser() -> str | None:
    """Path of a chromium, None where there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Tab:
    """One page in a headless chromium: what is typed arrives as from a keyboard, what goes wrong is in `errors`."""

    def __init__(self, folder: Path, *, width: int = 1280, height: int = 900, calm: bool = False):
        self.errors: list[str] = []
        self._answers: dict[int, dict] = {}
        self._number, self._rest, self._loaded = 0, b"", False
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def as_three_and_four() -> None:  # where chromium reads and writes
            # Above 4 first: one of the two may be 3 or 4 itself.
            a, b = os.dup2(theirs_in, 90), os.dup2(theirs_out, 91)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self._process = subprocess.Popen(
            [browser(), *FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"],
            preexec_fn=as_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = ""
        (page,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        found = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        if calm:
            features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
            self.call("Emulation.setEmulatedMedia", features=features)
        self.size(width, height)

    def __enter__(self) -> "Tab":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        self._process.terminate()
        self._process.wait(PATIENCE)
        os.close(self._in)

    def call(self, method: str, **parameters: object) -> dict:
        """What the browser answers."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end, number = time.monotonic() + PATIENCE, self._number
        while number not in self._answers:
            self._listen(end)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def _listen(self, end: float) -> None:
        """Take in what the browser has to say next."""
        ready, _, _ = select([self._in], [], [], max(end - time.monotonic(), 0))
        if not ready:
            raise AssertionError("the browser does not answer")
        piece = os.read(self._in, 1 << 20)
        if not piece:
            raise AssertionError("the browser ended")
        *messages, self._rest = (self._rest + piece).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif message["method"] == "Page.loadEventFired":
                self._loaded = True
            elif message["method"] == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"])[:500])
            elif message["method"] == "Runtime.consoleAPICalled":
                self.errors.append(json.dumps(message["params"]["args"])[:500])
            elif message["method"] == "Log.entryAdded":
                self.errors.append(message["params"]["entry"]["text"])

    def open(self, page: Path, fragment: str = "") -> None:
        """Open a page from disk, and wait until it has loaded."""
        for address in ("about:blank", f"{page.resolve().as_uri()}{fragment}"):  # or a new fragment would load nothing
            self._loaded = False
            self.call("Page.navigate", url=address)
            end = time.monotonic() + PATIENCE
            while not self._loaded:
                self._listen(end)

    def ask(self, script: str) -> object:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, script: str, value: object) -> None:
        """Wait until an expression has a value."""
        end = time.monotonic() + PATIENCE
        while (found := self.ask(script)) != value:
            assert time.monotonic() < end, f"{script} is {found!r}, not {value!r}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press and release a key, as a keyboard would."""
        words = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0]))}
        if len(key) == 1:
            words["text"] = key
        self.call("Input.dispatchKeyEvent", type="keyDown", **words)
        self.call("Input.dispatchKeyEvent", type="keyUp", **words)

    def size(self, width: int, height: int) -> None:
        """Set the window's size in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, out: Path, *, whole: bool = True) -> Path:
        """`out`, a PNG of the page, or of the window."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        out.write_bytes(base64.b64decode(taken["data"]))
        return out
