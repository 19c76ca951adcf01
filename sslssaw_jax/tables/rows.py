"""The rows of a table as runs: where each is trained, and what it has reached.

Each row is an experiment of `configs/ablations.py`, trained by `run.py` in its own process. Its folder is
`WORKDIR/seed<n>/<config name>`, next to the folder of its stage 1. Tables share rows and their stages 1.
"""

import io
import shlex
import signal
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from configs import ablations
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config, DecodeConfig, differences, run_differences, to_dict
from sslssaw_jax.config.flags import explain_flags
from sslssaw_jax.data.text import counts_characters
from sslssaw_jax.errors import UserError
from sslssaw_jax.evaluation.metrics import FINAL_PERIOD, LABELS, score
from sslssaw_jax.evaluation.predictions import read_predictions
from sslssaw_jax.evaluation.significance import compare, confidence_interval
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.systems import read_config
from sslssaw_jax.tables import BASES, PAPER, TOY
from sslssaw_jax.tables.child_process import RunChild, child_processes
from sslssaw_jax.tables.layout import TESTED, WITH_PERIOD, Row, Run, draw, to_csv, to_markdown
from sslssaw_jax.training.stage_folders import plan_stages
from sslssaw_jax.workdir import (
    FINISHED,
    LOG,
    METRICS,
    UNKNOWN_CODE,
    inside,
    locked,
    predictions_file,
    read_json,
    read_log,
    write_bytes,
    write_text,
)

ROOT = Path(__file__).parents[2]
RUN_PY = (sys.executable, str(ROOT / "run.py"))


class TableError(UserError):
    """An error that names runs that do not belong in one table."""


@dataclass(frozen=True)
class _Job:
    """A row with one seed."""

    flags: list[str]  # of run.py
    config: Config  # as run.py reads it
    workdir: Path

    @property
    def stages(self) -> list[tuple[Stage, Path]]:
        """Return the stages with their folders."""
        return plan_stages(self.config, self.workdir)

    @property
    def shared(self) -> tuple[str, Path] | None:
        """Return name and folder of the stage that rows share, if any.

        Without `init_from`, a stage that could be shared is the row's own.
        """
        early = self.stages[:-1] if self.config.init_from else []
        return next(((stage.name, folder) for stage, folder in early if stage.shared), None)

    @property
    def metrics(self) -> Path:
        """Return the file of the row's scores."""
        return self.workdir / METRICS

    @property
    def done(self) -> bool:
        """Return whether the row is trained and evaluated."""
        return (self.workdir / FINISHED).exists() and self.metrics.exists()


def make_table(
    number: int,
    dataset: str,
    workdir: Path,
    *,
    seeds: int = 1,
    only: Collection[str] = (),
    run_flags: Sequence[str] = (),
    toy: bool = False,
    at_once: int = 1,
) -> list[Row]:
    """Train the missing runs of a table and write `table<number>.<dataset>.{md,csv,png}`.

    Args:
        number: The number of the paper's table.
        dataset: A key of `BASES`.
        workdir: The folder of the table, with a folder for each seed.
        seeds: Each row is trained with the seeds 0 to `seeds` - 1.
        only: The rows to train; () for all. Other rows are shown if they are done.
        run_flags: More flags of `run.py` for all rows, `--config.KEY=VALUE`.
        toy: Whether to train small models.
        at_once: The most runs that are trained at the same time.

    Raises:
        ConfigError: A flag is wrong.
        TableError: A finished run has other settings, clips or features.
        WorkdirError: Another process makes a table there.
        Stopped: A signal came.
    """
    rows = PAPER[str(number)]["rows"]
    names = [row["experiment"] for row in rows]
    base = BASES[dataset] + TOY * toy
    by_seed = [
        [_job(f"{base}/{name}", workdir / f"seed{seed}", seed, run_flags) for name in names]
        for seed in range(seeds)
    ]
    with locked(workdir):
        for jobs in by_seed:
            for job in jobs:
                _require_same_settings(job)
        every = [job for jobs in by_seed for job in jobs]
        _require_one_dataset([job for job in every if job.done])
        failed = _train(
            [
                job
                for jobs in by_seed
                for name, job in zip(names, jobs)
                if not job.done and (not only or name in only)
            ],
            at_once,
        )
        _require_one_dataset([job for job in every if job.done])
        runs = zip(*map(_results, by_seed))
        table = []
        for row, jobs_of_row, runs_of_row in zip(rows, zip(*by_seed), runs):
            done = [run for run in runs_of_row if run]
            reasons = [failed[job.workdir] for job in jobs_of_row if job.workdir in failed]
            last = reasons[-1] if reasons else ""
            table.append(Row(row["labels"], row["experiment"], row["paper"], done, len(reasons), last))
        stem = f"table{number}.{dataset}{TOY * toy}"
        write_text(workdir / f"{stem}.md", to_markdown(number, dataset, table, seeds, toy=toy))
        write_text(workdir / f"{stem}.csv", to_csv(number, table))
        picture = io.BytesIO()
        draw(number, dataset, table, toy=toy).savefig(picture, dpi=150)
        write_bytes(workdir / f"{stem}.png", picture.getvalue())
    return table


