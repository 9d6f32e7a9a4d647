"""A cluster whose Pods are replaced in order while people look at pages: nobody may be missing from any count, on any node, at any time."""

import re
import time
from collections import Counter as Tally

from counters import Counter, manifest
from kube import Failed, Kube, check, wait
from live import Broken, Refused, Stream
from load import Connection, Lost
from reach import ADMIN_PORT, reach
from viewers import Absences, Asker, Follower, Pulse, Reader, Seen

NAME = "watched"
SHARDS, REPLICAS = 2, 2
PAGES = [f"live-{number}" for number in range(6)]
# A tab that shows several pages views this one, too.
SHARED = PAGES[0]
SOCKETS, STREAMS, PULSES, WATCHERS = 36, 12, 12, 4
# Enough for each node to get one of them, however they are dealt out.
PROBES = 32
# Someone counts at the most at the node that stops, at its heir, and where the client is back.
TIMES_MAX = 3
# Not what it may take, but what a machine that is short of processors may make of it.
SETTLE_SECONDS = 60


class Audience:
    """Sixty viewers of six pages, in each of the ways there are, and some who only watch. Where WebSockets do not get through, streams of
    one page each stand for them."""

    def __init__(self, service: str, upgrades: bool):
        self.absences = Absences()
        page_of = lambda number: PAGES[number % len(PAGES)]  # noqa: E731
        sockets = [socket_of(number, page_of(number)) for number in range(SOCKETS)]
        if not upgrades:
            sockets = [(name, pages[:1], session) for name, pages, session in sockets]
        sessions = {(page, session or name) for name, pages, session in sockets for page in pages}
        viewers = Tally(page for page, _ in sessions) + Tally(map(page_of, range(STREAMS))) + Tally(map(page_of, range(PULSES)))
        self.seen = Seen(dict(sorted(viewers.items())))
        common = (service, self.seen, self.absences)
        self.clients = [
            *((Follower if upgrades else Reader)(name, *common, pages, f"session={session}" if session else "") for name, pages, session in sockets),
            *(Reader(f"stream-{number}", *common, [page_of(number)]) for number in range(STREAMS)),
            *(Pulse(f"pulse-{number}", *common, page_of(number)) for number in range(PULSES)),
        ]
        if upgrades:
            self.watchers = [Follower(f"watcher-{number}", *common, PAGES, observe=True) for number in range(WATCHERS)]
        else:
            self.watchers = [Reader(f"watcher of {page}", *common, [page], observe=True) for page in PAGES]

    def start(self):
        for client in [*self.clients, *self.watchers]:
            client.start()

    def leave(self):
        for client in self.clients:
            client.leave()
        for client in self.clients:
            client.join(SETTLE_SECONDS)
            check(not client.is_alive(), f"{client.name} does not end")
            self.seen.forget(client.name)

    def end(self):
        for client in [*self.clients, *self.watchers]:
            client.leave()


def socket_of(number: int, page: str) -> tuple[str, list[str], str]:
    """A WebSocket's name, its pages, and the id of its session, where it has one: every third looks at a second page, every fourth
    has an id, and the first four of these have the same: two of them are one viewer of their page."""
    pages = [page, SHARED] if number % 3 == 0 and page != SHARED else [page]
    session = f"tab-{max(number, len(PAGES) * 2)}" if number % 4 == 0 else ""
    return f"socket-{number}", pages, session


