"""Writes a run's report again: `python -m sslssaw_jax.report --workdir=runs/demo`."""

from sslssaw_jax.report.run_report import main

main()
