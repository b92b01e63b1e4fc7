"""Progress and results as text: safe to print, nothing cut."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segengine import stderr
from segengine.progress import FailedFrame, Piece, Progress, Summary
from segengine_flows import jsonlog
from segengine_flows.terminal import (
    UNSCORED,
    Display,
    describe,
    failures,
    printable,
    result,
    say,
    unscored,
)
from segengine_tasks.pace import Pace


@given(st.text(st.characters(), max_size=40))
def test_what_is_printed_is_one_line_that_steers_no_terminal(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text


def test_undecodable_names_can_be_told_apart() -> None:
    assert printable("a\udcff") == r"a\udcff"
    assert printable("a\udcfe") != printable("a\udcff")


def frame(name: str) -> FailedFrame:
    return FailedFrame(name, None, None, "corrupt", "not a PNG\nat all")


def test_every_failed_frame_is_named_in_full() -> None:
    names = ["x" * 500 + f"{index}.png" for index in range(300)]
    lines = failures(tuple(map(frame, names)))
    assert lines[0] == "300 frames quarantined:"
    assert lines[1:] == [f"  corrupt: {name}: not a PNG\nat all" for name in names]


def test_a_result_says_what_was_done_and_where() -> None:
    summary = Summary("n", "/s", "/s/r.html", 1, 2, 1500, 1000, 500, 4_000_000, 2.0, (), {}, ())
    assert result(summary) == [
        "n: 2 frames in 1 scene; 1,000 shards computed, 500 done before, 2.0 s, 2.0 megapixels/s",
        "masks:  /s",
        "report: /s/r.html",
    ]


def test_frames_without_truth_are_named() -> None:
    assert unscored({}) == unscored({"missing_truth": []}) == []
    missing = [{"name": f"{i}.png", "reason": f"no truth at /l/{i}.png"} for i in range(UNSCORED)]
    lines = unscored({"missing_truth": missing})
    assert lines[0] == f"{UNSCORED} frames not scored, without usable truth:"
    assert lines[1:] == [f"  {m['name']}: {m['reason']}" for m in missing]
    last = unscored({"missing_truth": missing + missing[:3]})[-1]
    assert last == "  and 3 more; metrics.json names them all"
    summary = Summary("n", "", "", 1, 1, 1, 1, 0, 1, 1.0, (), {"missing_truth": missing}, ())
    assert result(summary)[3:] == lines


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("debug", ["segment: a 0.1.2: done, 0.500 s", "segment: b: crash, 0.000 s, attempt 2, gone",
                   "segment: 2 of 2", "stale"]),
        ("info", ["segment: 2 of 2", "stale"]),
        ("warning", ["stale"]),
        ("error", []),
    ],
)  # fmt: skip
def test_what_is_said_from_a_level_on(
    level: str, said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stderr._state, "least", "info")
    stderr.say_from(level)
    display = Display(stream := io.StringIO())
    display.update(Progress("segment", 1, 2, piece=Piece("a", (0, 1, 2), seconds=0.5)))
    piece = Piece("b", status="crash", attempts=2, reason="gone")
    display.update(Progress("segment", 2, 2, piece=piece))
    display.note("stale")
    display.close()
    assert stream.getvalue().splitlines() == said
    say("hint")
    say("it failed", "error")
    hint = ["segengine: hint"] * (level in ("debug", "info"))
    assert capsys.readouterr().err.splitlines() == [*hint, "segengine: it failed"]


def test_without_a_terminal_there_are_few_lines() -> None:
    stream = io.StringIO()
    display = Display(stream)
    for done in range(10_001):
        display.update(Progress("segment", done, 10_000, failed=done // 5000))
    display.note("12 shards are stale")
    display.close()
    assert stream.getvalue().splitlines() == [
        "segment: 10,000 of 10,000, 2 frames failed",
        "12 shards are stale",
    ]


def test_on_a_terminal_there_is_a_bar_and_notes_stay() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    display = Display(stream)
    display.update(Progress("segment", 3, 4, message="bad\x1b]0;title"))
    display.note("[red]stale\x07")
    display.update(Progress("publish", 1, 1))
    display.close()
    text = stream.getvalue()
    assert "segment" in text
    assert "3/4" in text
    assert "publish" in text
    assert r"[red]stale\x07" in text
    assert "\x1b]0;" not in text


def test_progress_names_scene_rate_and_time_left() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    assert pace(Progress("segment", 0, 1000)) == ""
    for second in range(1, 101):
        now = float(second)
        words = pace(Progress("segment", second * 2, 1000, piece=Piece(scene="tile-7")))
    assert words == "tile-7, 2/s, 7 min left"
    for second in range(101, 201):  # twice as fast from now on: the last minute tells
        now = float(second)
        words = pace(Progress("segment", 200 + (second - 100) * 4, 1000, piece=Piece(scene="b")))
    assert words == "b, 4/s, 2 min left"
    assert pace(Progress("publish", 1, 3)) == ""  # another stage, of which nothing is known yet
    assert pace(Progress("segment", 9, 9, piece=Piece(scene="b"))) == "b"


def test_a_bar_shows_the_scene_and_a_line_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    display = Display(stream)
    display.update(Progress("segment", 3, 4, piece=Piece(scene="tile-7")))
    display.close()
    assert "tile-7" in stream.getvalue()
    monkeypatch.setattr("segengine_flows.terminal.EVERY", 0.0)
    lines = io.StringIO()
    display = Display(lines)
    for done in range(1, 4):
        display.update(Progress("segment", done, 4, piece=Piece(scene="tile-7")))
    assert lines.getvalue().splitlines()[0].startswith("segment: 2 of 4, tile-7")


def test_without_a_terminal_inputs_are_a_line_where_they_take_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segengine_flows.terminal.EVERY", 0.0)
    lines = io.StringIO()
    display = Display(lines)
    for done in (1, 2):
        display.update(Progress("plan", done, 9, message="tile-7.tif", unit="inputs"))
    assert lines.getvalue().startswith("plan: 2 of 9 inputs, tile-7.tif")


def test_inputs_and_shards_of_a_plan_are_two_bars() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    steps = [
        Progress("plan", 500, 2000, message="tile-7.tif", unit="inputs"),
        Progress("plan", 2000, 2000, unit="inputs"),
        Progress("plan", 12, 40),
    ]
    stream, lines = Terminal(), io.StringIO()
    for display in (Display(stream), Display(lines)):
        for step in steps:
            display.update(step)
        display.close()
    text = stream.getvalue()
    assert "2000/2000" in text
    assert "12/40" in text
    assert "inputs" in text
    assert (
        lines.getvalue() == ""
    )  # a plan says its shards where all are done; its inputs now and then
    assert describe(steps[0]) == "plan: 500 of 2,000 inputs, tile-7.tif"
    now = 0.0
    pace = Pace(lambda: now)
    words = ""
    for second in range(11):
        now = float(second)
        words = pace(Progress("plan", second * 100, 2000, message="a", unit="inputs"))
    assert words == "100/s, 10 s left"
    assert pace(Progress("plan", 12, 40)) == ""  # of shards nothing is known yet


def test_the_json_log_counts_inputs_and_then_shards(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonlog._State, "run", staticmethod(lambda: ""))  # put back afterwards
    log = jsonlog.JsonLog(lambda: "a-run")
    log.update(Progress("plan", 500, 2000, message="tile-7.tif", unit="inputs"))
    log.update(Progress("plan", 501, 2000, message="tile-8.tif", unit="inputs"))
    log.update(Progress("plan", 12, 40))
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["message"], line["done"]) for line in said] == [
        ("500 of 2,000 inputs, tile-7.tif", 500),
        ("12 of 40", 12),
    ]
