"""The README's lines of Python do what they say."""

import re

from conftest import ROOT

from tfyolo.data import demo

TINY = f"""
base: {ROOT}/configs/demo.yaml
model:
  input_size: 64
  backbone: {{width: 0.125}}
  neck: {{width: 0.125}}
  head: {{channels: {{p4: 32, p5: 32}}}}
train:
  batch: 4
  stages: [{{epochs: 1, lr: 0.001}}]
"""


def test_five_lines_train_and_detect(tmp_path, monkeypatch, capsys):
    block, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) == 5
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text(TINY)
    demo.write(tmp_path / "demo" / "data", train=8, val=4, test=2, progress=False)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["run"].folder.joinpath("best.h5").exists()
    found = names["found"]
    assert len(found.names) == len(found.scores) == len(found.boxes_xyxy) and 0 < found.best < 1
    assert str(found.boxes_xyxy) in capsys.readouterr().out
