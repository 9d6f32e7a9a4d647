"""kubectl and helm, and waiting on conditions with a deadline."""

import json
import subprocess
import time


class Failed(Exception):
    """A check that does not hold; the message says which and what was there instead."""


class Kube:
    def __init__(self, place, namespace):
        self.place = place
        self.namespace = namespace

    def run(self, *args, input=None, check=True, timeout=180) -> str:
        """kubectl in the namespace; a refusal raises with kubectl's words, or is returned where `check` is off."""
        command = [*self.place.kubectl(), "-n", self.namespace, *args]
        done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise Failed(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else done.stderr

    def get(self, *args) -> dict:
        return json.loads(self.run("get", *args, "-o", "json"))

    def items(self, *args) -> list[dict]:
        return self.get(*args)["items"]

    def apply(self, manifest: dict):
        self.run("apply", "-f", "-", input=json.dumps(manifest))

    def refused(self, manifest: dict) -> str:
        """What the API server says about a manifest that it must not take."""
        command = [*self.place.kubectl(), "-n", self.namespace, "apply", "-f", "-"]
        done = subprocess.run(command, input=json.dumps(manifest), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            raise Failed(f"the API server took {manifest}")
        return done.stderr

    def helm(self, *args, timeout=300) -> str:
        done = subprocess.run([*self.place.helm(), "-n", self.namespace, *args], capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise Failed(f"helm {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def namespaced(self, name: str) -> "Kube":
        """The same cluster in another namespace, which is made with the restricted Pod Security Standard enforced."""
        other = Kube(self.place, name)
        other.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
        return other


def wait(what: str, holds, seconds: float):
    """Polls until `holds()` returns a true value, and returns it. `holds` may raise Failed to say why not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            last = holds()
            if last:
                return last
        except Failed as failure:
            last = failure
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:.0f} s; last seen: {last}")
        time.sleep(0.5)


def check(holds: bool, message: str):
    if not holds:
        raise Failed(message)
