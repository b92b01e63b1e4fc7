"""A bucket through obstore does what it does through s3fs, which is asked beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from segengine.errors import StoreAccessError, StoreError
from segengine.store import s3
from segengine.store.access import access_error
from segengine.store.blobs import open_objects
from segengine.store.filesystems import FilesystemSpace, Space, open_filesystem
from segengine.store.remote import _space

STRANGE = "+a b%20~é=#?.c"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Sets what names an S3; nothing of this machine is asked."""
    for name in [n for n in os.environ if n.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

    def at(url: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    return at


@pytest.fixture
def url(server: str, environment: Callable[[str], None]) -> str:
    """A fresh bucket."""
    import botocore.session

    environment(server)
    name = f"b-{uuid.uuid4().hex}"
    botocore.session.Session().create_client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


def test_it_does_what_s3fs_does(url: str) -> None:
    def used(space: Space | None) -> list[object]:
        assert space is not None
        said: list[object] = [space.get("x"), space.tagged("x"), space.exists("x"), space.keys("")]
        space.delete("x")
        space.delete_tree("x")
        for key, data in ((f"x/{STRANGE}", b"1"), ("x/y/z", b"22"), ("x.t", b"3"), ("xy/z", b"")):
            space.put(key, data)
        said += [space.get(f"x/{STRANGE}"), space.get("x"), space.exists("x"), space.exists("x.t")]
        said += [space.create("l", b"1"), space.create("l", b"2"), space.get("l")]
        found = space.tagged("l")
        assert found is not None
        said += [found, space.replace("l", b"n", found[1]), space.replace("l", b"m", found[1])]
        said += [space.replace("none", b"m", found[1]), space.get("none"), space.get("l")]
        for prefix in ("", "x", "x/y", "no"):
            folders, names = space.children(prefix)
            said += [(sorted(folders), sorted(names))]
        said += [sorted(space.keys("x")), sorted(space.keys("")), space.keys("no")]
        space.delete("l")
        space.put("m", b"1")
        space.delete_many(["m", f"x/{STRANGE}", "no"])
        said += [sorted(space.keys(""))]
        space.delete_tree("x")
        return [*said, sorted(space.keys(""))]

    ours = used(s3.open_bucket(f"{url}/ours/m.zarr"))
    assert ours == used(FilesystemSpace(*open_filesystem(f"{url}/theirs/m.zarr")))
    assert ours[-1] == ["x.t", "xy/z"]


def test_many_and_large_objects(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "LARGE", 2**20)
    monkeypatch.setattr(s3, "PART", 5 * 2**20)
    monkeypatch.setattr(s3, "PAGE", 7)
    space = s3.open_bucket(url)
    assert space is not None
    data = os.urandom(6 * 2**20)
    space.put("large", data)
    found = space.tagged("large")
    assert found is not None
    assert found[0] == data
    assert found[1].endswith('-2"')  # of two parts
    for number in range(20):
        space.put(f"many/{number}", b"")
    assert len(space.keys("many")) == 20
    space.delete_tree("many")
    assert space.keys("") == ["large"]


def test_one_of_many_swaps_and_creates(url: str) -> None:
    objects = open_objects(f"{url}/m.zarr")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: objects.create("lock", bytes([i])), range(16)))
        assert made.count(True) == 1
        old = objects.get("lock")
        assert old == bytes([made.index(True)])
        swapped = list(pool.map(lambda i: objects.swap("lock", old, bytes([i, i])), range(16)))
    assert swapped.count(True) == 1
    now = objects.get("lock")
    assert now == bytes([swapped.index(True)] * 2)
    assert not objects.swap("lock", old, None)
    assert objects.swap("lock", now, None)
    assert objects.get("lock") is None


# ------------------------------------------------------------------------------ who, where, through what


