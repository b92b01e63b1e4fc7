"""A folder served as an S3 bucket on loopback, for tests of what is read from one."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest


@contextmanager
def serving(folder: Path, bucket: str, prefix: str) -> Iterator[str]:
    """The URL below which the files of a folder lie, with the environment that leads there."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        system = fsspec.filesystem("s3")
        system.mkdir(bucket)
        system.put(f"{folder}/", f"{bucket}/{prefix}/", recursive=True)
        yield f"s3://{bucket}/{prefix}"
        forget_sessions()
    server.stop()


def forget_sessions() -> None:
    """Let fsspec close its connections while their event loops still run."""
    for protocol in ("s3", "http"):
        fsspec.get_filesystem_class(protocol).clear_instance_cache()
    gc.collect()
