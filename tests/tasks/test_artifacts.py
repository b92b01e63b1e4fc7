"""What Prefect is shown: throttled, escaped, and never in the run's way."""

import html
import re
import threading
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segengine.progress import FailedFrame, Progress, Summary
from segengine_tasks import artifacts
from segengine_tasks.artifacts import (
    Publisher,
    StageProgress,
    markdown,
    metric_rows,
    percent,
    publish_results,
    quarantine_rows,
    slug,
)


def summary(**changes: Any) -> Summary:
    values: dict[str, Any] = {
        "name": "Longmont 2024",
        "store": "/data/masks.zarr",
        "report": "/data/masks.zarr/report/index.html",
        "scenes": 2,
        "frames": 12_000,
        "shards": 40,
        "computed": 30,
        "skipped": 10,
        "pixels": 1_000_000,
        "seconds": 4.0,
        "failed": (),
        "metrics": {"iou": 0.5},
        "messages": (),
    }
    return Summary(**values | changes)


class Prefect:
    """Takes down what is published, as Prefect's functions would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import prefect.artifacts

        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        for name in (
            "create_progress_artifact",
            "update_progress_artifact",
            "create_table_artifact",
            "create_markdown_artifact",
        ):
            monkeypatch.setattr(prefect.artifacts, name, self._record(name))

    def _record(self, name: str) -> Any:
        def record(*arguments: Any, **options: Any) -> str:
            self.calls.append((name, arguments, options))
            return "the id"

        return record


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Prefect:
    return Prefect(monkeypatch)


def test_a_publisher_is_silent_after_the_first_trouble() -> None:
    calls: list[int] = []

    def fails(value: int) -> None:
        calls.append(value)
        raise ConnectionError("refused\nand more")

    publish = Publisher()
    assert publish(lambda: 7) == 7
    assert publish(fails, 1) is None
    assert publish(fails, 2) is None
    assert calls == [1]
    assert publish.trouble == "ConnectionError: refused"


def test_progress_is_sent_every_five_seconds_and_at_the_end(
    prefect: Prefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(artifacts.time, "monotonic", lambda: clock[0])
    progress = StageProgress(Publisher(), "segment")
    for tenth in range(121):
        clock[0] = tenth / 10
        progress.update(Progress("segment", tenth, 200, failed=tenth // 100))
    progress.close()
    progress.close()
    assert [(name, arguments[-1]) for name, arguments, _ in prefect.calls] == [
        ("create_progress_artifact", 0.0),
        ("update_progress_artifact", 25.0),
        ("update_progress_artifact", 50.0),
        ("update_progress_artifact", 60.0),
    ]
    assert prefect.calls[-1][2] == {"description": "segment: 120 of 200, 1 failed"}
    assert prefect.calls[-1][1][0] == "the id"


def test_the_bar_of_a_plan_moves_with_its_inputs_and_ends_full(
    prefect: Prefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(artifacts.time, "monotonic", lambda: clock[0])
    progress = StageProgress(Publisher(), "plan")
    for second in (0, 5, 10):
        clock[0] = float(second)
        at = Progress("plan", second * 100, 2000, message=f"{second}.tif", unit="inputs")
        progress.update(at, "100/s" if second else "")
    progress.update(Progress("plan", 0, 40))
    progress.close()
    assert [(arguments[-1], options["description"]) for _, arguments, options in prefect.calls] == [
        (0.0, "plan: 0 of 2,000 inputs, 0.tif"),
        (25.0, "plan: 500 of 2,000 inputs, 5.tif, 100/s"),
        (50.0, "plan: 1,000 of 2,000 inputs, 10.tif, 100/s"),
        (100.0, "plan: 0 of 40"),
    ]


def test_a_stage_without_progress_leaves_no_artifact(prefect: Prefect) -> None:
    StageProgress(Publisher(), "survey").close()
    assert prefect.calls == []


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_percent_is_a_share(done: int, total: int) -> None:
    assert 0 <= percent(Progress("s", done, total)) <= 100
    if done >= total:
        assert percent(Progress("s", done, total)) == 100


def test_results_are_two_tables_and_a_summary(prefect: Prefect) -> None:
    failed = (FailedFrame("a.png", "s", 3, "corrupt", "truncated"),)
    publish_results(Publisher(), summary(failed=failed))
    kinds = [(name, options["key"]) for name, _, options in prefect.calls]
    assert kinds == [
        ("create_table_artifact", "longmont-2024-metrics"),
        ("create_table_artifact", "longmont-2024-quarantine"),
        ("create_markdown_artifact", "longmont-2024-summary"),
    ]
    assert prefect.calls[1][1] == (quarantine_rows(failed),)
    assert quarantine_rows(failed) == [
        {"name": "a.png", "scene": "s", "frame": 3, "kind": "corrupt", "reason": "truncated"}
    ]


def test_the_summary_says_first_how_the_run_ended() -> None:
    failed = (FailedFrame("a.png", "s", 3, "corrupt", "truncated"),)
    bad, good = markdown(summary(failed=failed)), markdown(summary())
    assert bad.splitlines()[2] == "**Quarantined: 1 of 12,000 frames could not be segmented.**"
    assert good.splitlines()[2] == "**Completed: every frame has its mask.**"


def test_figures_of_the_whole_come_before_those_of_scenes() -> None:
    metrics = {"scenes": {"b": {"iou": 0.25}}, "iou": 0.5, "classes": ["x", "y"]}
    assert [(row["metric"], row["value"]) for row in metric_rows(metrics)] == [
        ("iou", 0.5),
        ("classes.0", "x"),
        ("classes.1", "y"),
        ("scenes.b.iou", 0.25),
    ]


@given(st.text(max_size=30))
def test_a_key_is_what_prefect_takes(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug(name))


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("/data/my masks.zarr", "https://files.example.org/seg/my%20masks.zarr"),
        ("/data/deep/a.zarr", "http://deep.example.org:8080/a.zarr"),
        ("/data", "https://files.example.org/seg"),
        ("/database/a.zarr", None),
        ("s3://masks/a (1)#b.zarr", "https://masks.example.org/a%20%281%29%23b.zarr"),
        ("s3://other/a.zarr", None),
    ],
)
def test_a_place_is_a_link_where_the_deployment_says_who_serves_it(
    place: str, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"- masks: {artifacts._escaped(place)}\n" in markdown(summary(store=place))
    monkeypatch.setenv(
        "SEGENGINE_LINKS",
        "/data/=https://files.example.org/seg/; s3://masks=https://masks.example.org;"
        " /data/deep=http://deep.example.org:8080",
    )
    shown = artifacts._escaped(place)
    link = shown if address is None else f"[{shown}]({address})"
    assert f"- masks: {link}\n" in markdown(summary(store=place))


def test_the_links_of_a_summary_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a browser asks for them, of a server that is there."""
    report = tmp_path / "a b=c#1 (ü).zarr/report/index.html"
    report.parent.mkdir(parents=True)
    report.write_text("the report")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("SEGENGINE_LINKS", f"{tmp_path}=http://127.0.0.1:{server.server_port}")
        text = markdown(summary(store=str(report.parents[1]), report=str(report)))
        (url,) = re.findall(r"^- report: \[.*\]\((\S+)\)$", text, re.MULTILINE)
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = answer.read()
        server.shutdown()
    assert found == b"the report"


@pytest.mark.parametrize(
    "wrong", ["/data", "/data=ftp://x", "=https://x", "/data=files.example.org"]
)
def test_what_is_no_pair_is_said_in_the_summary(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGENGINE_LINKS", f"/a=https://x;{wrong}")
    (line,) = [line for line in markdown(summary()).splitlines() if "LINKS" in line]
    assert line.startswith(r"- SEGENGINE\_LINKS: ")
    assert "write PLACE=https://" in line
    monkeypatch.setenv("SEGENGINE_LINKS", "/a=https://x;")
    assert "LINKS" not in markdown(summary())


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_names_from_files_cannot_write_markdown_or_html(name: str) -> None:
    text = markdown(summary(failed=(FailedFrame(name, None, None, "corrupt", "r"),)))
    line = text.splitlines()[-1]
    assert line.startswith("- ")
    assert "<" not in line
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]|]", line)
    # Nothing is lost: what markdown shows is the name.
    shown = html.unescape(re.sub(r"\\([\\`*_{}\[\]()#+!|~])", r"\1", line))
    assert shown == f"- {' '.join(name.split())}: corrupt: r"
