"""What the tests ask of a DistributedCounter and its nodes."""

from kube import Failed, Kube, check, wait
from load import Lost, Totals, read

CRD = "distributedcounters.distributedcounter.dev"


def manifest(name: str, **spec) -> dict:
    return {"apiVersion": "distributedcounter.dev/v1alpha1", "kind": "DistributedCounter", "metadata": {"name": name}, "spec": spec}


def condition(counter: dict, kind: str) -> str:
    for item in counter.get("status", {}).get("conditions", []):
        if item["type"] == kind:
            return item["status"]
    return "absent"


def serves(pod: dict) -> bool:
    """Whether the kubelet says that the Pod is ready, and nobody has asked for its end."""
    conditions = {item["type"]: item["status"] for item in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


class Counter:
    """One DistributedCounter."""

    def __init__(self, kube: Kube, name: str):
        self.kube, self.name = kube, name

    def get(self) -> dict:
        return self.kube.get("distributedcounter", self.name)

    def pods(self) -> list[dict]:
        selector = f"app.kubernetes.io/name=distributed-counter,app.kubernetes.io/instance={self.name}"
        return self.kube.items("pods", "-l", selector)

    def pod_uids(self) -> dict[str, str]:
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in self.pods()}

    def wait_settled(self, shards: int, replicas: int, seconds: float = 240):
        """Until the status says, of the newest spec, that all of it is there and nothing is on the move, and the kubelet
        says so of every Pod: the status follows what happens to Pods by a moment."""

        def settled():
            counter = self.get()
            status = counter.get("status", {})
            seen = {
                "observedGeneration": status.get("observedGeneration") == counter["metadata"]["generation"],
                "Available": condition(counter, "Available") == "True",
                "Reconciling": condition(counter, "Reconciling") != "True",
                "Stalled": condition(counter, "Stalled") != "True",
                "shards": (status.get("shards"), status.get("readyShards")) == (shards, shards),
                "nodes": (status.get("nodes"), status.get("readyNodes")) == (shards * replicas, shards * replicas),
                "move": not status.get("move"),
                "Pods": sum(serves(pod) for pod in self.pods()) == shards * replicas,
            }
            wrong = [name for name, right in seen.items() if not right]
            if wrong:
                raise Failed(f"{', '.join(wrong)} of status {status}")
            return True

        wait(f"{self.name} settles at {shards} shards of {replicas}", settled, seconds)

    def wait_condition(self, kind: str, status: str, seconds: float = 60):
        self.kube.run("wait", f"--for=condition={kind}={status}", f"distributedcounter/{self.name}", f"--timeout={seconds:.0f}s", timeout=seconds + 30)


def wait_agreement(counter: Counter, reach, pages: list[str], totals: Totals, seconds: float = 60) -> dict[str, int]:
    """Until every node gives the same answers, then holds them against what the clients know."""

    def agreed():
        pods = counter.pods()
        answers = {pod["metadata"]["name"]: answers_of(reach.pod(pod), pages) for pod in pods}
        differing = {page: {name: answer[page] for name, answer in answers.items()} for page in [*pages, SITE] if len({answer[page] for answer in answers.values()}) != 1}
        if differing or not pods:
            raise Failed(f"nodes differ: {differing}")
        return next(iter(answers.values()))

    counts = wait("all nodes agree", agreed, seconds)
    for page in pages:
        lowest, highest = totals.bounds(page)
        check(lowest <= counts[page] <= highest, f"{page} counts {counts[page]}, but clients know it to be in {lowest}..{highest}")
    lowest, highest = totals.site_bounds()
    check(lowest <= counts[SITE] <= highest, f"the site counts {counts[SITE]}, but clients know it to be in {lowest}..{highest}")
    check(counts[SITE] == sum(counts[page] for page in pages), f"the site counts {counts[SITE]}, its pages {sum(counts[page] for page in pages)}")
    return counts


SITE = ""


def answers_of(base: str, pages: list[str]) -> dict[str, int]:
    try:
        answers = {page: read(base, f"/{page}/counter") for page in pages}
        answers[SITE] = read(base, "/counter")
    except (OSError, Lost) as error:
        raise Failed(f"{base}: {error}") from error
    return answers
