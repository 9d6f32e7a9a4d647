"""Clients that view pages for as long as they are told to, coming back whenever they are sent away, and what all are told meanwhile.

They do as `ui/live.js` does: a connection that ends is replaced by one with the token of the last, after the time that the node
has named, and longer after each failure.
"""

import json
import random
import threading
import time
from collections import Counter
from urllib.parse import quote

from live import Broken, Refused, Stream, WebSocket
from load import Connection, Lost

RETRY_MS = (200, 3_000)
RETRY_MS_MAX = 30_000
HEARTBEAT_SECONDS = 20
# Between two questions to one node.
ASK_SECONDS = 0.1
# A node that is there answers, or says after a second that it cannot know; an address where nothing is any more never does.
ANSWER_SECONDS = 3


class Seen:
    """The counts that clients were told, of pages whose number of viewers does not change while they are watched."""

    def __init__(self, viewers: dict[str, int]):
        self.viewers = viewers
        self.lock = threading.Lock()
        # By who and page; None while they are told nothing.
        self.last = {}
        self.begin()

    def begin(self):
        """Forgets all but what was told last."""
        with self.lock:
            self.began = time.monotonic()
            self.told_count = 0
            self.lowest, self.highest = {}, {}

    def told(self, who: str, page: str, count: int):
        """By somebody who is told each change, or asks all the time."""
        with self.lock:
            self.last[who, page] = count
        self.answered(who, page, count)

    def answered(self, who: str, page: str, count: int):
        """By somebody who has asked."""
        with self.lock:
            self.told_count += 1
            said = (count, f"{who} after {time.monotonic() - self.began:.1f} s")
            self.lowest[page] = min(self.lowest.get(page, said), said, key=lambda one: one[0])
            self.highest[page] = max(self.highest.get(page, said), said, key=lambda one: one[0])

    def follows(self, who: str, pages: list[str]):
        """They are to be told, and were not yet, or not since their connection ended."""
        with self.lock:
            self.last.update(((who, page), None) for page in pages)

    def forget(self, who: str):
        """Whoever is gone for good."""
        with self.lock:
            for key in [key for key in self.last if key[0] == who]:
                del self.last[key]

    def differing(self) -> list[str]:
        """Whose last count of a page is not the number of its viewers."""
        with self.lock:
            return [f"{who}: {count} of {self.viewers[page]} on {page}" for (who, page), count in self.last.items() if count != self.viewers[page]]

    def missing(self) -> list[str]:
        """Where somebody was missing, and nobody may be."""
        with self.lock:
            return [f"{page} has {self.viewers[page]} viewers, and {count} were told to {said}" for page, (count, said) in self.lowest.items() if count < self.viewers[page]]

    def beyond(self, times: int) -> list[str]:
        """Where viewers counted more than so many times."""
        with self.lock:
            return [f"{page} has {self.viewers[page]} viewers, and {count} were told to {said}" for page, (count, said) in self.highest.items() if count > times * self.viewers[page]]

    def ranges(self) -> str:
        with self.lock:
            each = (f"{self.lowest[page][0]}..{self.highest[page][0]} of {self.viewers[page]}" for page in sorted(self.lowest))
            return f"{self.told_count} counts were told: {', '.join(each)}"


class Absences:
    """How connections ended, and how long it took to have the next one."""

    def __init__(self):
        self.lock = threading.Lock()
        self.begin()

    def begin(self):
        with self.lock:
            self.ends = Counter()
            self.longest_s = 0.0

    def ended(self, how: str):
        with self.lock:
            self.ends[how] += 1

    def back(self, after_s: float):
        with self.lock:
            self.longest_s = max(self.longest_s, after_s)

    def __str__(self):
        with self.lock:
            ends = ", ".join(f"{count} × {how}" for how, count in self.ends.most_common())
            return f"connections ended: {ends or 'none'}; at most {self.longest_s:.1f} s without one"


def wait_s(retry_ms, after_s, failures: int, between=random.uniform) -> float:
    """How long a client waits before it connects anew: as the node has said, else longer after each failure."""
    if after_s is not None:
        return after_s
    low, high = retry_ms
    return between(low, min(high * 2 ** max(0, failures - 3), RETRY_MS_MAX)) / 1000


class Client(threading.Thread):
    """One who does something until told to leave."""

    def __init__(self, name: str, base: str, seen: Seen, absences: Absences):
        super().__init__(name=name, daemon=True)
        self.base, self.seen, self.absences = base, seen, absences
        self.leaving = threading.Event()

    def leave(self):
        self.leaving.set()


