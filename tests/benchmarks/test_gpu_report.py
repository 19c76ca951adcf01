import re

from benchmarks.gpu_report import FLOORS
from benchmarks.harness import RESULTS

COMMANDS = {
    "stage2": "`python -m benchmarks.gpu_program --cards h100`",
    "stage1": "`python -m benchmarks.gpu_program --set stage=pretrain --cards h100`",
}


def test_floors_are_those_of_the_kept_programs():
    text = (RESULTS / "gpu_program.md").read_text(encoding="utf-8")
    for stage, command in COMMANDS.items():
        table = text.split(command)[1].split("##")[0]
        rows = re.findall(r"\| ([a-z, ]+) \| \d+ \| ([\d.]+) \| ([\d.]+) \|", table)
        counted = {name: (float(tflop), float(gigabytes)) for name, gigabytes, tflop in rows}
        assert FLOORS[stage] == {
            "convolution": counted["convolutions"],
            "product": counted["matrix products"],
            "pointwise, reduction": counted["pointwise, reductions"],
        }
