"""An operator on this machine, outside of the cluster: it reaches nodes through the API server alone."""

import json
import os
import re
import subprocess
import urllib.request
from pathlib import Path

from kube import Failed, Kube, wait
from place import ROOT

FOLDER = ROOT / "target" / "e2e"
# By the processor's time that a test machine may lack, not by what it takes.
STOP_SECONDS = 30


def binary() -> Path:
    """The operator's program for this machine."""
    path = Path(os.environ.get("OPERATOR_BINARY", ROOT / "target" / "debug" / "operator"))
    if not path.exists():
        raise OSError(f"{path} is missing; run 'make programs', or say where it is by OPERATOR_BINARY")
    return path


def kubeconfig(kube: Kube, account: str) -> Path:
    """A file by which a program is `account` of the namespace, with the rights that the chart gives it and no others."""
    config = json.loads(kube.run("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))
    token = kube.run("create", "token", account, "--duration=1h").strip()
    config["users"] = [{"name": "outside", "user": {"token": token}}]
    config["contexts"] = [{"name": "outside", "context": {**config["contexts"][0]["context"], "user": "outside", "namespace": kube.namespace}}]
    config["current-context"] = "outside"
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "outside.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


class Outside:
    """A running `operator run --reach proxy`."""

    def __init__(self, config: Path, *flags: str):
        self.config = config
        self.log = FOLDER / "operator-outside.log"
        command = [str(binary()), "run", "--reach=proxy", "--health=127.0.0.1:0", "--leader-elect=false", "--log=info,operator=debug", *flags]
        # Nothing of the caller's surroundings may lead it into another cluster.
        environment = {"PATH": os.environ["PATH"], "KUBECONFIG": str(config)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.base = wait("the operator says where its probes are", self.serves_at, 30)
            wait("the operator is ready", lambda: self.get("/readyz"), 60)
        except BaseException:
            self.end()
            raise

    def serves_at(self) -> str:
        if self.process.poll() is not None:
            raise Failed(f"the operator ended with exit code {self.process.returncode}: {self.log.read_text()[-600:]}")
        said = re.search(r"address=(127\.0\.0\.1:\d+)", self.log.read_text())
        return f"http://{said[1]}" if said else ""

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"{self.base}{path}", timeout=10) as answer:
                return answer.read().decode()
        except OSError as error:
            raise Failed(f"{path}: {error}") from error

    def calls(self) -> dict[tuple[str, str], int]:
        """How many calls of nodes had which result, by (call, result)."""
        found = re.findall(r'operator_node_calls_total\{call="(\w+)",result="(\w+)"\} (\d+)', self.get("/metrics"))
        return {(call, result): int(count) for call, result, count in found}

    def lines(self, word: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if word in line.lower()]

    def stop(self) -> int:
        """Asks it to end, and returns its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        finally:
            self.end()

    def end(self):
        """Ends it, whatever state it is in, and takes its credentials away. May be called again."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
        self.config.unlink(missing_ok=True)
