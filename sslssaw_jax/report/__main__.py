"""The command that writes a run's report again: `python -m sslssaw_jax.report --workdir=runs/demo`."""

import argparse
from collections.abc import Sequence

from sslssaw_jax.errors import ends_in_one_line, set_up_output
from sslssaw_jax.workdir import user_path


@ends_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m sslssaw_jax.report",
        description="Write WORKDIR/report.html, a page with everything that the run has left in WORKDIR.",
        epilog="Example: python -m sslssaw_jax.report --workdir=runs/demo",
    )
    parser.add_argument(
        "--workdir", type=user_path, required=True, help="folder of the run, such as runs/demo"
    )
    options = parser.parse_args(arguments)
    # imported here, since JAX takes seconds and --help should not wait
    from sslssaw_jax.report.run_report import write_report

    print(write_report(options.workdir))


if __name__ == "__main__":
    set_up_output()
    main()
