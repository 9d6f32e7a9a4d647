"""The steps, in order: each is a method whose first line says what it proves."""

import shutil

from counters import CRD, SITE, Counter, condition, manifest, wait_agreement
from kube import Failed, Kube, check, wait
from load import Clients, read
from outside import Outside, kubeconfig
from place import ROOT
from reach import reach
from rollout import Rollout

CHART = ROOT / "charts" / "distributed-counter"
PAGES = [f"page-{number}" for number in range(24)]
NAME = "page-views"
# An API server that has just got a CRD refuses owners of that kind for some seconds, whoever asks.
STARTING = "cannot find RESTMapping"
VOLUME = {"volume": {"size": "64Mi"}}


class Story:
    def __init__(self, place):
        self.place = place
        self.default = Kube(place, "default")

    def steps(self):
        return [
            self.install, self.create, self.refuse_nonsense, self.start_counting, self.add_shards, self.add_replicas,
            self.delete_a_pod, self.kill_pods, self.compare, self.upgrade, self.refuse_to_shrink, self.uninstall,
            self.delete_and_recreate, self.reach_by_proxy, self.install_namespaced, self.gather_viewers, self.restart_under_viewers,
            self.drain_under_viewers, self.let_viewers_go, self.clean_up,
        ]  # fmt: skip

    def values(self, *more: str) -> list[str]:
        operator, operator_tag = self.place.operator_image.rsplit(":", 1)
        node, node_tag = self.place.node_image.rsplit(":", 1)
        settings = [
            f"image.repository={operator}", f"image.tag={operator_tag}", f"image.pullPolicy={self.place.pull_policy}",
            f"counterNode.image.repository={node}", f"counterNode.image.tag={node_tag}",
            f"counterNode.image.pullPolicy={self.place.pull_policy}", *more,
        ]  # fmt: skip
        return [flag for setting in settings for flag in ("--set", setting)]

    def install(self):
        """The chart installs, and its Pods keep the restricted Pod Security Standard."""
        self.system = self.default.namespaced("counter-system")
        self.system.helm("install", "dc", older_chart(), *self.values("replicas=2"), "--wait", "--timeout", "180s")

    def create(self):
        """A DistributedCounter of one shard and one replica becomes available."""
        self.counting = self.default.namespaced("counting")
        self.counting.apply(manifest(NAME, shards=1, replicas=1, storage=VOLUME))
        self.counter = Counter(self.counting, NAME)
        # `kubectl wait` is the contract that GitOps tools rely on.
        self.counter.wait_condition("Available", "True", 180)
        self.counter.wait_settled(1, 1)
        self.reach = reach(self.counting)
        self.service = self.reach.service(NAME)
        wait("the Service answers", lambda: read_or_none(self.service) == 0, 30)

    def refuse_nonsense(self):
        """The API server refuses impossible specs in words."""
        for wrong, expected in (({"shards": 0}, "shards"), ({"replicas": 8}, "replicas"), ({"shards": "two"}, "shards"), ({"bogus": 1}, "bogus")):
            words = self.counting.refused(manifest("wrong", **wrong))
            check(expected in words, f"{wrong} was refused with {words!r}")
        words = self.counting.refused(manifest("a-nodes"))
        check("-nodes" in words, f"the name a-nodes was refused with {words!r}")

    def start_counting(self):
        """Clients count through the Service."""
        # A pace that leaves two cores room for the kubelet's probes.
        self.clients = Clients(self.service, threads=6, pages=PAGES, updates_per_second=300).start()
        wait("first acknowledgements", lambda: self.clients.totals.outcomes["acknowledged"] > 200, 30)

    def add_shards(self):
        """Shards go from 1 to 3 by the scale subresource while clients count, and while the operator is killed."""
        self.counting.run("scale", f"distributedcounter/{NAME}", "--replicas=3")
        wait("the operator begins", lambda: self.counter.get().get("status", {}).get("observedGeneration", 0) >= 2, 60)
        self.system.run("delete", "pods", "-l", "app.kubernetes.io/name=distributed-counter-operator", "--grace-period=0", "--force")
        self.counter.wait_settled(3, 1)
        return self.so_far()

    def add_replicas(self):
        """Replicas go from 1 to 3 while clients count."""
        self.counting.run("patch", f"distributedcounter/{NAME}", "--type=merge", "-p", '{"spec": {"replicas": 3}}')
        self.counter.wait_settled(3, 3)
        # From here on no single Pod's absence may silence a client for long.
        self.clients.totals.longest_silence_s = 0.0
        return self.so_far()

    def delete_a_pod(self):
        """A Pod is deleted and comes back, with its volume."""
        before = self.counter.pod_uids()
        self.counting.run("delete", "pod", f"{NAME}-0-1")
        self.wait_replaced(before, [f"{NAME}-0-1"])
        return self.so_far()

    def kill_pods(self):
        """Pods of two shards are killed at once, without a grace period."""
        before = self.counter.pod_uids()
        victims = [f"{NAME}-0-0", f"{NAME}-1-2", f"{NAME}-2-1"]
        self.counting.run("delete", "pod", *victims, "--grace-period=0", "--force")
        self.wait_replaced(before, victims)
        silence = self.clients.totals.longest_silence_s
        check(silence < 30, f"a client waited {silence:.1f} s for an acknowledgement while other replicas were there")
        return f"longest silence {silence:.1f} s, {self.so_far()}"

    def wait_replaced(self, before, names):
        def replaced():
            now = self.counter.pod_uids()
            return all(name in now and now[name] != before[name] for name in names)

        wait(f"{', '.join(names)} come back", replaced, 120)
        self.counter.wait_settled(3, 3)

    def compare(self):
        """After quiet, every node gives the same answer, and it is what was acknowledged."""
        self.totals = self.clients.stop()
        self.counts = wait_agreement(self.counter, self.reach, PAGES, self.totals)
        pods = self.counter.pods()
        check(len(pods) == 9, f"{len(pods)} Pods, expected 9")
        restarts = restarts_of(pods)
        return f"{self.counts[SITE]} on {len(pods)} nodes; outcomes {dict(self.totals.outcomes)}; restarts by the kubelet: {restarts or 'none'}"

    def upgrade(self):
        """helm upgrade replaces the operator and the CRD, and touches no Pod of a cluster."""
        before = self.counter.pod_uids()
        templates = self.templates()
        self.system.helm("upgrade", "dc", str(CHART), *self.values("replicas=1", "log.filter=debug"), "--wait", "--timeout", "180s")
        self.touch_and_wait()
        check(self.counter.pod_uids() == before, "helm upgrade replaced Pods of a cluster")
        check(self.templates() == templates, "helm upgrade changed a StatefulSet's Pod template")
        short = self.default.get("crd", CRD)["spec"]["names"]["shortNames"]
        check(short == ["dcounter"], f"helm upgrade left the older CRD: short names {short}")
        self.no_refusals(self.system)

    def templates(self):
        return {item["metadata"]["name"]: item["spec"]["template"] for item in self.counting.items("statefulsets")}

    def touch_and_wait(self):
        """Makes the new operator look at the cluster, so that there is something to wait for."""
        label = "app.kubernetes.io/managed-by=distributed-counter-operator"
        self.counting.run("delete", "poddisruptionbudgets", "-l", label)
        wait("the operator restores what was deleted", lambda: len(self.counting.items("poddisruptionbudgets", "-l", label)) == 3, 60)

    def no_refusals(self, system):
        """The chart's rights are enough: the API server refused nothing."""
        # A Pod of before may go while they are read.
        selector = "app.kubernetes.io/name=distributed-counter-operator"
        log = wait("the operator's logs", lambda: system.run("logs", "-l", selector, "--tail=-1", "--prefix"), 30)
        refused = [line for line in log.splitlines() if "forbidden" in line.lower() and STARTING not in line]
        check(not refused, f"the operator was refused: {refused[:3]}")

    def refuse_to_shrink(self):
        """A smaller spec is refused by a condition, and nothing goes."""
        before = self.counter.pod_uids()
        self.counting.run("scale", f"distributedcounter/{NAME}", "--replicas=1")
        self.counter.wait_condition("ScaleDownBlocked", "True", 60)
        check(self.counter.pod_uids() == before, "a Pod went away")
        check(condition(self.counter.get(), "Available") == "True", "not available")
        self.counting.run("scale", f"distributedcounter/{NAME}", "--replicas=3")
        wait("the condition goes", lambda: condition(self.counter.get(), "ScaleDownBlocked") != "True", 60)
        self.counter.wait_settled(3, 3)

    def uninstall(self):
        """helm uninstall keeps the CRD and every cluster, and they count on without an operator."""
        self.system.helm("uninstall", "dc", "--wait", "--timeout", "120s")
        self.default.run("get", "crd", CRD)
        check(condition(self.counter.get(), "Available") == "True", "the cluster went with the operator")
        wait_agreement(self.counter, self.reach, PAGES, self.totals)

    def delete_and_recreate(self):
        """A deleted cluster leaves nothing running, and one made again under its name counts on from its volumes."""
        self.counting.run("delete", "distributedcounter", NAME, "--wait=true")
        wait("its Pods and StatefulSets go", lambda: not self.counter.pods() and not self.counting.items("statefulsets"), 120)
        self.system.helm("install", "dc", str(CHART), *self.values(), "--wait", "--timeout", "180s")
        self.counting.apply(manifest(NAME, shards=3, replicas=3, storage=VOLUME))
        self.counter.wait_settled(3, 3)
        counts = wait_agreement(self.counter, self.reach, PAGES, self.totals)
        check(counts == self.counts, "the recreated cluster counts differently")
        self.counting.run("delete", "distributedcounter", NAME, "--wait=true")
        self.system.helm("uninstall", "dc", "--wait", "--timeout", "120s")
        self.reach.close()

    def reach_by_proxy(self):
        """An operator outside of the cluster publishes and grows through the API server, with the chart's rights for that."""
        own = self.default.namespaced("outside")
        values = self.values("watchNamespaces={outside}", "reach=proxy", "replicas=0", "crds.install=false")
        own.helm("install", "outside", str(CHART), *values, "--wait", "--timeout", "60s")
        flags = ("--namespace=outside", f"--default-image={self.place.node_image}", f"--image-pull-policy={self.place.pull_policy}")
        operator = Outside(kubeconfig(own, "outside-distributed-counter"), *flags)
        try:
            said = self.grow_from_outside(own, operator)
            check(operator.stop() == 0, "the operator did not end in order")
        finally:
            operator.end()
        own.helm("uninstall", "outside", "--wait", "--timeout", "60s")
        return said

    def grow_from_outside(self, own, operator):
        own.apply(manifest("far", shards=1, replicas=2, storage=VOLUME))
        far, near = Counter(own, "far"), reach(own)
        far.wait_settled(1, 2)
        service = near.service("far")
        clients = Clients(service, threads=2, pages=PAGES, updates_per_second=60).start()
        wait("first acknowledgements", lambda: clients.totals.outcomes["acknowledged"] > 40, 30)
        own.run("scale", "distributedcounter/far", "--replicas=2")
        far.wait_settled(2, 2)
        counts = wait_agreement(far, near, PAGES, clients.stop())
        near.close()
        calls = operator.calls()
        # Each call was one of the API server's proxy: there is no other way for this operator.
        for call in ("status", "layout"):
            check(calls.get((call, "ok"), 0) > 0, f"no call of {call} succeeded: {calls}")
            wrong = {key: count for key, count in calls.items() if key[0] == call and key[1] not in ("ok", "unreachable", "late")}
            check(not wrong, f"calls through the proxy were refused: {wrong}; {operator.lines('refused')[:3]}")
        refused = [line for line in operator.lines("forbidden") if STARTING not in line]
        check(not refused, f"the operator was refused: {refused[:3]}")
        own.run("delete", "distributedcounter", "far", "--wait=true")
        return f"{counts[SITE]} on 4 nodes; calls {calls}"

    def install_namespaced(self):
        """A namespaced install has no ClusterRole, runs its namespaces' clusters, and sees no other's."""
        self.team, self.team_system = self.default.namespaced("team-a"), self.default.namespaced("team-a-system")
        elsewhere = self.default.namespaced("team-b")
        self.team_system.helm("install", "team", str(CHART), *self.values("watchNamespaces={team-a}", "crds.install=false"), "--wait", "--timeout", "180s")
        self.team.apply(manifest("memory", shards=1, replicas=2, storage={"memory": {}}))
        elsewhere.apply(manifest("memory", shards=1, replicas=2, storage={"memory": {}}))
        # For the next steps.
        self.rollout = Rollout(self.team, VOLUME)
        Counter(self.team, "memory").wait_settled(1, 2)
        check(not elsewhere.items("statefulsets"), "the namespaced install acted in another namespace")
        account = "--as=system:serviceaccount:team-a-system:team-distributed-counter"
        allowed = {
            "list secrets in its namespace": self.team.run("auth", "can-i", "list", "secrets", account, check=False),
            "watch other namespaces": elsewhere.run("auth", "can-i", "list", "distributedcounters", account, check=False),
            "exec into Pods": self.team.run("auth", "can-i", "create", "pods/exec", account, check=False),
        }
        for what, answer in allowed.items():
            check(answer.strip() in ("no", ""), f"the account may {what}: {answer}")
        self.team.run("delete", "distributedcounter", "memory")

    def gather_viewers(self):
        """Sixty clients view pages through the Service, and every node says exactly how many they are."""
        return self.rollout.begin()

    def restart_under_viewers(self):
        """Every Pod is replaced, one by one, and no viewer is ever missing from a count."""
        return self.rollout.restart()

    def drain_under_viewers(self):
        """Pods of both shards are drained at once, and no viewer is ever missing from a count."""
        return self.rollout.drain()

    def let_viewers_go(self):
        """When all viewers leave, nobody is counted any more."""
        return self.rollout.finish()

    def clean_up(self):
        """The API server refused the namespaced install nothing, and it goes."""
        self.no_refusals(self.team_system)
        self.team_system.helm("uninstall", "team", "--wait", "--timeout", "120s")
        for namespace in ("team-a", "team-b", "counting", "counter-system", "team-a-system", "outside"):
            self.default.run("delete", "namespace", namespace, "--wait=false")

    def so_far(self) -> str:
        outcomes = self.clients.totals.outcomes
        if self.clients.failure:
            raise Failed(str(self.clients.failure))
        reasons = "".join(f"\n            {count} × {reason}" for reason, count in self.clients.totals.reasons.most_common(8))
        return ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) + reasons


