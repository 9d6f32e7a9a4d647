"""How a client on this machine gets to a Service or a Pod."""

import re
import subprocess

from kube import Failed, Kube

HTTP_PORT = 8080
ADMIN_PORT = 8081


class Direct:
    """By its address in the cluster's network, through kube-proxy's rules as any Pod would."""

    # Whether a WebSocket arrives with all of its address.
    upgrades = True

    def __init__(self, kube: Kube):
        self.kube = kube

    def service(self, name: str) -> str:
        address = self.kube.get("service", name)["spec"]["clusterIP"]
        return f"http://{address}:{HTTP_PORT}"

    def pod(self, pod: dict, port: int = HTTP_PORT) -> str:
        return f"http://{pod['status']['podIP']}:{port}"

    def close(self):
        """Nothing to end."""


class ApiProxy:
    """Through the API server: works from outside of any cluster, and is slower."""

    # A request to upgrade loses its query on the way.
    upgrades = False

    def __init__(self, kube: Kube):
        self.namespace = kube.namespace
        self.process = subprocess.Popen([*kube.place.kubectl(), "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
        started = re.search(r"127\.0\.0\.1:\d+", self.process.stdout.readline())
        if not started:
            raise Failed("kubectl proxy did not start")
        self.base = f"http://{started[0]}/api/v1/namespaces/{self.namespace}"

    def service(self, name: str) -> str:
        return f"{self.base}/services/{name}:{HTTP_PORT}/proxy"

    def pod(self, pod: dict, port: int = HTTP_PORT) -> str:
        return f"{self.base}/pods/{pod['metadata']['name']}:{port}/proxy"

    def close(self):
        self.process.terminate()
        self.process.wait(10)


def reach(kube: Kube):
    return Direct(kube) if kube.place.direct else ApiProxy(kube)
