"""The `segengine` command: parse, call, print, exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from segengine.stderr import LEVELS, say_from
from segengine_flows.completion import SHELLS, script
from segengine_flows.early import asks_for_json
from segengine_flows.leaving import Interrupted, catch_signals, leave, let_signals_end
from segengine_flows.terminal import say, write, write_json

LISTS = ("segmenters", "sources", "metrics", "losses")
EXIT_CODES = """\
exit codes:
  0    all frames committed
  1    an error stopped the run
  2    bad usage, or an invalid job: the line names its key
  3    finished, with frames in quarantine
  4    `verify` found a difference, or `diff --promote-if` does not hold
  5    the job's time budget ended the run; the same command goes on
  130  interrupted (143: by SIGTERM, 129: its terminal was closed); the same command goes on
"""
MANY_PICTURES = 10_000
"""Points of `sample` beyond which it is said what their pictures cost."""
FAMILIES = ("distribution", "region", "boundary", "compound", "other")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Errors are one line on stderr."""
    code = _main(argv)
    if argv is None and "prefect" in sys.modules:
        # Prefect's threads would keep the process while their API does not answer.
        leave(code)
    if argv is None:
        let_signals_end()
    return code


def _main(argv: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if asks_for_json(sys.argv[1:] if argv is None else argv):
        from segengine_flows.jsonlog import begin

        begin()  # bad usage is a message as well
    args = _parser().parse_args(argv)
    say_from(getattr(args, "log_level", "info"))
    catch_signals()
    try:
        code: int = args.command(args)
        sys.stdout.flush()
    except Interrupted as interrupted:
        interrupted.leave()
    except BrokenPipeError:
        # The reader has gone (`segengine status ... | head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the one place that turns errors into exit codes
        return _failed(error, getattr(args, "job", None), getattr(args, "set", ()))
    return code


def _failed(error: Exception, job_file: str | None, overrides: Sequence[str]) -> int:
    """Say what went wrong on one line; the exit code."""
    from segengine.errors import JobError, SegengineError

    if os.environ.get("SEGENGINE_DEBUG") == "1":
        sys.stderr.write(_trace(error))
    if isinstance(error, JobError) and job_file is not None:
        from segengine.job import located

        error = located(job_file, error, overrides)
    if isinstance(error, SegengineError):
        say(str(error), "error")
        return error.exit_code
    import tempfile

    what = f"{type(error).__name__}: {error}".partition("\n")[0]
    with tempfile.NamedTemporaryFile(
        "w", prefix="segengine-error-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(_trace(error))
    say(f"unexpected error: {what}; the full traceback is in {file.name}", "error")
    return 1


def _trace(error: Exception) -> str:
    import traceback

    from segengine.urls import public

    return public("".join(traceback.format_exception(error)))


# ---------------------------------------------------------------------------------------- commands


def _run(args: argparse.Namespace) -> int:
    from segengine_flows.run import run

    changes = [*args.set, "trust=true"] if args.trust else args.set
    return run(
        args.job,
        changes,
        repair=args.repair,
        refit=args.refit,
        prefect=args.prefect,
        metrics_file=args.metrics_file,
        lineage=args.lineage,
        as_json=args.json,
    )


def _watch(args: argparse.Namespace) -> int:
    from segengine_flows.watch import watch

    options = [
        "--log",
        args.log,
        "--log-level",
        args.log_level,
        *(["--trust"] if args.trust else []),
    ]
    if args.metrics_file:
        options += ["--metrics-file", args.metrics_file]
    if args.lineage:
        options += ["--lineage", args.lineage]
    return watch(args.job, args.set, options, args.every)


def _demo(args: argparse.Namespace) -> int:
    from segengine_flows.demo import demo

    return demo(args.out, overwrite=args.overwrite)


def _init(args: argparse.Namespace) -> int:
    from segengine.commands.init import init

    return _show(init(args.path[0] if len(args.path) == 1 else args.path, args.out))


def _plan(args: argparse.Namespace) -> int:
    from segengine.job import is_train_job, load_job

    if is_train_job(args.job):
        from segengine.errors import JobError
        from segengine_flows._train import planned

        if args.json:
            raise JobError(f"--json: {args.job} is a TRAIN.yaml; it goes with a job")
        return _show(planned(args.job, args.set))
    job = load_job(args.job, args.set)  # a mistake is told before anything heavy is loaded
    from segengine.commands.plan import plan

    return _show(plan(job), args.json)


def _status(args: argparse.Namespace) -> int:
    from segengine.commands.status import status

    return _show(status(_store(args.store)), args.json)


def _verify(args: argparse.Namespace) -> int:
    from segengine.commands.verify import verify

    return _show(verify(_trusted(args), trust=args.trust), args.json)


def _evaluate(args: argparse.Namespace) -> int:
    from segengine.commands.evaluate import evaluate
    from segengine.overrides import asked_by

    asked = {group: args.__dict__[group] for group in ("metrics", "losses")}
    given = {
        group: [asked_by(f"--{group}", word) for word in words]
        for group, words in asked.items()
        if words is not None
    }
    truth = _truth(args)
    return _show(evaluate(_trusted(args), truth, given or None, args.trust), args.json)


def _calibrate(args: argparse.Namespace) -> int:
    from segengine.commands.calibrate import calibrate

    out = None if args.out is None else _full(args.out)
    return _show(calibrate(_trusted(args), out, args.overwrite, args.trust), args.json)


def _report(args: argparse.Namespace) -> int:
    from segengine.report import build

    write(str(build(_trusted(args), trust=args.trust)))
    return 0


def _export(args: argparse.Namespace) -> int:
    import inspect

    from segengine import registry
    from segengine.errors import JobError
    from segengine.guards.trust import trusting

    export = registry.load("exports", args.to)
    names = ("simplify", "min_area", "holes", "redact", "prefix")
    given = {name: getattr(args, name) for name in names}
    options = {name: value for name, value in given.items() if value is not None}
    options |= {name: True for name in ("overwrite", "corrected") if getattr(args, name)}
    taken = inspect.signature(export).parameters
    for name in options.keys() - taken.keys():
        remedy = "name another folder with --out" if name == "overwrite" else "leave it out"
        raise JobError(f"--{name.replace('_', '-')}: {args.to} takes no such option; {remedy}")
    if "say" in taken:
        options["say"] = say
    place = _trusted(args)
    with trusting(args.trust):
        written = export(place, to=args.out or f"segengine-{args.to}", **options)
    for path in written:
        write(str(path))
    _warn_of_inputs(place, written)
    return 0


def _warn_of_inputs(place: str, written: Sequence[str]) -> None:
    from segengine.outputs import taken_up
    from segengine.reader import open_store

    store = open_store(place)
    number, path = taken_up(store, written)
    if number:
        # Of documents it may tell that they are no scenes, or our own.
        done = "" if store.job["source"]["kind"] == "stac" else " and would be segmented"
        say(
            f"{number:,} of these files lie where the next run looks for inputs (source.paths: {path})"
            f"{done}; move them, or narrow that path"
        )


def _picture(args: argparse.Namespace) -> int:
    from segengine.commands.show import show

    place, frame = _trusted(args), args.frame
    path = show(place, args.scene, frame, args.out, args.what, trust=args.trust)
    write(str(path))
    return 0


def _zones(args: argparse.Namespace) -> int:
    from segengine.commands.zones import zones

    options = {"layer": args.layer, "overwrite": args.overwrite}
    return _show(zones(_store(args.store), args.polygons, args.out, **options), args.json)


def _sample(args: argparse.Namespace) -> int:
    from segengine.commands.sample import sample

    if args.pictures is None and args.size > MANY_PICTURES:
        say(
            f"a picture of each of {args.size:,} points takes about {args.size / 6000:.0f} minutes and "
            f"{args.size * 30e-6:.1f} GB; --pictures N draws those of the first N"
        )
    keys = ("seed", "allocation", "pictures", "overwrite")
    options = {key: args.__dict__[key] for key in keys}
    expected = dict(args.accuracy) or None
    found = sample(
        _trusted(args), args.size, args.out, accuracy=expected, trust=args.trust, **options
    )
    return _show(found, args.json)


def _accuracy(text: str) -> tuple[str, float]:
    """CLASS=0.8; a name may hold `=` itself."""
    name, _, number = text.rpartition("=")
    try:
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not CLASS=SHARE, as water=0.9") from None


def _area(args: argparse.Namespace) -> int:
    from segengine.commands.area import area

    options = {"page": args.page, "overwrite": args.overwrite}
    return _show(area(_store(args.store), args.points, **options), args.json)


def _diff(args: argparse.Namespace) -> int:
    from segengine.commands.diff import diff

    options = {"seed": args.seed, "overwrite": args.overwrite}
    found = diff(_store(args.a), _store(args.b), args.out, args.promote_if, **options)
    return _show(found, args.json)


def _review(args: argparse.Namespace) -> int:
    from segengine.commands.review import is_store, review

    place = _store(args.store)
    options = {"classes": args.classes, "labels": args.labels, "who": args.who}
    if is_store(place):
        place = _trusted(args)
    server = review(place, args.port, **options, trust=args.trust)
    sys.stdout.write(f"{server.url}\n")  # as it is: the token is this line's purpose
    sys.stdout.flush()
    server.serve_forever()
    return 0


def _names(text: str) -> list[str]:
    """a,b: names between commas."""
    return [name.strip() for name in text.split(",")]


def _prune(args: argparse.Namespace) -> int:
    from segengine.commands.prune import Wanted, prune, read_names, seconds_of_age

    wanted = Wanted(
        keep_last=args.keep_last,
        older=None if args.older is None else seconds_of_age(args.older),
        names=None if args.frames is None else read_names(args.frames),
    )
    report = prune(_store(args.store), wanted, yes=args.yes)
    for line in report.misses:
        say(line, "warning")
    return _show(report, args.json)


def _train(args: argparse.Namespace) -> int:
    from segengine_flows._train import run

    return run(args.job, args.set)


def _list(args: argparse.Namespace) -> int:
    from segengine import registry

    group = args.name
    names = registry.names(group)
    if not names:
        write(f"no {group} are installed")
    width = max(map(len, names), default=0)
    if group == "losses":  # one module a family
        names = tuple(sorted(names, key=lambda n: (FAMILIES.index(_family(n)), n)))
    before = ""
    for name in names:
        if group == "losses" and _family(name) != before:
            before = _family(name)
            write(f"{before}:")
        indent = "  " if group == "losses" else ""
        write(f"{indent}{name:<{width}}  {registry.summary(group, name)}".rstrip())
        for word, text in registry.facts(group, name).items():
            write(f"{'':<{width}}  {word}: {text}")
    return 0


def _schema(args: argparse.Namespace) -> int:
    from segengine.job import Job

    dialect = "https://json-schema.org/draft/2020-12/schema"
    write_json({"$schema": dialect, **Job.model_json_schema()})
    return 0


def _completion(args: argparse.Namespace) -> int:
    sys.stdout.write(script(_parser(), args.shell))  # lines as they are
    return 0


def _family(loss: str) -> str:
    """The family of a loss: the module it lies in; another package's are `other`."""
    from segengine import registry

    place = registry.module("losses", loss).rpartition(".")[2]
    return place if place in FAMILIES else FAMILIES[-1]


def _show(report: Any, as_json: bool = False) -> int:
    """Print a report; its exit code."""
    if as_json:
        write_json(report.as_json())
    else:
        for line in report.lines():
            write(line)
    return int(getattr(report, "exit_code", 0))


def _store(path: str) -> str:
    """A store as named on the command line: a URL, or a path made absolute."""
    from segengine.guards.schemes import require_served

    require_served(path, "STORE")
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _trusted(args: argparse.Namespace) -> str:
    """A store as named on the command line; a line on stderr where code that it names is left out."""
    from segengine.planning.stored import foreign_code
    from segengine.reader import open_lost

    place = _store(args.store)
    attributes = open_lost(place).attributes  # none where the root is lost: the command says so
    named = foreign_code(attributes) if attributes and not args.trust else []
    if named:
        say(
            f"{place}: names code of its own ({', '.join(named)}); what needs it is left out "
            "(--trust uses it)"
        )
    return place


def _truth(args: argparse.Namespace) -> Any:
    from pydantic import ValidationError

    from segengine.errors import JobError
    from segengine.guards.schemes import require_served
    from segengine.job import TruthSpec

    options = {"classes": args.classes, "values": args.values, "void": args.void}
    options["instances"] = args.instances
    given = {k: v for k, v in options.items() if v is not None}
    if args.truth is None and args.instances is None:
        if given:
            raise JobError(f"--{next(iter(given))}: goes with --truth")
        return None
    for path in args.truth or ():
        require_served(path, "--truth")
    paths = [_full(p) for p in args.truth or ()]
    if args.instances is not None:
        require_served(args.instances, "--instances")
        given["instances"] = _full(args.instances)
    try:
        return TruthSpec(paths=paths, **given)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise JobError(f"--truth: {message}") from None


def _full(path: str) -> str:
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


# ------------------------------------------------------------------------------------------ parser


class _Parser(argparse.ArgumentParser):
    """Bad usage is one line, as every error."""

    def error(self, message: str) -> NoReturn:
        say(f"{message}; see `{self.prog} --help`", "error")
        sys.exit(2)


def _path(text: str) -> str:
    """A path as an argument; bad usage where no file system takes it."""
    from segengine.guards.schemes import unusable

    reason = unusable(text)
    if reason is not None:
        raise argparse.ArgumentTypeError(reason)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="segengine",
        description="Segment images at scale.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(command=_version)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)

    def add(name: str, function: Any, help_: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(
            name, help=help_, description=help_, allow_abbrev=False
        )
        command.set_defaults(command=function, name=name)
        return command

    def add_job(command: argparse.ArgumentParser) -> None:
        command.add_argument("job", metavar="JOB.yaml", type=_path, help="the job file")
        command.add_argument(
            "--set", metavar="A.B=C", action="append", default=[], help="change a key of the job"
        )

    def add_store(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "store", metavar="STORE", type=_path, help="folder or s3:// URL of the store"
        )

    def add_trust(command: argparse.ArgumentParser, help_: str) -> None:
        command.add_argument("--trust", action="store_true", help=help_)

    def add_log(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--log",
            choices=("text", "json"),
            default="text",
            help="what stderr gets: text and a progress bar, or one JSON object a line",
        )
        command.add_argument(
            "--log-level",
            choices=LEVELS,
            default="info",
            help="the least that stderr gets; warning: no progress, debug: a line a shard",
        )

    def add_json(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--json", action="store_true", help="one JSON object on stdout instead of text"
        )

    own = "use code that the store's own job names as package.module:Class"
    demo = add("demo", _demo, "Segment real images that come with a dependency; needs no network.")
    demo.add_argument(
        "--out", metavar="DIR", type=_path, default="segengine-demo", help="where to put it all"
    )
    demo.add_argument("--overwrite", action="store_true", help="also files that no demo wrote")
    init = add("init", _init, "Look at files, and write a job for them with each key explained.")
    init.add_argument(
        "path",
        metavar="PATH",
        type=_path,
        nargs="*",
        default=["."],
        help="folders, files, globs or URLs; a STAC catalog, collection or item",
    )
    init.add_argument(
        "--out", metavar="JOB.yaml", type=_path, default="job.yaml", help="the file to write"
    )
    run = add("run", _run, "Run a job: plan, segment, aggregate, publish; goes on by itself.")
    add_job(run)
    run.add_argument("--repair", action="store_true", help="make changed stored masks again")
    run.add_argument("--refit", action="store_true", help="fit the segmenter again")
    run.add_argument(
        "--prefect", action="store_true", help="record the run with Prefect, also without a server"
    )
    add_json(run)
    watch = add("watch", _watch, "Run a job again and again, as inputs arrive; without Prefect.")
    add_job(watch)
    watch.add_argument(
        "--every", metavar="DURATION", default="10m", help="from one run's begin to the next's; 10m"
    )
    for command in (run, watch):
        command.add_argument(
            "--metrics-file",
            metavar="PATH",
            type=_path,
            help="keep the run's figures there for Prometheus' node exporter, as text",
        )
        command.add_argument(
            "--lineage",
            metavar="FILE|URL",
            type=_path,
            help="send the run's events of OpenLineage there",
        )
        add_log(command)
        add_trust(command, "as `trust: true`: use code and files that inputs and models name")
    plan = add("plan", _plan, "Dry run: what would be done, and what it needs.")
    add_job(plan)
    status = add("status", _status, "What is done, failed and left, from the store's records.")
    add_store(status)
    verify = add("verify", _verify, "Compare checksums, and segment a sample again.")
    add_store(verify)
    evaluate = add("evaluate", _evaluate, "Measure a finished store without segmenting again.")
    add_store(evaluate)
    evaluate.add_argument(
        "--truth",
        metavar="PATH",
        type=_path,
        nargs="+",
        help="label images or annotation files, as in a job; default: the job's",
    )
    evaluate.add_argument("--classes", metavar="NAME", nargs="+", help="class names, in order")
    evaluate.add_argument(
        "--values", metavar="N", nargs="+", help="their pixel values, or colours as '#ff0000'"
    )
    evaluate.add_argument("--void", metavar="N", help="pixel value that is not scored")
    evaluate.add_argument(
        "--instances", metavar="PATH", type=_path, help="images of one number an object, 0: none"
    )
    for group, single in (("metrics", "metric"), ("losses", "loss")):
        evaluate.add_argument(
            f"--{group}",
            metavar="NAME",
            nargs="+",
            help=f"{group} to compute, or all; with options '{{{single}: NAME, OPTION: value}}'",
        )
    calibrate = add("calibrate", _calibrate, "Fit a network's temperature on a store's truth.")
    add_store(calibrate)
    calibrate.add_argument(
        "--out",
        metavar="BUNDLE",
        type=_path,
        help="the network's bundle again, with its temperature; without, it is only said",
    )
    calibrate.add_argument(
        "--overwrite", action="store_true", help="also files that no command wrote; never an input"
    )
    report = add("report", _report, "Build the report again from the store.")
    add_store(report)
    export = add("export", _export, "Write a store's masks in another format.")
    add_store(export)
    formats = (
        "png, cog, coco, panoptic, geojson, geoparquet, flatgeobuf, geopackage, pmtiles, stac, video, "
        "nifti, dicom-seg"
    )
    export.add_argument("--to", metavar="FORMAT", required=True, help=formats)
    export.add_argument(
        "--out", metavar="DIR", type=_path, help="where to; default: segengine-FORMAT"
    )
    export.add_argument(
        "--overwrite", action="store_true", help="also files that no export wrote; never an input"
    )
    for name, what in (
        ("simplify", "polygons: side of the triangles that go, in the coordinates' units"),
        ("min-area", "polygons: least area, in square metres (pixels without georeference)"),
        ("holes", "polygons: fill holes up to that area"),
    ):
        export.add_argument(
            f"--{name}", metavar="UNITS" if name == "simplify" else "A", type=float, help=what
        )
    export.add_argument(
        "--redact",
        metavar="CLASS,CLASS",
        help="video: blur these, beyond recovery; no mask is drawn",
    )
    export.add_argument(
        "--corrected",
        action="store_true",
        help="png, coco: only frames put right by hand (`segengine review`), as they are then",
    )
    export.add_argument(
        "--prefix", metavar="URL", help="label-studio: what goes before each frame's name"
    )
    show = add("show", _picture, "Draw a frame beside its mask.")
    add_store(show)
    show.add_argument("--scene", metavar="S", required=True, help="name of the scene")
    show.add_argument("--frame", metavar="N", type=int, default=0, help="frame in the scene")
    show.add_argument("--out", metavar="PNG", type=_path, help="the picture to write")
    show.add_argument(
        "--what",
        default="overlay",
        help="overlay, errors (against the truth) or responses (of edges, signed)",
    )
    diff = add("diff", _diff, "How two stores of the same inputs differ, and which is better.")
    diff.add_argument("a", metavar="A", type=_path, help="folder or s3:// URL of a store")
    diff.add_argument("b", metavar="B", type=_path, help="of the one that is held against it")
    diff.add_argument(
        "--out", metavar="DIR", type=_path, help="write a page, and what changed on the ground"
    )
    diff.add_argument(
        "--promote-if",
        metavar="EXPR",
        help="exit code 4 where it does not hold: 'mean_iou >= +0.005 and agreement >= 0.97'",
    )
    diff.add_argument("--seed", metavar="N", type=int, default=0, help="of the intervals; 0")
    diff.add_argument(
        "--overwrite", action="store_true", help="also files that no command wrote; never an input"
    )
    zones = add("zones", _zones, "Areas and shares of each class in polygons, as a table.")
    add_store(zones)
    zones.add_argument(
        "polygons",
        metavar="POLYGONS",
        type=_path,
        help="GeoJSON, GeoPackage, FlatGeobuf, GeoParquet or Shapefile",
    )
    zones.add_argument(
        "--out",
        metavar="TABLE",
        type=_path,
        required=True,
        help="the table to write: .csv, or with the shapes .parquet, .geoparquet",
    )
    zones.add_argument("--layer", metavar="NAME", help="of a GeoPackage with several")
    zones.add_argument(
        "--overwrite", action="store_true", help="also a file that no command wrote; never an input"
    )
    sample = add("sample", _sample, "Draw reference points from each class, to be labelled.")
    add_store(sample)
    sample.add_argument("--size", metavar="N", type=int, required=True, help="points in all")
    sample.add_argument(
        "--out",
        metavar="POINTS.geojson",
        type=_path,
        default="points.geojson",
        help="the points to write; pictures of them lie beside it; default: points.geojson",
    )
    sample.add_argument(
        "--seed", metavar="S", type=int, default=0, help="another one, other points"
    )
    sample.add_argument(
        "--allocation",
        default="proportional",
        help="proportional to area, or neyman: more where a class is less sure",
    )
    sample.add_argument(
        "--accuracy",
        metavar="CLASS=SHARE",
        type=_accuracy,
        action="append",
        default=[],
        help="user's accuracy that neyman expects of a class; default: as measured",
    )
    sample.add_argument(
        "--pictures",
        metavar="N",
        type=int,
        help="of how many points, the first ones; each takes about 10 ms and 30 kB; default: of each",
    )
    sample.add_argument(
        "--overwrite", action="store_true", help="also points that were labelled, and others' files"
    )
    area = add("area", _area, "Areas with intervals and accuracy, from labelled reference points.")
    add_store(area)
    area.add_argument("points", metavar="POINTS", type=_path, help="GeoJSON of `segengine sample`")
    area.add_argument(
        "--page", metavar="HTML", type=_path, help="the page to write; default: beside the points"
    )
    area.add_argument("--overwrite", action="store_true", help="also a page that no command wrote")
    review = add(
        "review", _review, "A local page: the worst frames first, masks put right by hand."
    )
    review.add_argument(
        "store", metavar="STORE", type=_path, help="a store, or a folder of images without masks"
    )
    review.add_argument(
        "--port", metavar="N", type=int, default=0, help="default: one that is free"
    )
    review.add_argument(
        "--classes", metavar="A,B", type=_names, help="of a folder: names of the labels 0, 1, ..."
    )
    review.add_argument(
        "--labels", metavar="DIR", type=_path, help="of a folder: its label images; FOLDER-labels"
    )
    review.add_argument("--who", metavar="NAME", help="who saves; default: the user's name")
    prune = add("prune", _prune, "Delete frames for good: what is gone by age or runs, or by name.")
    add_store(prune)
    which = prune.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--keep-last",
        metavar="N",
        type=int,
        help="frames that are gone, and that none of the last N runs saw",
    )
    which.add_argument(
        "--older", metavar="AGE", help="frames that are gone, and not seen for so long: 90d"
    )
    which.add_argument(
        "--frames", metavar="FILE", type=_path, help="these, a name a line; they never come back"
    )
    prune.add_argument("--yes", action="store_true", help="delete; without, say what would go")
    for command in (verify, evaluate, calibrate, report, export, show, sample, review):
        add_trust(command, own)
    for command in (plan, status, verify, evaluate, calibrate, diff, zones, sample, area, prune):
        add_json(command)
    train = add("train", _train, "Train a segmenter; goes on by itself.")
    train.add_argument("job", metavar="TRAIN.yaml", type=_path, help="the training job")
    train.add_argument(
        "--set", metavar="A.B=C", action="append", default=[], help="change a key of the job"
    )
    add_log(train)
    add_log(demo)
    add("schema", _schema, "Print the JSON schema of a job, for editors that check YAML by one.")
    completion = add("completion", _completion, "Print what a shell reads to complete commands.")
    completion.add_argument("shell", choices=SHELLS, help="for which shell")
    for group in LISTS:
        add(group, _list, f"List the {group} that are installed.")
    return parser


def _version(args: argparse.Namespace) -> int:
    if not args.version:
        _parser().error("name a command")
    from importlib.metadata import version

    write(version("segengine"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