def restarts_of(pods) -> dict[str, int]:
    """Containers that the kubelet started again. One that ended by itself crashed, which nothing here excuses; one that was
    ended (by a signal, in order or not) failed its liveness probe, which a machine that is short of processors can cause."""
    restarts = {}
    for pod in pods:
        for status in pod["status"].get("containerStatuses", []):
            if status["restartCount"]:
                restarts[pod["metadata"]["name"]] = status["restartCount"]
                code = status["lastState"].get("terminated", {}).get("exitCode")
                check(code in (0, 137, 143), f"{pod['metadata']['name']} ended by itself with exit code {code}")
    return restarts


def older_chart() -> str:
    """The chart with another CRD, as an older release would have it."""
    older = ROOT / "target" / "e2e" / "older-chart"
    shutil.rmtree(older, ignore_errors=True)
    shutil.copytree(CHART, older)
    crd = older / "files" / "crd.yaml"
    text = crd.read_text()
    check("- dcounter\n" in text, "the CRD has no short name to change")
    crd.write_text(text.replace("- dcounter\n", "- dcounter\n    - olddcounter\n", 1))
    return str(older)


def read_or_none(base: str):
    try:
        return read(base, "/counter")
    except Exception as error:  # noqa: BLE001 - any failure means "not yet"
        raise Failed(str(error)) from error