def _job(row: str, folder: Path, seed: int, run_flags: Sequence[str]) -> _Job:
    for flag in run_flags:
        if flag.startswith("-") and not flag.startswith(("--config.", "-config.")):
            name = flag.partition("=")[0]
            raise ConfigError(f"{name} is no setting: only --config.KEY=VALUE may follow --")
    given = [*run_flags, f"--config.seed={seed}"]
    values, argv, tree = flags.FlagValues(), ["run.py", *given], ablations.get_config(row)
    dataset = tree.data.dataset
    try:
        config_flags.DEFINE_config_dict("config", tree, flag_values=values, sys_argv=argv)
        _, *unknown = values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(explain_flags(error, given, tree)) from None
    if unknown:
        raise ConfigError(
            f"unknown argument {unknown[0]!r}: after -- only flags --config.KEY=VALUE may follow"
        )
    config = read_config(values.config)
    if config.data.dataset != dataset:
        raise ConfigError(
            f"config.data.dataset is {config.data.dataset}, but this table is of {dataset}: choose a table's "
            "dataset with --dataset, and train rows on another one by run.py"
        )
    return _Job(
        [f"--config={ROOT}/configs/ablations.py:{row}", *given], config, folder / row.replace("/", "_")
    )


def _require_same_settings(job: _Job) -> None:
    """Raise TableError if a row was finished with other settings."""
    stages = job.stages
    for place, (stage, folder) in enumerate(stages):
        if not (stage.shared or folder == job.workdir) or not (folder / FINISHED).exists():
            continue
        saved = read_json(folder / FINISHED)
        meta = {**saved, "config": to_dict(job.config)}
        before = [stage.name for stage, _ in stages[: place + 1]]
        changed = {*run_differences(job.config, saved, meta, "warm_start", *before)}
        if folder == job.workdir:
            changed.update(differences(_scored(saved["config"]), _scored(meta["config"])))
        if changed:
            raise TableError(
                f"{folder} is finished with other settings than this table's; give the same flags as before, "
                "or choose another --workdir:\n  " + "\n  ".join(sorted(changed))
            )


def _require_one_dataset(jobs: Sequence[_Job]) -> None:
    """Raise TableError if rows were trained on different clips or features."""
    found: dict[str, dict[str, Path]] = {}  # by what was read, a run for each fingerprint
    for job in jobs:
        notes = read_json(job.workdir / FINISHED)
        read = {
            f"versions of the feature set {name}, since it was written": facts
            for name, facts in notes["features"].items()
        }
        read["clips, since the dataset was prepared"] = notes["dataset"]
        for what, facts in read.items():
            found.setdefault(what, {}).setdefault(facts["fingerprint"], job.workdir)
    for what, folders in found.items():
        if len(folders) > 1:
            names = " and ".join(map(str, folders.values()))
            raise TableError(
                f"{names} were trained on different {what} again between them: choose another --workdir"
            )


