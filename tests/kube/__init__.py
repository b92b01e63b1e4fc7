"""A Kubernetes of one node for tests, on loopback: enough of it for the Dask operator, which is real.

What is real: the protocol as clients of Kubernetes speak it (kr8s, kopf, kubectl): discovery, create,
read, patch (merge, strategic, JSON), delete, list and watch by resource versions, finalizers, owner
references, commands and ports of pods by web sockets, SPDY inside of one; roles and bindings; the level
`restricted`; the built-in kinds' schemas and the operator's own, by which what is sent is checked; the
operator's process; and what pods run: Prefect, PostgreSQL, Dask's schedulers and workers, which are
processes of this machine.

What stands in, since no registry that tests can use has the programs of a cluster's control plane: this
server for the API server and its database, one loop for the controllers, the scheduler of pods and the
node's agent, and a proxy a service. A pod has one container, with an address of its own in 127.0.0.0/8.
An image is a name that is known or not; with `images` its container has a root, a user and volumes of
its own (boxes.py), else it is a process of this environment. There are no replica sets, no network
policies, and liveness probes end nothing: a test asks for what they find.
"""

from tests.kube.cluster import IMAGE, Cluster

__all__ = ["IMAGE", "Cluster"]
