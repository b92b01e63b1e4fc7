"""The manifests: what kustomize makes of them has its kind's form, and allows no more than is needed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from .conftest import SHIPPED

KUBERNETES = SHIPPED / "kubernetes"
BUILT = ("overlays/laptop", "overlays/cluster", "dask")
VERSION = "1.32"
SECRETS = {
    "secrets.env": "database-password=one\napi-auth=admin:two\n",
    "credentials": "[default]\n",
}
"""What a user writes beside an overlay, as its README has it."""
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    """What `kubectl kustomize` makes of each overlay."""
    folder = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(KUBERNETES, folder)
    for overlay in folder.glob("overlays/*"):
        for name, text in SECRETS.items():
            (overlay / name).write_text(text)
    found = {}
    for name in BUILT:
        words = [str(Path(sys.executable).with_name("kubectl")), "kustomize", str(folder / name)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), name
        found[name] = list(yaml.safe_load_all(done.stdout))
    return found


def manifests(built: dict[str, list[Manifest]]) -> list[Manifest]:
    return [one for found in built.values() for one in found]


def one(found: list[Manifest], kind: str, name: str) -> Manifest:
    (only,) = (m for m in found if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return only


def pod_specs(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Specifications of pods, at any depth: those that have containers."""
    if isinstance(manifest, dict):
        if "containers" in manifest:
            yield manifest
        for value in manifest.values():
            yield from pod_specs(value)
    elif isinstance(manifest, list):
        for value in manifest:
            yield from pod_specs(value)


def pods(built: dict[str, list[Manifest]]) -> list[dict[str, Any]]:
    found = [spec for manifest in manifests(built) for spec in pod_specs(manifest)]
    assert len(found) == 8
    return found


