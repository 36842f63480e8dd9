"""The code in docs/transformers.md runs as it stands."""

import re

from monkeylib import resources


def test_guide_runs(monkeypatch, capsys):
    monkeypatch.chdir(resources.REPOSITORY)
    page = (resources.REPOSITORY / "docs/transformers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/transformers.md", "exec"), names)

    assert len(blocks) >= 6
    assert names["same"]["input_ids"].shape == names["same"]["attention_mask"].shape
    assert "generated_text" in capsys.readouterr().out
