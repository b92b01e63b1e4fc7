"""Containers as processes of this machine: each in a root of its own, with its volumes and its user.

    /usr, Python, its packages, this checkout     bound from this machine, not to be written
    volumes                                       folders: of a claim, of a secret's files, or empty
    /etc/hosts                                    the services of the pod's namespace

There are no name spaces of networks: a pod has an address below 127/8, which takes the place of 0.0.0.0.
"""

from __future__ import annotations

import base64
import os
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import segengine

ROOT = Path(__file__).parents[2]
WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""What follows ends when the test's process does, however that ends."""
SYSTEM = ("/usr", "/etc/ssl", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")
SEGENGINE = {
    "HOME": "/tmp",
    "USER": "segengine",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "PREFECT_HOME": "/tmp/.prefect",
    "PREFECT_UI_STATIC_DIRECTORY": "/tmp/.prefect/ui",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
"""What the container file sets."""
POSTGRES = r"""
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  echo "$POSTGRES_PASSWORD" > /tmp/password
  initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-host=scram-sha-256 \
    --auth-local=trust --encoding=UTF8 --no-sync --pgdata="$PGDATA"
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$PGDATA" postgres
fi
exec postgres -D "$PGDATA" -c listen_addresses="$POD_IP" -c fsync=off
"""
"""What the image's entry point does, as far as the manifests use it."""


@dataclass(frozen=True)
class Image:
    """What stands for an image: the words it starts without a command, and its environment."""

    words: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    folder: str = "/"


IMAGES = {
    "segengine": Image(("segengine", "--help"), SEGENGINE, "/data"),
    "postgres": Image(("sh", "-c", POSTGRES)),
}


def programs() -> str:
    """PATH inside: that of this environment, and Debian's of PostgreSQL."""
    debian = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    return os.pathsep.join(
        [
            str(Path(sys.executable).parent),
            *debian,
            "/usr/local/bin",
            "/usr/bin",
            "/usr/sbin",
            "/bin",
        ]
    )


class Boxes:
    """The roots of pods, and their volumes, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.hosts = folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")

    def claim(self, namespace: str, name: str) -> Path:
        """The folder of a volume that is claimed."""
        return self.folder / "claims" / namespace / name

    def forget(self, uid: str) -> None:
        """A pod is gone, with its empty volumes."""
        shutil.rmtree(self.folder / "pods" / uid, ignore_errors=True)

    def words(
        self, pod: Any, container: Any, words: list[str], folder: str, secrets: Any
    ) -> list[str]:
        """A command line that runs `words` in a container of a pod; `secrets`: by name, their data."""
        about, spec = pod["metadata"], pod["spec"]
        place = self.folder / "pods" / about["uid"]
        root, user = place / "root", spec.get("securityContext", {})
        binds = []
        for mount in container.get("volumeMounts", ()):
            (volume,) = (v for v in spec["volumes"] if v["name"] == mount["name"])
            here = self._volume(about["namespace"], place, volume, secrets, user)
            binds.append((here, mount["mountPath"], bool(mount.get("readOnly"))))
        script = self._script(root, sorted(binds, key=lambda b: b[1]), container)
        number, group = (str(user.get(key, 0)) for key in ("runAsUser", "runAsGroup"))
        others = f"--groups {user['fsGroup']}" if "fsGroup" in user else "--clear-groups"
        bare = f"setpriv --pdeathsig KILL --reuid {number} --regid {group} {others} --no-new-privs"
        script.append(
            f"exec chroot {shlex.quote(str(root))} {bare} --inh-caps=-all --bounding-set=-all"
            f' sh -c \'cd {folder} && exec "$@"\' sh "$@"'
        )
        spaces = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        return [*WITH_US, "unshare", *spaces, "sh", "-c", "\n".join(script), "sh", *words]

    def _volume(self, namespace: str, place: Path, volume: Any, secrets: Any, user: Any) -> Path:
        if "persistentVolumeClaim" in volume:
            here = self.claim(namespace, volume["persistentVolumeClaim"]["claimName"])
        else:
            here = place / "volumes" / volume["name"]
        here.mkdir(parents=True, exist_ok=True)
        group, shared = user.get("fsGroup", 0), "fsGroup" in user
        if "secret" in volume:
            mode = volume["secret"].get("defaultMode", 0o644) | (0o440 if shared else 0)
            for name, data in secrets[volume["secret"]["secretName"]].items():
                (here / name).write_bytes(base64.b64decode(data))
                os.chown(here / name, 0, group)
                (here / name).chmod(mode)
        os.chown(here, 0, group)  # a volume is root's: others write by its group
        here.chmod(0o777 if "emptyDir" in volume else 0o2770 if shared else 0o755)
        return here

    def _script(self, root: Path, binds: list[tuple[Path, str, bool]], container: Any) -> list[str]:
        """Shell lines that mount all of it."""
        package = Path(segengine.__file__).parents[1]
        own = [Path(sys.base_prefix), Path(sys.prefix), ROOT, package]
        for name in ("usr", "etc", "proc", "dev", "tmp", "data", "run", "var"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            if not (root / name).is_symlink():
                (root / name).symlink_to(f"usr/{name}")
        if not (root / "var/run").is_symlink():
            (root / "var/run").symlink_to("../run")
        (root / "etc/passwd").write_text(
            "root:x:0:0::/:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\nsegengine:x:10001:10001::/tmp:/bin/sh\n"
        )
        lines = ["set -e", _bind(root, root)]
        lines += [_made(here, root, there) for here, there, _ in binds]
        lines += [f"mount -o remount,bind,ro {root}{there}" for _, there, sealed in binds if sealed]
        for name in (*SYSTEM, *(str(p) for p in own if not p.is_relative_to("/usr"))):
            if Path(name).exists():
                lines.append(_made(Path(name), root, name))
                lines.append(f"mount -o remount,bind,ro {shlex.quote(f'{root}{name}')}")
        lines.append(_made(self.hosts, root, "/etc/hosts"))
        lines.append(f"mount --rbind /dev {root}/dev")
        if container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            lines.append(f"mount -o remount,bind,ro {shlex.quote(str(root))}")
        lines.append(f"mount -t proc proc {root}/proc")
        return lines


def _bind(here: Path, there: Path | str) -> str:
    return f"mount --bind {shlex.quote(str(here))} {shlex.quote(str(there))}"


def _made(here: Path, root: Path, there: str) -> str:
    place = shlex.quote(f"{root}{there}")
    made = f"mkdir -p {place}" if here.is_dir() else f"mkdir -p $(dirname {place}); : >> {place}"
    return f"{made}\n{_bind(here, f'{root}{there}')}"
