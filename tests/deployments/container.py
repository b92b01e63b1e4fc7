"""The container file, built by a real builder, and containers of it, with what this machine has.

Nothing is pulled: the base is an image of links to this machine's `/usr`, Python and installed
packages, which are bind-mounted while it is built and while it runs; so the build installs segengine
alone. A container is a process in name spaces of its own, with a root that cannot be written and the
image's user, environment and words.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deployments/docker/Containerfile"
EMPTY = ("usr", "deps", "site", "etc/xdg", "tmp", "proc", "dev", "data", "run", "var/tmp")
PASSED = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
"""Of this environment, what the build is told: how pip reaches its index."""


class Builder:
    """buildah with a store of its own; and an image `base` of what this machine has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        python, site = Path(sys.base_prefix), Path(sysconfig.get_paths()["purelib"])
        self.mounts = {"/usr": "/usr", str(site): "/site"}
        if not python.is_relative_to("/usr"):
            self.mounts[str(python)] = str(python)
        self._make_base(python, site)

    def _make_base(self, python: Path, site: Path) -> None:
        base = self.folder / "base"
        for name in (*EMPTY, str(python).lstrip("/")):
            (base / name).mkdir(parents=True, exist_ok=True)
        (base / "tmp").chmod(0o1777)
        for name in ("bin", "lib", "lib64", "sbin"):
            (base / name).symlink_to(f"usr/{name}")
        for entry in site.iterdir():
            if not entry.name.startswith(("segengine", "__editable__")):
                (base / "deps" / entry.name).symlink_to(f"../site/{entry.name}")
        for name in ("etc/ssl", "etc/pip.conf", "etc/xdg/pip"):  # how pip reaches its index
            if (here := Path("/", name)).is_dir():
                shutil.copytree(here, base / name)
            elif here.exists():
                shutil.copy(here, base / name)
        environ = {
            "PATH": f"{python}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": "/deps",
        }
        lines = ["FROM scratch", "COPY base /", *(f'ENV {k}="{v}"' for k, v in environ.items())]
        (self.folder / "Base").write_text("\n".join(lines) + "\n")
        self.buildah("bud", "--tag", "localhost/base", "-f", "Base", ".", cwd=self.folder)

    def buildah(self, command: str, *arguments: str, cwd: Path = ROOT) -> str:
        """`buildah COMMAND ARGUMENTS`; what it said. Raises RuntimeError with it where it fails."""
        store = ["--root", str(self.folder / "store"), "--runroot", str(self.folder / "running")]
        isolation = ["--isolation", "chroot"] if command == "bud" else []
        done = subprocess.run(
            ["buildah", "--storage-driver", "vfs", *store, command, *isolation, *arguments],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        if done.returncode:
            raise RuntimeError(done.stdout)
        return done.stdout

    def build(self, tag: str, **arguments: str) -> str:
        """The container file as it ships, with build arguments; what the builder said."""
        given = {"BASE": "localhost/base", "PACKAGES": "", **arguments}
        options = [f"--build-arg={name}={value}" for name, value in given.items()]
        for name, value in os.environ.items():  # which pip reads, and no layer keeps
            if name.startswith(PASSED):
                options.append(f"--env={name}={value}")
        options += [f"--volume={here}:{there}:ro" for here, there in self.mounts.items()]
        options += ["--format", "docker", "--tag", f"localhost/{tag}", "--file", str(FILE)]
        return self.buildah("bud", *options, ".")

    @contextmanager
    def container(self, tag: str) -> Iterator[Container]:
        """A container of an image; gone afterwards."""
        image = json.loads(self.buildah("inspect", "--type", "image", f"localhost/{tag}"))
        name = self.buildah("from", "--pull-never", f"localhost/{tag}").split()[-1]
        try:
            root = Path(self.buildah("mount", name).split()[-1])
            yield Container(root, image["Docker"]["config"], self.mounts)
        finally:
            self.buildah("rm", name)


class Container:
    """Starts commands as an image's configuration says: its user, environment and folder.

    What stands for a container's runtime: name spaces of mounts and processes, no capability, a root that
    cannot be written, a /tmp, and a folder at /data.
    """

    def __init__(self, root: Path, config: dict[str, Any], mounts: dict[str, str]) -> None:
        self.root, self.config, self._mounts = root, config, mounts

    def start(
        self, *words: str, data: Path, tmp: Path, entrypoint: bool = True, **environ: str
    ) -> subprocess.Popen[str]:
        """Start the image's entry point with words, or the words alone; `tmp` is its /tmp."""
        root = self.root
        user, group = self.config["User"].split(":")
        binds = {**self._mounts, "/dev": "/dev", str(data): "/data", str(tmp): "/tmp"}
        sealed = [f"{root}{there}" for there in ("", *self._mounts.values())]
        script = ["set -e", f"mount --bind {root} {root}"]
        script += [f"mount --rbind {here} {root}{there}" for here, there in binds.items()]
        script += [f"mount -o remount,bind,ro {place}" for place in sealed]
        script.append(f"mount -t proc proc {root}/proc")
        bare = f"setpriv --reuid {user} --regid {group} --clear-groups --no-new-privs"
        script.append(
            f"exec chroot {root} {bare} --inh-caps=-all --bounding-set=-all"
            f' sh -c \'cd {self.config["WorkingDir"]} && exec "$@"\' sh "$@"'
        )
        given = dict(item.split("=", 1) for item in self.config["Env"])
        spaces = ["--mount", "--propagation", "private", "--pid", "--fork"]
        said = self.config["Entrypoint"] if entrypoint else []
        return subprocess.Popen(
            ["unshare", *spaces, "sh", "-c", "\n".join(script), "sh", *said, *words],
            env=given | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @staticmethod
    def stop(process: subprocess.Popen[str]) -> tuple[int, str]:
        """Send SIGTERM to the first process of a container; its exit code and what was said."""
        (first,) = psutil.Process(process.pid).children()
        first.terminate()
        try:
            said, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            first.kill()  # and with it all of its name space
            said, _ = process.communicate(timeout=20)
        return process.returncode, said

    def run(self, *words: str, **options: Any) -> tuple[int, str]:
        """As `start`; exit code and what was said."""
        process = self.start(*words, **options)
        said, _ = process.communicate(timeout=120)
        return process.returncode, said

    def healthy(self, **options: Any) -> bool:
        """What the image's health check says."""
        kind, command = self.config["Healthcheck"]["Test"]
        assert kind == "CMD-SHELL"
        return self.run("sh", "-c", command, entrypoint=False, **options)[0] == 0
