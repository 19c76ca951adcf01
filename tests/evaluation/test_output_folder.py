"""Results of an earlier preparation of a dataset do not stay next to new ones."""

from pathlib import Path

from sslssaw_jax.evaluation.output_folder import remove_other_results
from sslssaw_jax.workdir import EVALUATED, write_json

RESULTS = ("metrics.json", "report.html", "predictions.dev.jsonl", "glosses.test.jsonl", "heatmaps/clip0.png")


def test_results_on_clips_that_were_prepared_anew_are_removed_and_others_kept(tmp_path: Path) -> None:
    for name in (*RESULTS, "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of the first clips")
    first, anew = ({"config": {}, "dataset": {"fingerprint": name}} for name in ("first", "anew"))
    write_json(tmp_path / EVALUATED, first)
    remove_other_results(tmp_path, first)
    assert all((tmp_path / name).exists() for name in RESULTS)
    remove_other_results(tmp_path, anew)
    assert not any((tmp_path / name).exists() for name in RESULTS)
    assert (tmp_path / "notes.txt").exists()