def test_every_file_belongs_to_a_kustomization_and_every_overlay_is_built() -> None:
    kustomizations = sorted(KUBERNETES.rglob("kustomization.yaml"))
    assert {str(k.parent.relative_to(KUBERNETES)) for k in kustomizations} == {"base", *BUILT}
    for file in kustomizations:
        text = yaml.safe_load(file.read_text())
        named = {*text["resources"], *(patch["path"] for patch in text.get("patches", []))}
        there = {p.name for p in file.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert there <= named, file


# ------------------------------------------------------------------------------------- schemas
def operator_schema(kind: str) -> dict[str, Any]:
    """What the operator's own definition says of a resource; a field that it does not name is refused."""
    chart = (
        "operator/deployment/helm/dask-kubernetes-operator"  # whose definitions refer to nothing
    )
    file = files("dask_kubernetes") / chart / f"crds/{kind.lower()}.yaml"
    definition = yaml.safe_load(file.read_text(encoding="utf-8"))
    (version,) = definition["spec"]["versions"]
    return dict(closed(version["schema"]["openAPIV3Schema"]))


def closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    new = {key: closed(value) for key, value in schema.items()}
    named = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    if named and not schema.get("x-kubernetes-preserve-unknown-fields"):
        new.setdefault("additionalProperties", False)
    if new.pop("x-kubernetes-int-or-string", False):
        new.pop("type", None)
    return new


def check(manifest: Manifest) -> None:
    """Raises ValidationError where a manifest has not the form that its kind has."""
    if manifest["apiVersion"] == "kubernetes.dask.org/v1":
        schema = operator_schema(manifest["kind"])
        schema["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
        jsonschema.validate(manifest, schema)
    else:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


@pytest.mark.parametrize("name", BUILT)
def test_what_is_built_has_the_form_that_its_kind_has(
    name: str, built: dict[str, list[Manifest]]
) -> None:
    assert built[name]
    for manifest in built[name]:
        check(manifest)
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "segengine"


def test_a_misspelt_field_is_found_at_any_depth(built: dict[str, list[Manifest]]) -> None:
    for name, kind, manifest in (
        ("overlays/laptop", "Deployment", "prefect-worker"),
        ("dask", "DaskCluster", "standing"),
    ):
        for spoil in ({"readinesProbe": {}}, {"ports": [{"containerPort": "x"}]}, {"name": 1}):
            wrong = json.loads(json.dumps(one(built[name], kind, manifest)))
            next(pod_specs(wrong))["containers"][0].update(spoil)
            with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
                check(wrong)


# ------------------------------------------------------------------------------------ references
def test_what_is_named_is_there(built: dict[str, list[Manifest]]) -> None:
    """Accounts, secrets and their keys, claims, ports, mounted volumes; services find their pods."""
    for name in ("overlays/laptop", "overlays/cluster"):
        found = built[name]
        names = {(m["kind"], m["metadata"]["name"]) for m in found}
        keys = {
            m["metadata"]["name"]: {*m.get("data", {}), *m.get("stringData", {})}
            for m in found
            if m["kind"] == "Secret"
        }
        standing = built["dask"] if name == "overlays/cluster" else []
        for spec in (s for m in [*found, *standing] for s in pod_specs(m)):
            assert ("ServiceAccount", spec.get("serviceAccountName", "-")) in {
                *names,
                ("ServiceAccount", "-"),
            }
            for volume in spec.get("volumes", []):
                if "secret" in volume:
                    assert ("Secret", volume["secret"]["secretName"]) in names
                if "persistentVolumeClaim" in volume:
                    claim = volume["persistentVolumeClaim"]["claimName"]
                    assert ("PersistentVolumeClaim", claim) in names
            for container in spec["containers"]:
                mounted = {m["name"] for m in container["volumeMounts"]} - {"database"}
                assert mounted == {v["name"] for v in spec["volumes"]}
                for variable in container.get("env", []):
                    reference = variable.get("valueFrom", {}).get("secretKeyRef")
                    assert reference is None or reference["key"] in keys[reference["name"]]
        for service in (m for m in found if m["kind"] == "Service"):
            chosen = [m for m in found if m["kind"] in ("Deployment", "StatefulSet")]
            labels = service["spec"]["selector"].items()
            (pod,) = (
                m["spec"]["template"]
                for m in chosen
                if labels <= m["spec"]["template"]["metadata"]["labels"].items()
            )
            ports = {p["name"] for c in pod["spec"]["containers"] for p in c["ports"]}
            assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports
        (binding,) = (m for m in found if m["kind"] == "RoleBinding")
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in names
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["name"]) in names
            assert subject["namespace"] == "segengine"


def test_policies_choose_pods_that_are_there(built: dict[str, list[Manifest]]) -> None:
    found = built["overlays/cluster"]
    labels = [
        m["spec"]["template"]["metadata"]["labels"]
        for m in found
        if "template" in m.get("spec", {})
    ]
    policies = [m["spec"] for m in found if m["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress"]} in policies, (
        "what is not said is refused"
    )
    selectors = [
        *(p["podSelector"] for p in policies),
        *(
            peer["podSelector"]
            for policy in policies
            for rule in policy.get("ingress", [])
            for peer in rule["from"]
            if "podSelector" in peer
        ),
    ]
    for selector in selectors:
        wanted = selector.get("matchLabels", {}).items()
        assert any(wanted <= label.items() for label in labels)
        for expression in selector.get("matchExpressions", []):
            assert expression == {"key": "dask.org/cluster-name", "operator": "Exists"}


# ------------------------------------------------------------------------------------ what is safe
def test_no_secret_is_in_the_repository() -> None:
    for file in KUBERNETES.rglob("*.yaml"):
        for manifest in yaml.safe_load_all(file.read_text()):
            assert manifest["kind"] != "Secret", file
    ignored = subprocess.run(
        ["git", "check-ignore", *(f"deployments/kubernetes/overlays/x/{n}" for n in SECRETS)],
        cwd=SHIPPED.parent,
        capture_output=True,
        text=True,
    )
    if (SHIPPED.parent / ".git").exists():
        assert len(ignored.stdout.split()) == len(SECRETS)
    assert not [f for f in KUBERNETES.glob("overlays/*/*") if f.name in SECRETS]


def test_every_pod_is_kept_from_all_that_it_does_not_need(built: dict[str, list[Manifest]]) -> None:
    """Pod Security's level `restricted`, which the namespace enforces; and a read-only root."""
    for spec in pods(built):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert isinstance(pod["runAsUser"], int)
        assert pod["runAsUser"] >= 999
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert {key for v in spec["volumes"] for key in v} <= {
            "name",
            "emptyDir",
            "secret",
            "persistentVolumeClaim",
        }
        with_token = spec.get("serviceAccountName") == "segengine-driver"
        assert spec.get("automountServiceAccountToken", True) is with_token
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            assert "/tmp" in {m["mountPath"] for m in container["volumeMounts"]}
            if container["name"] != "worker":  # Dask's, whose scheduler watches them
                assert container["livenessProbe"]


def test_every_image_has_a_version(built: dict[str, list[Manifest]]) -> None:
    images = {c["image"] for spec in pods(built) for c in spec["containers"]}
    names = {image.rpartition("/")[2].partition(":")[0] for image in images}
    assert names == {"segengine", "postgres"}
    assert all(re.search(r":\d+\.\d+[\w.-]*$", image) for image in images)


def test_what_pods_call_can_be_called(built: dict[str, list[Manifest]]) -> None:
    """Each command with its options, by the command's own parser."""
    from prefect.cli._app import _app as prefect

    commands = {
        tuple(c["command"]) for spec in pods(built) for c in spec["containers"] if "command" in c
    }
    assert {command[:2] for command in commands} == {
        ("prefect", "server"),
        ("prefect", "worker"),
        ("dask", "worker"),
        ("dask", "scheduler"),
    }
    for program, name, *words in sorted(commands):
        if program == "dask":
            command = import_module(f"distributed.cli.dask_{name}").main
            command.make_context(name, words)  # raises UsageError
        else:
            prefect.parse_args([name, *words], print_error=False, exit_on_error=False)


# ------------------------------------------------------------------------------------- the manual
def test_the_manual_takes_the_steps_in_words_that_are_there() -> None:
    text = (KUBERNETES / "README.md").read_text()
    for overlay in BUILT:
        assert overlay in text
    for name in (*SECRETS, "database-password", "api-auth"):
        assert name in text
    queues = yaml.safe_load((SHIPPED / "prefect.yaml").read_text())["deployments"]
    for queue in (d["work_pool"]["work_queue_name"] for d in queues):
        assert f"prefect work-queue create {queue} --pool segengine --limit 1" in text
    for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", text):
        assert (KUBERNETES / link).exists(), link


def test_every_command_of_the_manual_that_is_ours_is_parsed() -> None:
    from segengine_flows.cli import _parser as parser

    text = (KUBERNETES / "README.md").read_text()
    lines = re.findall(r"^\s*(segengine \w.*)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        parser().parse_args(shlex.split(line, comments=True)[1:])
