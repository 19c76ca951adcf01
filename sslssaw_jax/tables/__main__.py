"""The command that makes a table of the paper."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from sslssaw_jax.errors import ends_in_one_line, set_up_output
from sslssaw_jax.tables import BASES, PAPER, WITH_TOY
from sslssaw_jax.workdir import user_path


@ends_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    titles = "; ".join(f"{number}: {table['title']} ({table['dataset']})" for number, table in PAPER.items())
    parser = argparse.ArgumentParser(
        prog="python -m sslssaw_jax.tables",
        usage="%(prog)s --table N --dataset NAME --workdir DIR [--toy] [--seeds N] [--rows ROW,ROW] "
        "[--jobs N] [-- SETTINGS]",
        description="Train the missing runs of a table of the paper and write the table as Markdown, CSV and "
        "PNG. Finished runs stay, unfinished ones continue, and failed ones are tried again.",
        epilog="SETTINGS are flags --config.KEY=VALUE for all rows. Example: python -m sslssaw_jax.tables "
        "--table=4 --dataset=avatar_qa --workdir=runs/tables --seeds=3 -- --config.translate.epochs=2",
    )
    parser.add_argument(
        "--table", type=int, required=True, choices=sorted(map(int, PAPER)), help=f"the table; {titles}"
    )
    parser.add_argument(
        "--dataset", required=True, choices=BASES, help="the prepared dataset, or a rehearsal's features"
    )
    parser.add_argument(
        "--workdir", type=user_path, required=True, help="folder of all tables, such as runs/tables"
    )
    parser.add_argument(
        "--toy", action="store_true", help="small models from scratch, for a CPU or a few clips"
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each row; default 1")
    parser.add_argument("--rows", default="", help="train only these rows, such as qb,ssl_ssaw; default all")
    parser.add_argument("--jobs", type=int, default=1, help="runs trained at the same time; default 1")
    parser.add_argument("run_flags", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("seeds", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}={getattr(options, name)}: at least one is needed")
    if options.toy and options.dataset not in WITH_TOY:
        parser.error(f"--toy: the models for {options.dataset} are already small")
    names = [row["experiment"] for row in PAPER[str(options.table)]["rows"]]
    only = options.rows.split(",") if options.rows else []
    if unknown := [name for name in only if name not in names]:
        parser.error(f"--rows: table {options.table} has no {', '.join(unknown)}; it has {', '.join(names)}")
    _make(options, only)


def _make(options: argparse.Namespace, only: Sequence[str]) -> None:
    # imported here, since JAX takes seconds and --help should not wait
    import jax

    from sslssaw_jax.tables.layout import to_markdown
    from sslssaw_jax.tables.rows import make_table
    from sslssaw_jax.training.signals import Stopped

    jax.config.update("jax_platforms", "cpu")  # the accelerator's memory is for the rows
    if options.jobs > 1:  # the first would take three quarters of a GPU's memory, whether needed or not
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        rows = make_table(
            options.table,
            options.dataset,
            options.workdir,
            seeds=options.seeds,
            only=only,
            run_flags=options.run_flags,
            toy=options.toy,
            at_once=options.jobs,
        )
    except (Stopped, KeyboardInterrupt) as error:  # the first during a row, the second between rows
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        print(stopped)
        sys.exit(stopped.status)
    print(to_markdown(options.table, options.dataset, rows, options.seeds, toy=options.toy))
    if failed := [row.experiment for row in rows if row.failed]:
        sys.exit(f"error: {', '.join(failed)} failed, see above; start the same command to try again")


if __name__ == "__main__":
    set_up_output()
    main()
