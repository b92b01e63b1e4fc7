"""What kinds of clusters take, and how a job that says anything else is refused."""

from __future__ import annotations

from typing import Any

import pytest

from segengine import registry
from segengine.job import ClusterSpec
from segengine.terms import Terms

POD = {"image": "r/i:1", "resources": {"memory": "8Gi"}}
HTTP = "http://gateway"


def refused(**block: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 # pydantic's, looked at below
        ClusterSpec(**block)
    return str(caught.value)


@pytest.mark.parametrize("kind", registry.names("clusters"))
def test_every_kind_says_its_terms(kind: str) -> None:
    terms: Any = registry.load("terms", kind)
    assert issubclass(terms, Terms)
    assert terms.kind == kind


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"kind": "gateway", "workers": 2}, "address: gateway needs one"),
        ({"kind": "gateway", "address": HTTP}, "workers: gateway needs a number, or {min: 2"),
        ({"kind": "gateway", "workers": 2, "address": "tcp://a:1"}, "address: must begin with http://"),
        ({"kind": "gateway", "workers": 2, "address": "http://me:hunter2@gateway"},
         "address: gateway takes no user, password or query; set DASK_GATEWAY__AUTH__KWARGS__"),
        ({"kind": "gateway", "workers": 2, "address": HTTP, "options": {"auth": "magic"}},
         "options: auth: Input should be 'basic', 'jupyterhub' or 'kerberos', got 'magic'"),
        ({"kind": "gateway", "address": HTTP, "options": {"name": "n", "cores": 3}},
         "options: cores: a cluster that runs has its options"),
        ({"kind": "kubernetes", "workers": 2, "address": "tcp://a:1", "options": POD},
         "address: kubernetes takes none"),
        ({"kind": "kubernetes", "options": POD}, "workers: kubernetes needs a number"),
        ({"kind": "kubernetes", "workers": 2}, "options: image: kubernetes needs this option"),
        ({"kind": "kubernetes", "workers": 2, "options": {"image": "i", "resources": {}}},
         "options: resources.memory: kubernetes needs this option"),
        ({"kind": "kubernetes", "workers": 2, "options": {**POD, "gpu": 1}},
         "options: gpu: kubernetes has no such option; it takes image, namespace, resources"),
        ({"kind": "local", "workers": {"max": 3}}, "workers: local takes a number"),
    ],
)  # fmt: skip
def test_a_block_that_cannot_be_is_refused_by_its_key(block: dict[str, Any], said: str) -> None:
    found = refused(**block)
    assert said in found
    assert "hunter2" not in found.partition("[type=")[0]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "must begin with tcp:// or tls://, got ''"),
        ("http://127.0.0.1:9", "must begin with tcp:// or tls://, got 'http://127.0.0.1:9'"),
        ("inproc://x", "must begin with tcp:// or tls://"),
        ("ucx://a:1", "must begin with tcp:// or tls://"),
        ("tcp://127.0.0.1", "needs a port, as tcp://host:8786, got 'tcp://127.0.0.1'"),
        ("127.0.0.1", "needs a port, as tcp://host:8786"),
        ("tls://a:", "needs a port, as tls://host:8786"),
        ("tcp://a:0", "needs a port"),
        ("tcp://127.0.0.1:abc", "must be as tcp://host:8786, with a port up to 65535"),
        ("tcp://a:99999", "must be as tcp://host:8786, with a port up to 65535"),
        ("tcp://[::1:9", "must be as tcp://host:8786"),
        ("tcp://:8786", "needs a host, as tcp://host:8786"),
        ("tcp://a:1/", "must be as tcp://host:8786 and no more"),
        ("tcp://a:1?", "must be as tcp://host:8786 and no more"),
        ("tcp://a:1/x", "must be as tcp://host:8786 and no more"),
        ("tcp://me:hunter2@a:1", "must be as tcp://host:8786 and no more, got 'tcp://a:1'"),
        ("tcp://a b:1", "holds a blank"),
    ],
)
def test_an_address_that_cannot_be_is_refused(address: str, said: str) -> None:
    found = refused(kind="address", address=address)
    assert f"address: {said}" in found
    assert "hunter2" not in found.partition("[type=")[0]


@pytest.mark.parametrize("address", ["tcp://[::1]:9", "tls://a.b:8786", "a:8786"])
def test_an_address_that_may_be_is_taken(address: str) -> None:
    assert ClusterSpec(kind="address", address=address).address == address


@pytest.mark.parametrize("address", ["http://", "https://a:abc", "http://a:99999", "http://[::1"])
def test_an_address_of_a_gateway_that_cannot_be_is_refused(address: str) -> None:
    assert "address: " in refused(kind="gateway", workers=2, address=address)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resources": {"memory": "7MB"}}, "resources.memory: must be 100MB a worker at least"),
        ({"resources": 5}, "resources: must be a block of keys, got 5"),
        ({"volumes": 5}, "volumes: must be a list, as [...], got 5"),
        ({"resources": {"memory": "much"}}, "resources.memory: must be a size as 16GB"),
        ({"resources": {"memory": "1G", "cpu": "two"}}, "resources.cpu: must be a number of cores"),
        (
            {"resources": {"memory": "1G", "gpu": True}},
            "resources.gpu: must be a number, got True",
        ),
        (
            {"resources": {"memory": "1G", "disk": 1}},
            "resources.disk: kubernetes has no such option",
        ),
        ({"namespace": "My Space"}, "namespace: must be lower case letters, digits, hyphens"),
        ({"namespace": "a\n"}, "namespace: must be lower case letters"),
        ({"volumes": [{"name": "a", "path": "/a"}]}, "volumes: a must be of one: claim, secret or"),
        (
            {"volumes": [{"name": "a", "claim": "c", "path": "a"}]},
            "volumes.path: must be an absolute",
        ),
        ({"volumes": [{"name": "a", "claim": "c", "path": "/a\nb"}]}, "volumes.path: cannot be"),
        (
            {"tolerations": [{"effect": "Never"}]},
            "tolerations.effect: Input should be 'NoSchedule'",
        ),
        ({"idle_timeout": "5s"}, "idle_timeout: must be 10 s at least"),
    ],
)
def test_an_option_of_pods_is_refused_by_its_name(options: dict[str, Any], said: str) -> None:
    found = refused(kind="kubernetes", workers=2, options={**POD, **options})
    assert f"options: {said}" in found


def test_planning_knows_the_memory_of_a_worker() -> None:
    assert ClusterSpec(kind="kubernetes", workers=2, options=POD).worker_bytes == 8 << 30
    batch = {"system": "slurm", "memory": "8GiB", "cores": 4}
    assert ClusterSpec(kind="jobqueue", workers=2, options=batch).worker_bytes == 2 << 30
    assert ClusterSpec(kind="gateway", workers=2, address=HTTP).worker_bytes is None
    assert ClusterSpec().worker_bytes is None


def test_a_gateways_own_options_are_kept_apart() -> None:
    terms: Any = registry.load("terms", "gateway")
    found = terms.of({"auth": "basic", "worker_cores": 2, "image": "i"})
    assert found.theirs == {"worker_cores": 2, "image": "i"}
