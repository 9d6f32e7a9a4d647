"""Where the tests run: a context that E2E_CONTEXT names, kind where Docker runs, or a bare one-node cluster of our own.

Never the ambient KUBECONFIG: a test that deletes things must be told which cluster it may do that in.
"""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "tests" / "cluster" / "cluster"
IMAGES = ROOT / "target" / "images"
VERSION = os.environ.get("IMAGE_VERSION", "0.1.0")
OPERATOR_IMAGE = f"distributed-counter/operator:{VERSION}"
NODE_IMAGE = f"distributed-counter/counter-node:{VERSION}"


def archives() -> list[Path]:
    made = [IMAGES / "operator.tar", IMAGES / "counter-node.tar"]
    if missing := [str(path) for path in made if not path.exists()]:
        raise OSError(f"{', '.join(missing)} is missing; run 'make image'")
    return made


class Place:
    """A Kubernetes cluster: how it starts and ends, and how tools and clients reach it."""

    name = ""
    # Whether Pod and Service addresses can be reached from this machine; through the API server otherwise.
    direct = False
    # What cannot be proved here, with the reason.
    not_run: list[str] = []

    operator_image = OPERATOR_IMAGE
    node_image = NODE_IMAGE
    pull_policy = "Never"

    def up(self):
        """Starts it and loads the images."""

    def down(self):
        """Ends what `up` started."""

    def drain(self, kube, pods: list[str]):
        """Has these Pods leave their machines, as far as may be done to machines here."""
        kube.run("delete", "pod", *pods)

    def reachable(self) -> bool:
        """Whether there is anything to gather evidence from."""
        asked = subprocess.run([*self.kubectl(), "get", "--raw", "/readyz"], capture_output=True, timeout=30, check=False)
        return asked.returncode == 0

    def kubectl(self) -> list[str]:
        raise NotImplementedError

    def helm(self) -> list[str]:
        raise NotImplementedError


class Own(Place):
    """One that this run has made, with all its machines."""

    def drain(self, kube, pods):
        machines = {pod["spec"]["nodeName"] for pod in kube.items("pods") if pod["metadata"]["name"] in pods}
        selector = f"statefulset.kubernetes.io/pod-name in ({','.join(pods)})"
        for machine in sorted(machines):
            try:
                kube.run("drain", machine, f"--pod-selector={selector}", "--delete-emptydir-data", "--timeout=120s")
            finally:
                kube.run("uncordon", machine)


class Bare(Own):
    """A one-node cluster of real programs on this machine, made for the run and removed after it."""

    name = "a bare one-node cluster"
    direct = True

    def __init__(self):
        self.not_run = [
            "several machines: the bare cluster has one node",
            "enforced NetworkPolicy: the bare cluster's network plugin enforces none",
            "kind: no Docker daemon with kind on this machine",
        ]
        self.programs = Path(subprocess.check_output([CLUSTER, "bin"], text=True).strip())
        self.folder = os.environ.get("CLUSTER_DIR", "/var/lib/dc-cluster")
        self.started = False

    def up(self):
        # Somebody else's cluster is neither to be used nor, at the end, to be removed.
        if Path(self.folder).exists():
            raise OSError(f"a cluster is already there in {self.folder}; end it by 'tests/cluster/cluster down'")
        images = archives()
        self.started = True
        subprocess.run([CLUSTER, "up"], check=True, timeout=1800)
        subprocess.run([CLUSTER, "load", *images], check=True, timeout=120)

    def down(self):
        if self.started:
            subprocess.run([CLUSTER, "down"], check=False, timeout=180)

    def kubectl(self):
        return [str(self.programs / "kubectl"), "--kubeconfig", f"{self.folder}/admin.kubeconfig"]

    def helm(self):
        return [str(self.programs / "helm"), "--kubeconfig", f"{self.folder}/admin.kubeconfig"]


class Kind(Own):
    """A kind cluster of this run's own."""

    name = "kind"
    cluster = "dc-e2e"

    def __init__(self):
        self.not_run = ["enforced NetworkPolicy: depends on kind's version"]
        self.kubeconfig = str(ROOT / "target" / "e2e" / "kind.kubeconfig")

    def up(self):
        images = archives()
        Path(self.kubeconfig).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["kind", "create", "cluster", "--name", self.cluster, "--kubeconfig", self.kubeconfig, "--wait", "180s"], check=True, timeout=600)
        for archive in images:
            subprocess.run(["kind", "load", "image-archive", archive, "--name", self.cluster], check=True, timeout=300)

    def down(self):
        subprocess.run(["kind", "delete", "cluster", "--name", self.cluster], check=False, timeout=180)

    def kubectl(self):
        return ["kubectl", "--kubeconfig", self.kubeconfig]

    def helm(self):
        return ["helm", "--kubeconfig", self.kubeconfig]


class Context(Place):
    """A cluster that somebody else runs; its images must be where it can pull them."""

    def __init__(self, context):
        self.context = context
        self.name = f"context {context}"
        self.not_run = ["enforced NetworkPolicy: unknown on a foreign cluster"]
        self.operator_image = os.environ.get("E2E_OPERATOR_IMAGE", OPERATOR_IMAGE)
        self.node_image = os.environ.get("E2E_NODE_IMAGE", NODE_IMAGE)
        self.pull_policy = "IfNotPresent"

    def kubectl(self):
        return ["kubectl", "--context", self.context]

    def helm(self):
        return ["helm", "--kube-context", self.context]


def docker_with_kind() -> bool:
    if not (shutil.which("docker") and shutil.which("kind")):
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def choose() -> Place:
    if context := os.environ.get("E2E_CONTEXT"):
        return Context(context)
    return Kind() if docker_with_kind() else Bare()
