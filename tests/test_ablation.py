"""The ablation's table, by hand, and its plans: every variant is a network that trains, of as many FLOPs as it says."""

import click
import pytest
from conftest import ROOT
from test_benchmark import loaded

from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.graph.summary import summarize

ablation = loaded("ablation")
PLANS = sorted((ROOT / "configs" / "ablations").glob("*.yaml"))


def test_the_table_by_hand():
    rows = [
        ablation.Row("first", 1234567, 1.5, [0.50, 0.52, 0.54], [0.7, 0.7, 0.7]),
        ablation.Row("second", 10, 0.25, [0.53, 0.52, 0.60], [0.8, 0.8, 0.9]),
    ]
    assert ablation.table(rows).splitlines()[2:] == [
        "| first | 1,234,567 | 1.50 | 0.520 +- 0.020 | 0.700 +- 0.000 |  |",
        # Pairs of one seed each differ by .03, .00, .06: mean .03, deviation .03, error .03 / sqrt(3).
        "| second | 10 | 0.25 | 0.550 +- 0.044 | 0.833 +- 0.058 | +0.030 +- 0.017 |",
    ]
    alone = [ablation.Row("first", 1, 1.0, [0.5], [0.7]), ablation.Row("second", 1, 1.0, [0.4], [0.7])]
    assert ablation.table(alone).splitlines()[3] == "| second | 1 | 1.00 | 0.400 | 0.700 | -0.100 |"


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) if path.stem == "yolov7" else path for path in PLANS],
    ids=lambda path: path.stem,
)
@pytest.mark.slow
def test_every_variant_is_a_network_and_backbones_have_as_many_flops(path):
    plan = ablation.read_plan(path)
    first = None
    for name in plan.variants:
        config = configs.load(path.parent / plan.config, plan.overrides(name))
        stages = summarize(models.build(config, ("a", "b")))["stages"]
        flops = sum(row["flops"] for row in stages if row["stage"].startswith("backbone"))
        first = first or flops
        assert flops == pytest.approx(first, rel=0.03), name


@pytest.mark.parametrize(
    "text", ["variants: {a: []}", "config: x\nvariants: [a]", "config: x\nvariants: {}\nmore: 1", "[", ""]
)
def test_a_plan_that_is_none_is_an_error(text, tmp_path):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(click.UsageError, match=r"plan\.yaml: expected `config` and `variants`"):
        ablation.read_plan(tmp_path / "plan.yaml")
