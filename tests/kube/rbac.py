"""Who may do what: by roles and bindings as they are applied, and what `auth can-i` is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.kube.store import Refused, Resource, Store

GROUP = "rbac.authorization.k8s.io"
ROLES = Resource(GROUP, "v1", "roles", "Role")
BINDINGS = Resource(GROUP, "v1", "rolebindings", "RoleBinding")
REVIEWS = {
    "selfsubjectrulesreviews": Resource(
        "authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", False
    ),
    "selfsubjectaccessreviews": Resource(
        "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False
    ),
}
Rule = dict[str, Any]


def rules_of(store: Store, user: str, namespace: str) -> Iterator[Rule]:
    """Rules of all roles that are bound to a service account in a namespace."""
    parts = user.split(":")
    if parts[:2] != ["system", "serviceaccount"] or len(parts) != 4:
        return
    for binding in store.all(BINDINGS, namespace):
        for subject in binding.get("subjects", ()):
            whose = subject.get("namespace", binding["metadata"]["namespace"]), subject["name"]
            if subject["kind"] == "ServiceAccount" and whose == (parts[2], parts[3]):
                try:
                    role = store.get(ROLES, (namespace, binding["roleRef"]["name"]))
                except Refused:  # bound to a role that is not there: no rights
                    continue
                yield from role.get("rules") or ()


def allows(rules: Iterator[Rule], verb: str, group: str, plural: str) -> bool:
    """Whether one of the rules does."""
    return any(
        group in rule.get("apiGroups", ())
        and plural in rule.get("resources", ())
        and verb in rule["verbs"]
        for rule in rules
    )


def reviewed(plural: str, given: Any, rules: list[Rule]) -> Any:
    """The answer to a review of one's own rights."""
    if plural == "selfsubjectrulesreviews":
        said = [{k: rule[k] for k in ("apiGroups", "resources", "verbs")} for rule in rules]
        status: Any = {"resourceRules": said, "nonResourceRules": [], "incomplete": False}
    else:
        asked = given["spec"]["resourceAttributes"]
        plural = "/".join(filter(None, (asked.get("resource"), asked.get("subresource"))))
        status = {"allowed": allows(iter(rules), asked["verb"], asked.get("group", ""), plural)}
    return {**given, "status": status}
