"""The examples of trainings on many machines, as far as a machine without these can check them."""

import ast
import re
import shlex
import subprocess

import pytest
import yaml
from conftest import ROOT
from test_readme import check_line

FILES = sorted((ROOT / "examples" / "cluster").iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_is_short_and_reads_as_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    if path.suffix == ".py":
        ast.parse(text)
    elif path.suffix == ".yaml":
        yaml.safe_load(text)
    else:
        subprocess.run(["bash", "-n", path], check=True)


def test_the_examples_commands_can_be_typed():
    """Whatever starts them, it is the same command."""
    (slurm,) = re.findall("^srun .*(tfyolo .*)$", (ROOT / "examples/cluster/slurm.sbatch").read_text(), re.MULTILINE)
    check_line(slurm)
    job = yaml.safe_load((ROOT / "examples/cluster/trainjob.yaml").read_text())
    (container,) = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    check_line(shlex.join([*container["command"], *container["args"]]))
    (vertex,) = re.findall("<<END\n(.*?)END", (ROOT / "examples/cluster/vertex.sh").read_text(), re.DOTALL)
    first, second = yaml.safe_load(vertex)["workerPoolSpecs"]
    assert (first["replicaCount"], second["replicaCount"]) == (1, 3) and first["containerSpec"] == second[
        "containerSpec"
    ]
    check_line(shlex.join(["tfyolo", *first["containerSpec"]["args"]]))