def _scored(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the scores of a trained model."""
    return {
        "decode": to_dict(DecodeConfig()) | config["decode"],
        "data": {"test_split": config["data"]["test_split"]},
    }


class _Call(NamedTuple):
    """A process of `run.py`."""

    what: str
    flags: list[str]
    workdir: Path
    result: Path  # what a process leaves unless it fails
    needs: Path | None  # the folder of an earlier call


def _train(jobs: Sequence[_Job], at_once: int) -> dict[Path, str]:
    """Train and evaluate rows; return the last messages of failed runs."""
    calls: dict[Path, _Call] = {}
    for job in jobs:
        name, folder = job.shared or ("", None)
        if folder and not (folder / FINISHED).exists():
            what = "stage 1" if name == "pretrain" else name
            flags, mark = [*job.flags, f"--config.stage={name}"], folder / FINISHED
            calls.setdefault(folder, _Call(what, flags, folder, mark, None))
        calls[job.workdir] = _Call("training and evaluation", job.flags, job.workdir, job.metrics, folder)
    failed: dict[Path, str] = {}
    left = dict(enumerate(calls.values(), start=1))
    running: dict[Future[str], _Call] = {}
    with child_processes() as run, ThreadPoolExecutor(at_once) as pool:
        while left or running:
            for place, call in [*left.items()]:
                if len(running) == at_once:
                    break
                if call.needs in [other.workdir for other in (*left.values(), *running.values())]:
                    continue
                del left[place]
                print(f"job {place} of {len(calls)}: {call.what} in {call.workdir}", flush=True)
                if call.needs in failed:
                    failed[call.workdir] = f"not started, since {call.needs} has failed"
                    print(f"{call.workdir}: {failed[call.workdir]}", file=sys.stderr)
                else:
                    running[pool.submit(_last_words, call, run)] = call
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                call = running.pop(future)
                if words := future.result():
                    failed[call.workdir] = words
    return failed


def _last_words(call: _Call, run: RunChild) -> str:
    """Run a call; if it fails, print and return its last message."""
    command = [*RUN_PY, *call.flags, f"--workdir={call.workdir.absolute()}"]
    log = inside(call.workdir, call.workdir / "run.log")
    call.workdir.mkdir(parents=True, exist_ok=True)
    log.touch()
    print(f"  {shlex.join(command)}\n  to follow it: tail -f {shlex.quote(str(log))}", flush=True)
    status = run(command, log)
    if not status and call.result.exists():
        return ""
    last_lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    print(f"{call.workdir}: failed; the end of its {log.name}:", *last_lines, sep="\n  ", file=sys.stderr)
    if status < 0:
        return f"killed: {signal.strsignal(-status) or -status}"
    return last_lines[-1] if last_lines else f"status {status}"


def _results(jobs: Sequence[_Job]) -> list[Run | None]:
    """Return the results of one seed's rows that are done."""
    split = jobs[0].config.data.test_split
    *_, last = texts = [_predictions(job, split) if job.done else None for job in jobs]
    runs: list[Run | None] = []
    for job, text in zip(jobs, texts):
        if text is None:
            runs.append(None)
            continue
        predictions, targets = text
        characters = counts_characters(targets)
        every = read_json(job.metrics)[split]
        p_values, gains = {}, {}
        if last and job is not jobs[-1]:
            if targets != last[1]:
                raise TableError(f"{job.workdir} and {jobs[-1].workdir} hold predictions of different clips")
            p_values = compare(predictions, last[0], targets, characters=characters)
            full = read_json(jobs[-1].metrics)[split]
            gains = {metric: every[metric] - full[metric] for metric in TESTED}
        scores = {column: every[column] for column in LABELS}
        if job.config.data.dataset in FINAL_PERIOD:
            scores[WITH_PERIOD] = score(predictions, targets, period=True)["bleu4"]
        intervals = confidence_interval(predictions, targets, characters=characters)
        parameters = read_json(job.workdir / FINISHED)["parameters"]
        runs.append(Run(scores, intervals, p_values, gains, parameters, _seconds(job), _code(job)))
    return runs


def _code(job: _Job) -> frozenset[str]:
    """Return the code that trained a row's stages."""
    marks = {folder / FINISHED for _, folder in job.stages}
    notes = [read_json(mark) for mark in marks if mark.exists()]
    return frozenset(one for each in notes for one in each.get("code", [UNKNOWN_CODE]))


def _seconds(job: _Job) -> float | None:
    """Return the time of all training steps of a row, if logged."""
    total, folders = 0.0, {folder: stage.name for stage, folder in job.stages}
    for folder, name in folders.items():
        before = 0
        for row in read_log(folder / LOG):
            if row["stage"] == name and "step_time" in row:
                total += (row["step"] - before) * row["step_time"]
                before = row["step"]
    return total or None


def _predictions(job: _Job, split: str) -> tuple[list[str], list[str]]:
    """Return the predictions and the targets of a split."""
    rows = read_predictions(job.workdir / predictions_file(split))
    return [row.prediction for row in rows], [row.target for row in rows]
