"""A Kubernetes of one node for tests, on loopback: enough of it for the Dask operator, which is real.

What is real: the protocol as clients of Kubernetes speak it (kr8s, kopf, kubectl): discovery, create, read,
patch, delete, list and watch by resource versions, finalizers, owner references, ports forwarded by web
sockets; the operator's own resource definitions, by whose schemas what is sent is checked; the operator's
process; and Dask's schedulers and workers, which are processes of this machine.

What stands in, since no registry that tests can use has the programs of a cluster's control plane: this
server for the API server and its database, one loop for the deployments' controller, the scheduler of pods
and the node's agent, and the names of services. There is no container: a pod is a process of this
environment with an address of its own in 127.0.0.0/8, and an image is only a name that is known or not.
There are no replica sets between deployments and pods. Rights are sets of verbs and resources a token.
"""

from tests.kube.cluster import IMAGE, Cluster

__all__ = ["IMAGE", "Cluster"]
