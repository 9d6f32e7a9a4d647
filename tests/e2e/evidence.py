"""What a person would look at first after a failure: files in target/e2e, and the end of the most telling ones."""

import subprocess

from counters import CRD
from kube import Failed, Kube
from place import ROOT

FOLDER = ROOT / "target" / "e2e"
OURS = "app.kubernetes.io/name in (distributed-counter, distributed-counter-operator)"


def gather_evidence(place):
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    kube = Kube(place, "default")
    keep(kube, "objects", "get", "all,pvc,configmaps,poddisruptionbudgets,networkpolicies,leases", "-A", "-o", "wide")
    keep(kube, "counters", "get", CRD, "-A", "-o", "yaml")
    keep(kube, "layouts", "get", "configmaps", "-A", "-l", "app.kubernetes.io/name=distributed-counter", "-o", "yaml")
    keep(kube, "events", "get", "events", "-A", "--sort-by=.metadata.creationTimestamp")
    keep(kube, "pods", "describe", "pods", "-A")
    try:
        pods = kube.items("pods", "-A", "-l", OURS)
    except (Failed, subprocess.SubprocessError, OSError):
        pods = []
    for pod in pods:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        keep(Kube(place, namespace), f"log-{name}", "logs", name, "--tail=5000")
        if any(status.get("restartCount") for status in pod["status"].get("containerStatuses", [])):
            keep(Kube(place, namespace), f"log-{name}-previous", "logs", name, "--previous", "--tail=5000")
    print(f"evidence is in {FOLDER}; the ends of some of it:")
    for path in [FOLDER / "objects.txt", FOLDER / "events.txt", *sorted(FOLDER.glob("log-*.txt")), *FOLDER.glob("*.log")]:
        lines = path.read_text().splitlines()
        print(f"--- {path.name}", *lines[-60 if path.stem == "objects" else -8 :], sep="\n")


def keep(kube, name, *command):
    try:
        text = kube.run(*command, check=False, timeout=60)
    except (subprocess.SubprocessError, OSError) as error:
        text = f"could not be asked for: {error}\n"
    (FOLDER / f"{name}.txt").write_text(text)
