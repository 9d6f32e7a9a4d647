"""Clients that count, and what they may say about the result afterwards.

Each update ends in one of three ways: acknowledged, surely not applied, or unknown. Nothing is ever sent twice. So, for every
page, in the end:  acknowledged + unknown decrements <= value <= acknowledged + unknown increments.
"""

import http.client
import json
import random
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

REQUEST_SECONDS = 10


class Totals:
    """What the clients know, per page."""

    def __init__(self):
        self.lock = threading.Lock()
        self.acknowledged = Counter()
        self.unknown_up = Counter()
        self.unknown_down = Counter()
        self.outcomes = Counter()
        # Why updates were not acknowledged, for the reader of a run.
        self.reasons = Counter()
        self.longest_silence_s = 0.0

    def record(self, page, change, outcome, reason=""):
        with self.lock:
            self.outcomes[outcome] += 1
            if reason:
                self.reasons[f"{outcome}: {reason}"] += 1
            if outcome == "acknowledged":
                self.acknowledged[page] += change
            elif outcome == "unknown" and change > 0:
                self.unknown_up[page] += change
            elif outcome == "unknown":
                self.unknown_down[page] += change

    def bounds(self, page) -> tuple[int, int]:
        known = self.acknowledged[page]
        return known + self.unknown_down[page], known + self.unknown_up[page]

    def site_bounds(self) -> tuple[int, int]:
        known = sum(self.acknowledged.values())
        return known + sum(self.unknown_down.values()), known + sum(self.unknown_up.values())


class Connection:
    """One kept-alive connection, made anew after any failure."""

    def __init__(self, base: str, seconds: float = REQUEST_SECONDS):
        parts, self.seconds = urlsplit(base), seconds
        self.host, self.port, self.prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self.http = None

    def request(self, method, path, body=None):
        """The status and body; OSError when the connection could not even be made, Lost when it failed later."""
        if self.http is None:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=self.seconds)
            connection.connect()
            self.http = connection
        try:
            headers = {"content-type": "application/json"} if body else {}
            self.http.request(method, self.prefix + path, body=body, headers=headers)
            response = self.http.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Lost(f"{type(error).__name__} {error}") from error
        if response.getheader("connection", "").lower() == "close":
            self.close()
        return response.status, text

    def close(self):
        if self.http is not None:
            self.http.close()
            self.http = None


class Lost(Exception):
    """The connection failed after something may have been sent."""


class Unexpected(Exception):
    """An answer that no correct update gets."""


class Clients:
    """Threads that update pages at a steady pace until told to stop."""

    def __init__(self, base: str, threads: int, pages: list[str], updates_per_second: float):
        self.base, self.pages = base, pages
        self.pause_s = threads / updates_per_second
        self.totals = Totals()
        self.stopping = threading.Event()
        self.failure = None
        self.threads = [threading.Thread(target=self.count, args=(seed,), daemon=True) for seed in range(threads)]

    def start(self):
        for thread in self.threads:
            thread.start()
        return self

    def stop(self) -> Totals:
        self.stopping.set()
        for thread in self.threads:
            thread.join(REQUEST_SECONDS * 3)
        if self.failure:
            raise self.failure
        return self.totals

    def count(self, seed):
        connection = Connection(self.base)
        try:
            self.count_over(connection, random.Random(seed))
        except Unexpected as unexpected:
            self.failure = unexpected
        finally:
            connection.close()

    def count_over(self, connection, choice):
        last_success = time.monotonic()
        while not self.stopping.is_set():
            # Half of all updates go to one page, so that one counter is hot.
            page = self.pages[0] if choice.random() < 0.5 else choice.choice(self.pages)
            change = choice.choice([1, 1, 1, 2, 5, -1])
            outcome, reason = update(connection, page, change)
            self.totals.record(page, change, outcome, reason)
            now = time.monotonic()
            if outcome == "acknowledged":
                with self.totals.lock:
                    self.totals.longest_silence_s = max(self.totals.longest_silence_s, now - last_success)
                last_success = now
            self.stopping.wait(self.pause_s)


def update(connection: Connection, page: str, change: int) -> tuple[str, str]:
    """Sends one update once, and says what became of it, and why where it was not acknowledged."""
    action = "increment" if change > 0 else "decrement"
    body = json.dumps({"action": action, "by": abs(change)})
    try:
        status, text = connection.request("PUT", f"/{page}/counter", body)
    except Lost as error:
        return "unknown", str(error)
    except OSError as error:
        return "not sent", str(error)
    if status == 200:
        return "acknowledged", ""
    problem = f"{status} {problem_type(text)}"
    if status == 429 or (status == 503 and problem_type(text).endswith("not-applied")):
        return "not applied", problem
    if status >= 500:
        return "unknown", problem
    raise Unexpected(f"PUT /{page}/counter answered {status}: {text[:300]!r}")


def problem_type(text: bytes) -> str:
    try:
        return str(json.loads(text).get("type", ""))
    except (ValueError, AttributeError):
        return ""


def read(base: str, path: str) -> int:
    """One GET of a counter."""
    connection = Connection(base)
    try:
        status, text = connection.request("GET", path)
    finally:
        connection.close()
    if status != 200:
        raise Lost(f"GET {base}{path} answered {status}: {text[:300]!r}")
    return json.loads(text)["count"]
