"""The chapter on Kubernetes as it is written: its commands, typed one after another.

kubectl, the Dask operator, Prefect, PostgreSQL and the runs are real; tests/kube says what stands in for
a cluster. Not run: what builds an image or takes it to a registry, and helm.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kube import Cluster
from tests.kube.boxes import WITH_US

from .conftest import SHIPPED, until
from .test_deployments import write_scenes

pytestmark = [pytest.mark.system, pytest.mark.pods]
IMAGES = {"segengine:0.2.0", "example.org/segengine:0.2.0", "postgres:17.6-bookworm"}
LONG = 300

SHELL = (*WITH_US, "unshare", "--pid", "--fork", "--kill-child", "bash", "-c")
"""Ends with all that it has begun: kubectl waits for ever for a cluster that is gone."""


def blocks(text: str) -> dict[str, list[str]]:
    """Commands of a chapter by the first letter of their section, fenced or indented, a block each."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        fenced = re.findall(r"^```sh\n(.*?)^```", section, flags=re.M | re.S)
        plain = re.sub(r"^```.*?^```", "", section, flags=re.M | re.S)
        indented = re.findall(r"(?:^    .*\n)+", plain, flags=re.M)
        found.setdefault(section[0], []).extend([*fenced, *map(textwrap.dedent, indented)])
    return found


TEXT = (SHIPPED / "kubernetes/README.md").read_text()
CHAPTER = blocks(TEXT)


TYPED: set[str] = set()
ELSEWHERE = ("docker build", "docker push", "helm install", "kind: ")
"""What blocks have that are not typed: other tests build the image, and parse what a job has."""


def block(section: str, word: str) -> str:
    """The one block of a section that has a word."""
    (one,) = (text for text in CHAPTER[section] if word in text)
    TYPED.add(one)
    return one


def inline(beginning: str) -> str:
    """The one command of the chapter's sentences that begins so."""
    (one,) = re.findall(rf"`({re.escape(beginning)}[^`]*)`", TEXT)
    return str(one)


class User:
    """Types commands in `deployments/kubernetes` of a checkout, and keeps the variables that they set."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        shutil.copytree(SHIPPED, folder / "deployments")
        self.home = folder / "deployments/kubernetes"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "SEGENGINE_"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
        self.environ = kept | cluster.environment("admin", namespace="default", secure=True)
        self.environ |= {"PATH": path, "PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"}
        self.environ |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "HOME": str(folder)}
        self.typed = f"cd {shlex.quote(str(self.home))}\n"
        """What sets variables."""

    def ask(self, text: str, seconds: float = LONG) -> subprocess.CompletedProcess[str]:
        """Type it."""
        done = subprocess.run(
            [*SHELL, f"set -e\n{self.typed}\n{text}"],
            env=self.environ, capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        self.typed += "".join(
            f"{line}\n" for line in text.splitlines() if re.match(r"(export )?\w+=", line)
        )
        return done

    def type(self, text: str, seconds: float = LONG) -> str:
        """Type what works; what it said."""
        done = self.ask(text, seconds)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """What pods have said last."""
        pods = self.cluster.objects("pods")
        return "\n".join(
            f"{p['metadata']['name']}: {p.get('status')}\n"
            f"{self.cluster.server.log_of(p['metadata']['uid'])[-2000:]}" for p in pods
        )  # fmt: skip

    def healthy(self) -> None:
        """No liveness probe would begin a pod anew."""
        cluster = self.cluster
        until(lambda: not cluster.call(cluster.node.sick), 30, f"pods are sick: {self.logs()}")

    @contextmanager
    def forward(self, text: str) -> Iterator[int]:
        """Type it in another terminal, with a port that is free in the place of the one it names: that."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = shlex.split(text)
        words[-1] = f"{port}:{words[-1]}"

        def answers() -> bool:
            with socket.socket() as tried:
                return tried.connect_ex(("127.0.0.1", port)) == 0

        process = subprocess.Popen([*WITH_US, *words], env=self.environ, stdout=subprocess.DEVNULL)
        try:
            until(answers, LONG, "no port is forwarded")
            yield port
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(10)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Of a cluster with nothing on it but the Dask operator."""
    folder = tmp_path_factory.mktemp("kubectl")
    cluster = Cluster(folder / "kube", [], images=IMAGES)
    yield User(folder / "user", cluster)
    cluster.end()


LAX = """apiVersion: v1
kind: Namespace
metadata: {name: lax, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: lax, namespace: lax}
spec:
  selector: {matchLabels: {app: lax}}
  template:
    metadata: {labels: {app: lax}}
    spec: {containers: [{name: lax, image: "segengine:0.2.0"}]}
