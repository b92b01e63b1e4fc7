"""What of a URL may be seen."""

from __future__ import annotations

import copy

import pytest

from segengine import errors
from segengine.progress import FailedFrame
from segengine.store.layouts import Unplaced
from segengine.types import Entry, FrameRef, TruthRef, Unreadable
from segengine.urls import public, public_values
from segengine.worker.tasks import Retry

AZURE = "https://acc.blob.core.windows.net/c/a.tif?sv=2022&sp=r&sig=SECRET%2Bx%3D"
SIGNED = "https://b.s3.amazonaws.com/k.png?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://h:81/a/b.png", "https://h:81/a/b.png"),
        ("https://me:SECRET@h:81/a.png", "https://h:81/a.png"),
        ("https://SECRET@h/a.png", "https://h/a.png"),
        ("HTTPS://ME:SECRET@H/a", "HTTPS://H/a"),
        ("https://h/a.png?SECRET", "https://h/a.png"),
        ("https://h/a.png#SECRET", "https://h/a.png"),
        ("https://h/a b.png?SECRET", "https://h/a b.png"),
        ("https://h/a b.png?t=SECRET", "https://h/a b.png"),
        ("https://[::1]:80/a?SECRET", "https://[::1]:80/a"),
        (AZURE, "https://acc.blob.core.windows.net/c/a.tif"),
        (SIGNED, "https://b.s3.amazonaws.com/k.png"),
        ("s3://id:SECRET@bucket/k.png", "s3://bucket/k.png"),
        ("s3://b/k.png?versionId=SECRET", "s3://b/k.png"),
        # of an object store these are no query: a glob, and keys
        ("s3://b/night_??.png", "s3://b/night_??.png"),
        ("s3://b/a b#ä.png", "s3://b/a b#ä.png"),
        ("gs://b/{stem}.png", "gs://b/{stem}.png"),
        ("postgresql+asyncpg://me:SECRET@db:5432/x", "postgresql+asyncpg://db:5432/x"),
        ("tcp://10.0.0.1:8786", "tcp://10.0.0.1:8786"),
        ("tls://me:SECRET@h:8786: gone", "tls://h:8786: gone"),
        ("tls://me:SECRET: gone", "tls://...: gone"),
        ("https://h:81/a:2: gone", "https://h:81/a:2: gone"),
        # what cannot be told from a password is not shown
        ("https://me:SEC/RET@h/a", "https://..."),
        ("https://me:p@SECRET@h/a", "https://h/a"),
        ("simplecache::https://me:SECRET@h/x?SECRET", "simplecache::https://h/x"),
        ("zip://a.zip::https://me:SECRET@h/x?SECRET", "zip://..."),
        ("https://h/a?url=https://x/y&sig=SECRET", "https://h/a"),
        ("https://h/at/http://me:SECRET@x/y?SECRET", "https://h/at/http://x/y"),
        # in texts
        ("403, message='no', url='http://h/a?t=SECRET'", "403, message='no', url='http://h/a'"),
        ("URL('http://me:SECRET@h/a?t=SECRET')", "URL('http://h/a')"),
        ('could not connect: "https://h/a?X=SECRET"', 'could not connect: "https://h/a"'),
        ('{"a":"http://h/a?t=SECRET","b":1}', '{"a":"http://h/a","b":1}'),
        ("(see https://h/a?SECRET), then", "(see https://h/a), then"),
        ("http://me:SECRET@h,http://me:SECRET@i/x", "http://h,http://i/x"),
        ("see https://h/x, is it there? yes", "see https://h/x, is it there? yes"),
        ("/vsicurl/https://me:SECRET@h/a.tif?SECRET", "/vsicurl/https://h/a.tif"),
        ("'/vsicurl?header=SECRET&url=https%3A%2F%2Fh%2Fa' is none", "'/vsicurl' is none"),
        ("https%3A%2F%2Fme%3ASECRET%40h%2Fa%3Fx%3DSECRET", "https://h/a"),
        ("https%253A%252F%252Fme%253ASECRET%2540h%252Fa", "https://h/a"),
        ("http:/me:SECRET@h:1/a?SECRET: no such file", "http:/h:1/a: no such file"),
        # what is no URL stays
        ("a?b=c.png: 100% of it", "a?b=c.png: 100% of it"),
        ("/data/a#1?x.png", "/data/a#1?x.png"),
        ("", ""),
    ],
)
def test_scheme_host_port_and_path_are_kept(given: str, shown: str) -> None:
    assert public(given) == shown
    assert public(shown) == shown


def test_values_keep_their_shape() -> None:
    given = {"a": [1, None, {"u": "http://me:S@h/a?S"}], "http://h?S": True, "t": ("x", 2.5)}
    assert public_values(given) == {
        "a": [1, None, {"u": "http://h/a"}],
        "http://h": True,
        "t": ["x", 2.5],
    }


@pytest.mark.parametrize(
    "kind",
    [
        errors.SegengineError,
        errors.JobError,
        errors.StoreError,
        errors.StoreLockedError,
        errors.TooManyQuarantinedError,
        errors.CorruptInputError,
        errors.TransientInputError,
        errors.MissingTruthError,
    ],
)
def test_no_error_of_ours_says_them(kind: type[Exception]) -> None:
    error = kind(f"{AZURE}: cannot be read: {SIGNED}")
    for each in (error, copy.copy(error)):  # copied as Dask sends it: made anew from its words
        assert "SECRET" not in f"{each} {each!r} {each.args}"
        assert "https://b.s3.amazonaws.com/k.png" in str(each)


def test_no_value_that_travels_says_them() -> None:
    ref = FrameRef(0, "a", AZURE, "f", 1, 1)
    values = [
        Entry("a", AZURE, "f"),
        ref,
        TruthRef(AZURE, "f", f"{AZURE} or {SIGNED}"),
        Unreadable("error", AZURE),
        Unplaced("a", AZURE, "f", "error", AZURE),
        FailedFrame("a", None, None, "error", AZURE),
        Retry(AZURE),
    ]
    for value in values:
        assert "SECRET" not in repr(value), value
    assert ref.uri == AZURE, "a worker reads it"