class Follower(Client):
    """Follows pages over one live connection, as a viewer of them or not."""

    def __init__(self, name, base, seen, absences, pages: list[str], query: str = "", observe: bool = False):
        super().__init__(name, base, seen, absences)
        self.pages, self.observe = pages, observe
        self.query = query + ("&observe=true" if observe else "")
        self.live = None
        self.resume = self.after_s = None
        self.retry_ms, self.failures = RETRY_MS, 0
        self.up_at = self.down_at = None

    def open(self):
        """One live connection, to any node."""
        resume = f"&resume={self.resume}" if self.resume else ""
        return WebSocket(self.base, f"/{quote(self.pages[0])}/live?{self.query}{resume}")

    def run(self):
        while not self.leaving.is_set():
            self.seen.follows(self.name, self.pages)
            how = self.follow()
            if self.leaving.is_set():
                return
            self.absences.ended(how)
            self.failures += 1
            self.leaving.wait(wait_s(self.retry_ms, self.after_s, self.failures))

    def follow(self) -> str:
        """Until the connection ends. Says how it did."""
        self.after_s = None
        try:
            self.live = self.open()
            if self.leaving.is_set():
                self.live.close()
            for message in self.live.messages():
                self.said(message)
            how = "in order"
        except Refused as refused:
            self.after_s = refused.after_s
            return f"refused, {refused}"
        except Broken as broken:
            how = str(broken)
        if self.live is not None:
            self.live.close()
            self.live = None
        if self.down_at is None:
            self.down_at = time.monotonic()
        return "sent elsewhere" if self.after_s is not None else how

    def said(self, message: dict):
        if message["type"] == "hello":
            self.came(message)
        elif message["type"] == "reconnect":
            # This node counts us on for a while only: should the next attempt fail, it is no failure of the node.
            self.after_s, self.retry_ms = message["after_ms"] / 1000, RETRY_MS
        elif message["type"] == "count":
            self.seen.told(self.name, message["page"], message["count"])
        elif message["type"] == "error":
            raise Broken(f"the node says {message['problem']}")

    def came(self, hello: dict):
        self.resume, self.retry_ms, self.failures = hello["resume"], hello["retry_ms"], 0
        if self.down_at is not None:
            self.absences.back(time.monotonic() - self.down_at)
            self.down_at = None
        if self.pages[1:]:
            self.live.send({"type": "subscribe", "pages": self.pages[1:], "observe": self.observe})

    def leave(self):
        super().leave()
        if live := self.live:
            live.close()


class Reader(Follower):
    """Follows one page by server-sent events."""

    def open(self):
        resume = f"&resume={self.resume}" if self.resume else ""
        return Stream(self.base, f"/{quote(self.pages[0])}/live?{self.query}{resume}", self.pages[0])


class Pulse(Client):
    """Views a page by heartbeats alone."""

    def __init__(self, name, base, seen, absences, page: str):
        super().__init__(name, base, seen, absences)
        self.path = f"/{quote(page)}/sessions/{quote(name)}"
        self.page = page
        self.connection = Connection(base)

    def run(self):
        while not self.leaving.is_set():
            held = self.beat("PUT", self.path)
            self.leaving.wait(HEARTBEAT_SECONDS / 2 if held else wait_s(RETRY_MS, None, 0))
        self.until_ended()
        self.connection.close()

    def beat(self, method: str, path: str) -> bool:
        try:
            status, text = self.connection.request(method, path)
        except (OSError, Lost):
            self.absences.ended("heartbeat unanswered")
            return False
        if status == 200:
            self.seen.answered(self.name, self.page, json.loads(text)["count"])
        elif status != 204:
            self.absences.ended(f"heartbeat answered {status}")
        return status in (200, 204)

    def until_ended(self):
        """Says that it leaves, by either of the ways."""
        method, path = random.choice([("DELETE", self.path), ("POST", f"{self.path}/end")])
        for _ in range(20):
            if self.beat(method, path):
                return
            time.sleep(wait_s(RETRY_MS, None, 0))


class Asker(Client):
    """Asks one node for the counts all the time, whether it is ready or not."""

    def __init__(self, name, address, seen, absences):
        super().__init__(name, "", seen, absences)
        self.address = address
        self.path = "/counters?" + "&".join(f"page={quote(page)}" for page in seen.viewers)
        self.answers = Counter()

    def run(self):
        connection, base = None, None
        self.nobody()
        while not self.leaving.is_set():
            if self.address() != base:
                base = self.address()
                connection = Connection(base, ANSWER_SECONDS) if base else None
            if connection is not None:
                self.ask(connection)
            self.leaving.wait(ASK_SECONDS)

    def nobody(self):
        self.seen.follows(self.name, list(self.seen.viewers))

    def ask(self, connection):
        try:
            status, text = connection.request("GET", self.path)
        except (OSError, Lost):
            connection.close()
            self.answers["none"] += 1
            self.nobody()
            return
        self.answers[status] += 1
        results = json.loads(text)["results"] if status == 200 else []
        for result in results:
            if result["status"] == 200:
                self.seen.told(self.name, result["page"], result["count"])
            else:
                self.answers[f"{result['status']} of a page"] += 1