"""


def test_a_pod_that_asks_for_more_than_its_namespace_allows_is_refused(user: User) -> None:
    """In a namespace of its own that goes again; a field that no pod has is refused before, and so is a
    mount of no volume."""
    wrong = LAX.replace("image:", "imagee:")
    said = user.ask(f"kubectl apply -f - <<END\n{wrong}END")
    assert said.returncode == 1
    assert "imagee" in said.stderr
    wrong = LAX.replace(
        "name: lax, image", "name: lax, volumeMounts: [{name: gone, mountPath: /a}], image"
    )
    said = user.ask(f"kubectl apply -f - <<END\n{wrong}END")
    assert 'Deployment "lax" is invalid' in said.stderr
    assert 'volumeMounts[0].name: Not found: "gone"' in said.stderr
    user.type(f"kubectl apply -f - <<END\n{LAX}END")
    asked = "kubectl -n lax get deployment lax -o jsonpath='{.status.conditions}'"

    def told() -> str:
        said = user.type(asked)
        return said if "ReplicaFailure" in said else ""

    said = until(told, 30, "it is let in")
    assert 'violates PodSecurity \\"restricted:latest\\": allowPrivilegeEscalation != false' in said
    user.type("kubectl delete namespace lax")
    assert "lax" not in user.type("kubectl get namespaces")


def test_secrets_are_files_that_others_do_not_read(user: User) -> None:
    umask = user.type("umask")
    said = user.type(f"{block('2', 'database-password=')}\numask")
    assert said == umask
    file = user.home / "overlays/laptop/secrets.env"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_text().splitlines()) == 2


def test_the_overlay_is_applied_and_all_of_it_comes_up(user: User) -> None:
    said = user.type(block("3", "apply -k"))
    assert "statefulset rolling update complete 1 pods" in said
    assert 'deployment "prefect-server" successfully rolled out' in said
    assert 'deployment "prefect-worker" successfully rolled out' in said
    again = user.type("kubectl apply -k $overlay")
    assert [line for line in again.splitlines() if not line.endswith("unchanged")] == []
    user.healthy()
    listed = user.type("kubectl -n segengine get statefulsets,deployments,pods,secrets")
    assert listed.count("postgres") == 2


def test_what_goes_through_a_command_comes_out_as_it_is(user: User, tmp_path: Path) -> None:
    """Five megabytes each way, words beside them, how it ended; as nobody, where nothing can be written."""
    sent = os.urandom(5_000_000)
    (tmp_path / "sent").write_bytes(sent)
    words = "kubectl -n segengine exec -i deployment/prefect-worker --"
    done = user.ask(f"{words} sh -c 'cat; echo no >&2; exit 7' < {tmp_path}/sent > {tmp_path}/come")
    assert (tmp_path / "come").read_bytes() == sent
    assert done.returncode == 7
    assert done.stderr.splitlines() == ["no", "command terminated with exit code 7"]
    there = "kubectl -n segengine exec deployment/prefect-worker -- sh -c"
    assert user.type(f"{there} 'id -u'") == "10001\n"
    for place in ("/", "/usr", "/etc"):
        said = user.ask(f"{there} 'echo > {place}/new'").stderr
        assert "Read-only file system" in said or "Permission denied" in said, said


def test_a_port_is_forwarded_for_several_at_once_and_one_where_nobody_listens_is_told(
    user: User,
) -> None:
    pod = user.type(
        "kubectl -n segengine get pods -o name -l app.kubernetes.io/name=prefect-server"
    )
    with (
        user.forward(f"kubectl -n segengine port-forward {pod.strip()} 4201") as port,
        pytest.raises((urllib.error.URLError, ConnectionError)),
    ):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)

    def ask(_: int) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=60) as answer:
            return bytes(answer.read())

    with user.forward(block("4", "port-forward")) as port, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(8))) == [b"true"] * 8


def test_a_night_is_deployed_run_and_read(user: User, tmp_path: Path) -> None:
    write_scenes(user.home / "scenes")
    with user.forward(block("4", "port-forward")) as port:
        typed = block("4", "PREFECT_API_URL").replace(":4200", f":{port}")
        user.type(f"{typed}\nprefect work-queue ls --pool segengine")
        user.type(block("5", "tar -cf - scenes"))
        assert user.type("echo $SEGENGINE_DATA") == "/data\n"
        user.type(block("5", "deploy --all"))
        run = block("5", "prefect deployment run")
        for _ in range(2):
            said = user.type(run)
            assert re.search(r"^all +2 +2 +2 +0 +0$", said, re.M), said
        log = user.type("kubectl -n segengine logs deployment/prefect-worker")
        assert "2 shards computed, 0 done before" in log
        assert "0 shards computed, 2 done before" in log
        user.type(block("5", "exec deployment/prefect-worker -- tar -cf -"))
        assert (user.home / "masks/scenes.zarr/zarr.json").is_file()


def test_who_may_do_what_is_told(user: User) -> None:
    command = inline("kubectl auth")
    rights = user.type(command)
    assert re.search(r"daskclusters.kubernetes.dask.org +\[\] +\[\] +\[create get delete\]", rights)
    assert "secrets" not in rights
    who = command[command.index("--as") :]
    for asked, word in {"create daskclusters": "yes", "get secrets": "no", "list pods": "yes",
                        "delete pods": "no"}.items():  # fmt: skip
        assert user.ask(f"kubectl -n segengine auth can-i {asked} {who}").stdout == f"{word}\n"
    refused = user.ask(f"kubectl -n segengine get secrets {who}")
    assert 'cannot list resource "secrets"' in refused.stderr


def test_logs_are_read(user: User) -> None:
    command = inline("kubectl -n segengine logs")
    assert "started!" in user.type(command)
    assert user.type(f"{command} --tail 1").count("\n") <= 1


def test_a_changed_overlay_rolls_its_pods(user: User) -> None:
    """A database keeps its volume; a password that is new to it would be refused."""
    before = user.type("kubectl -n segengine get pods -o name").split()
    file = user.home / "overlays/laptop/worker.yaml"
    file.write_text(file.read_text().replace("        - name: prefect-worker\n",
        "        - name: prefect-worker\n          resources: {requests: {cpu: 250m}}\n"))  # fmt: skip
    said = user.type("kubectl apply -k $overlay")
    assert [line.split()[0] for line in said.splitlines() if line.endswith("configured")] == [
        "deployment.apps/prefect-worker"
    ]
    user.type("kubectl -n segengine rollout status deployment/prefect-worker")
    log = "kubectl -n segengine logs deployment/prefect-worker"
    until(lambda: "started!" in user.type(log), LONG, "the new one does not work")
    after = user.type("kubectl -n segengine get pods -o name").split()
    assert {name for name in before if name not in after} == {
        name for name in before if "prefect-worker" in name
    }
    data = "kubectl -n segengine exec deployment/prefect-worker -- ls /data/masks"
    assert user.type(data) == "scenes.zarr\n"


BUCKET = """apiVersion: v1
kind: Secret
metadata: {name: s3, namespace: segengine}
stringData: {credentials: "[default]"}
"""


ASKED = """from distributed import Client
with Client("tcp://standing-scheduler:8786", timeout=9) as client:
    print(len(client.scheduler_info(n_workers=-1)["workers"]))"""


def connected(user: User) -> int:
    """How many workers a run finds at the scheduler, asked where runs are driven."""
    given = f"kubectl -n segengine exec deployment/prefect-worker -- python -c {shlex.quote(ASKED)}"
    said = user.ask(given).stdout
    return int(said) if said else 0


def test_workers_that_stay_are_applied_and_scaled(user: User) -> None:
    file = user.home / "dask/cluster.yaml"
    file.write_text(file.read_text().replace("replicas: 4", "replicas: 1"))  # two cores
    user.type(f"kubectl apply -f - <<END\n{BUCKET}END")
    user.type(block("7", "apply -k dask"))
    ready = "kubectl -n segengine get pods -l dask.org/component=worker -o name"
    until(lambda: connected(user) == 1, LONG, f"no worker comes: {user.logs()}")
    command = inline("kubectl -n segengine scale")
    user.healthy()
    user.type(command.replace("16", "2"))
    until(lambda: connected(user) == 2, LONG, f"no second one: {user.logs()}")
    assert len(user.type(ready).split()) == 2
    user.type("kubectl delete -k dask")
    until(lambda: not user.cluster.workers(), LONG, "they stay")


def test_the_other_overlay_takes_its_place(user: User) -> None:
    """From a laptop to a bucket: the database stays, workers go on from the pushed image."""
    user.type(block("2", "> overlays/cluster/credentials"))
    file = user.home / "overlays/cluster/credentials"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().startswith("[default]\naws_access_key_id")
    user.type("cp overlays/laptop/secrets.env overlays/cluster/")
    user.type("kubectl -n segengine delete secret s3")
    said = user.type(block("3", "apply -k").replace("$overlay", "overlays/cluster"))
    assert 'deployment "prefect-worker" successfully rolled out' in said
    image = "kubectl -n segengine get deployment prefect-worker -o jsonpath='{..image}'"
    assert user.type(image) == "example.org/segengine:0.2.0"
    seen = "kubectl -n segengine exec deployment/prefect-worker -- cat /secrets/s3/credentials"
    assert user.type(seen).startswith("[default]\n")


def test_the_operator_s_chart_is_where_the_manual_looks_for_it(user: User) -> None:
    lines = next(text for text in CHAPTER["6"] if "helm" in text).splitlines()
    asked = "\n".join(line for line in lines if not re.search("pip install|helm install", line))
    user.type(f'{asked}\ntest -f "$chart/Chart.yaml" && test -n "$version"')


def test_every_block_of_the_chapter_was_typed(user: User) -> None:
    """By the tests above, but for those that no stand-in can answer."""
    every = {text for texts in CHAPTER.values() for text in texts}
    left = {text for text in every - TYPED if not any(word in text for word in ELSEWHERE)}
    assert len(TYPED) >= 9
    assert left == set()


def test_all_of_it_goes(user: User) -> None:
    command = inline("kubectl delete -k")
    user.type(command)
    assert (
        "No resources found"
        in user.ask("kubectl -n segengine get pods,services,persistentvolumeclaims").stderr
    )
    until(lambda: not user.cluster.node.processes, 30, "processes are left")