def test_where_and_who_are_botocores(
    environment: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As botocore's documentation has them: a profile's region, its endpoint, its style of address."""
    del environment
    (tmp_path / "credentials").write_text(
        "[there]\naws_access_key_id = key\naws_secret_access_key = secret\naws_session_token = tok\n"
    )
    (tmp_path / "config").write_text("[profile there]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_PROFILE", "there")
    place = s3._Place("masks")
    assert place.look()
    assert (place.url, place.region) == ("https://masks.s3.eu-north-1.amazonaws.com", "eu-north-1")
    found = place.credentials()
    assert [found[k] for k in ("access_key_id", "secret_access_key", "token")] == [
        "key",
        "secret",
        "tok",
    ]
    (tmp_path / "config").write_text(
        "[profile there]\nregion = eu-north-1\nendpoint_url = https://minio.example:9000\n"
    )
    place = s3._Place("masks")
    assert place.look()
    assert place.url == "https://minio.example:9000/masks"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://ceph.example")
    place = s3._Place("masks")
    assert place.look()
    assert place.url == "http://ceph.example/masks"


def test_nobody_is_told_in_one_line(environment: Callable[[str], None]) -> None:
    del environment
    with pytest.raises(StoreAccessError, match="refuses this user: Unable to locate credentials"):
        open_objects("s3://masks/m.zarr").get("a")


def test_s3fs_is_used_for_what_obstore_is_not_told(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec.config

    assert s3.open_bucket(f"{url}/m") is not None
    for other in (f"{url}/a//b", f"{url}/a/../b", "s3://arn:aws:s3:x", "s3://b--use1-az4--x-s3"):
        assert s3.open_bucket(other) is None
    monkeypatch.setenv("AWS_CA_BUNDLE", "own.pem")
    assert s3.open_bucket(url) is not None  # without TLS
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://minio.example")
    assert s3.open_bucket(url) is None
    monkeypatch.delenv("AWS_CA_BUNDLE")
    assert s3.open_bucket(url) is not None
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})
    assert s3.open_bucket(url) is None
    assert isinstance(_space(f"{url}/configured", os.getpid()), FilesystemSpace)


def test_what_is_not_served_is_refused() -> None:
    with pytest.raises(StoreError, match="which is not served"):
        _space("s3://a/b::c", os.getpid())


# ---------------------------------------------------------------------------------- trouble


class Odd(BaseHTTPRequestHandler):
    """Answers with the status and the code that a key names: `400-ExpiredToken`; `hang`, `reset`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = self.path.rpartition("/")[2]
        region = self.headers.get("Authorization", "//us-east-1").split("/")[2]
        if name == "hang":
            time.sleep(30)
        if name in ("hang", "reset"):
            self.close_connection = True
            return
        status, _, code = name.partition("-")
        body = f"<Error><Code>{code}</Code><Message>as it says</Message></Error>"
        if not status.isdigit():  # a bucket of another region
            moved = region != "eu-west-1"
            status = "400" if moved else "200"
            body = "" if not moved or self.command == "HEAD" else body.replace(
                f"<Code>{code}", "<Code>AuthorizationHeaderMalformed"
            )  # fmt: skip
        data = body.encode()
        self.send_response_only(int(status))
        self.send_header("x-amz-bucket-region", "eu-west-1")
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_PUT = do_HEAD = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Not on the terminal."""


@pytest.fixture
def odd(environment: Callable[[str], None]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        environment(f"http://127.0.0.1:{server.server_address[1]}")
        yield "s3://odd"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("key", "fatal", "said"),
    [
        ("503-SlowDown", False, "the store did not answer: SlowDown: as it says; run"),
        ("500-InternalError", False, "the store did not answer: InternalError: as it says"),
        ("400-RequestTimeout", False, "the store did not answer: RequestTimeout"),
        ("409-OperationAborted", False, "the store did not answer: OperationAborted"),
        ("403-AccessDenied", True, "the store refuses this user: AccessDenied: as it says; mend"),
        ("403-SignatureDoesNotMatch", True, "the store refuses this user: SignatureDoesNotMatch"),
        ("400-ExpiredToken", True, "the store refuses this user: ExpiredToken"),
        ("404-NoSuchBucket", True, "the store is not there: NoSuchBucket: as it says; make its"),
        ("400-EntityTooLarge", False, "the store did not accept it: EntityTooLarge"),
        ("507-XMinioStorageFull", True, "the store is full: XMinioStorageFull"),
        ("403-QuotaExceeded", True, "the store is full: QuotaExceeded"),
        ("reset", False, "the store did not answer: the connection was closed without an answer"),
    ],
)
def test_a_failure_is_one_line_with_the_servers_code(
    odd: str, key: str, fatal: bool, said: str
) -> None:
    space = s3.open_bucket(odd)
    assert space is not None
    with pytest.raises(OSError) as caught:  # noqa: PT011 what is raised is looked at below
        space.put(key, b"")
    found = access_error(f"{odd}/{key}", caught.value)
    assert str(found).startswith(f"{odd}/{key}: {said}")
    assert found.fatal == fatal
    assert "\n" not in str(found)
    assert "Debug" not in str(found)


def test_a_store_that_is_away_or_silent_is_not_waited_for(
    odd: str, environment: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    monkeypatch.setattr(s3, "SILENCE", timedelta(seconds=0.5))
    space = s3.open_bucket(odd)
    assert space is not None
    with pytest.raises(TimeoutError, match="nothing was heard in time"):
        space.get("hang")
    environment("http://127.0.0.1:9")
    space = s3.open_bucket(odd)
    assert space is not None
    with pytest.raises(OSError, match="refused"):
        space.get("a")


def test_a_bucket_of_another_region_is_found(odd: str) -> None:
    space = s3.open_bucket(odd)
    assert space is not None
    assert space._place.region == "us-east-1"
    space.put("a-b", b"")
    assert space._place.region == "eu-west-1"
    assert space.exists("a-b")


# ----------------------------------------------------------------------------------- processes


def test_a_fork_of_a_process_that_has_used_it_goes_on(url: str) -> None:
    """obstore's threads are not there, and its calls would never return."""
    code = """
import os, signal, sys
from segengine.store.blobs import open_objects
objects = open_objects(sys.argv[1])
objects.put("a", b"1")
child = os.fork()
if child == 0:
    signal.alarm(30)
    fine = objects.get("a") == b"1" and objects.create("b", b"2") and objects.swap("b", b"2", b"3")
    os._exit(0 if fine else 1)
assert os.waitpid(child, 0)[1] == 0
assert objects.get("b") == b"3"
"""
    subprocess.run([sys.executable, "-c", code, f"{url}/m"], check=True, timeout=90)


def test_ctrl_c_ends_a_wait_and_what_is_asked_then_is_answered(odd: str) -> None:
    """In a process of its own: a signal is for all that a process has ever set up."""
    code = """
import os, signal, sys, threading, time
from segengine.errors import StoreAccessError
from segengine.store import s3
from segengine.store.remote import RemoteObjects
from segengine.store.remote import _space
signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts tests may ignore it
objects = RemoteObjects(sys.argv[1])
assert isinstance(_space(objects.root, os.getpid()), s3.Bucket)
assert objects.exists("200-there")  # a thread has answered before
began = time.monotonic()
timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
timer.start()
try:
    objects.get("hang")
except KeyboardInterrupt:
    print("interrupted")
try:
    objects.get("403-AccessDenied")
except StoreAccessError as error:
    assert "AccessDenied" in str(error)
    print("answered")
assert time.monotonic() - began < 5
timer.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, f"{odd}/ctrl-c"],
        check=True, timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["interrupted", "answered"]