class Rollout:
    """The cluster, from its making on."""

    def __init__(self, kube: Kube, storage: dict):
        self.kube = kube
        self.counter = Counter(kube, NAME)
        kube.apply(manifest(NAME, shards=SHARDS, replicas=REPLICAS, storage=storage))

    def begin(self) -> str:
        """Starts all viewers, and waits until each node says that they are there."""
        self.counter.wait_settled(SHARDS, REPLICAS)
        self.reach = reach(self.kube)
        if not self.reach.upgrades:
            self.kube.place.not_run.append("WebSockets while Pods are replaced: they do not get through the API server's proxy; event streams did")
        wait("the Service leads to every node", self.is_led_to_all, SETTLE_SECONDS)
        self.audience = Audience(self.reach.service(NAME), self.reach.upgrades)
        self.seen = self.audience.seen
        self.addresses = {}
        self.look()
        self.askers = [Asker(f"asker of {name}", lambda name=name: self.addresses.get(name), self.seen, self.audience.absences) for name in sorted(self.addresses)]
        self.audience.start()
        for asker in self.askers:
            asker.start()
        self.all_told()
        open_at = self.figures("counter_live_connections_open")
        self.check_spread(open_at)
        return f"{sum(self.seen.viewers.values())} viewers of {len(PAGES)} pages, connections by node: {sorted(open_at.values())}"

    def is_led_to_all(self) -> bool:
        """Whether connections through the Service come to every node: what routes to a Pod follows its readiness by a moment."""
        streams = []
        try:
            for _ in range(PROBES):
                streams.append(Stream(self.reach.service(NAME), "/live", ""))
            open_at = self.figures("counter_live_connections_open")
        except (Broken, Refused) as error:
            raise Failed(f"a stream of the site: {error}") from error
        finally:
            for stream in streams:
                stream.close()
        self.check_spread(open_at)
        return True

    def check_spread(self, open_at: dict[str, int]):
        check(all(open_at.values()), f"some node has no live connection: {open_at}")

    def look(self) -> dict[str, str]:
        """Where Pods are now; askers follow. Returns their UIDs."""
        pods = self.counter.pods()
        for pod in pods:
            if pod["status"].get("podIP"):
                self.addresses[pod["metadata"]["name"]] = self.reach.pod(pod)
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}

    def all_told(self) -> float:
        """Until everybody was told last what is the case. Returns after how many seconds."""
        began = time.monotonic()

        def exact():
            if differing := self.seen.differing():
                raise Failed(f"{len(differing)} were told otherwise: {differing[:8]}")
            return True

        wait("every node and client knows exactly who is there", exact, SETTLE_SECONDS)
        return time.monotonic() - began

    def figures(self, name: str) -> dict[str, int]:
        """The sum of a metric over its labels, by Pod."""
        found = {}
        for pod in self.counter.pods():
            connection = Connection(self.reach.pod(pod, ADMIN_PORT))
            try:
                status, text = connection.request("GET", "/metrics")
            except (OSError, Lost) as error:
                raise Failed(f"{pod['metadata']['name']}: {error}") from error
            finally:
                connection.close()
            values = re.findall(rf"^{name}(?:{{.*}})? (\d+)$", text.decode(), re.MULTILINE)
            check(status == 200 and values, f"/metrics answered {status}, and {name} is not there")
            found[pod["metadata"]["name"]] = sum(map(int, values))
        return found

    def restart(self) -> str:
        """Replaces every Pod, as a change of the spec does."""
        change = '{"spec": {"podAnnotations": {"example.org/restarted": "once"}}}'
        return self.watched(set(self.look()), lambda: self.kube.run("patch", f"distributedcounter/{NAME}", "--type=merge", "-p", change))

    def drain(self) -> str:
        """Drains the machine of one Pod of each shard, at the same time: those which have most viewers."""
        open_at = self.figures("counter_live_connections_open")
        victims = {max((name for name in open_at if name.startswith(f"{NAME}-{shard}-")), key=open_at.get) for shard in range(SHARDS)}
        return self.watched(victims, lambda: self.kube.place.drain(self.kube, sorted(victims)))

    def watched(self, names: set[str], change) -> str:
        """Makes a change that replaces these Pods, and holds what everybody was told meanwhile against who was there."""
        before = self.look()
        self.seen.begin()
        self.audience.absences.begin()
        change()

        def replaced():
            now = self.look()
            return all(name in now and now[name] != before[name] for name in names)

        wait(f"{', '.join(sorted(names))} are replaced", replaced, 240)
        self.counter.wait_settled(SHARDS, REPLICAS)
        self.look()
        self.all_told()
        told = f"{self.seen.ranges()}; {self.audience.absences}"
        for wrong in (self.seen.missing(), self.seen.beyond(TIMES_MAX)):
            check(not wrong, f"{wrong[:6]}; {told}")
        check(self.audience.absences.ends["sent elsewhere"] > 0, f"nobody had to go: {told}")
        lost = self.figures("counter_live_orphans_lost_total")
        check(not any(lost.values()), f"viewers counted although they were long back: {lost}; {told}")
        return told

    def finish(self) -> str:
        """All viewers leave, and no page counts anybody."""
        self.seen.viewers = dict.fromkeys(PAGES, 0)
        self.audience.leave()
        seconds = self.all_told()
        self.end()
        return f"nobody is counted {seconds:.1f} s after the last has left"

    def end(self):
        self.audience.end()
        for asker in self.askers:
            asker.leave()
        self.reach.close()
