"""The Python of README.md and of docs/migrating.md runs."""

from pathlib import Path

import torch

PACKAGE = Path(__file__).parent.parent


def run(page):
    blocks = [block.split("```")[0] for block in page.read_text().split("```python\n")[1:]]
    assert len(blocks) >= 2, page
    names = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    return names


def test_the_code_of_the_readme():
    names = run(PACKAGE / "README.md")
    said = "fused 1 + 0 of 2; left: 1 with nothing behind them that is fused (4)"
    assert str(names["bn"].report(names["model"])) == said and said in (PACKAGE / "README.md").read_text()
    assert str(names["backend"]) == "fused 1 + 0 of 1; left: 0"
    hidden = names["model"][:3](torch.rand(2, 3, 9, 9))
    torch.testing.assert_close(names["conv"](hidden), names["model"][3:](hidden))
    assert names["y"].shape == (2, 8, 6, 6) and (names["y"] >= 0).all()


def test_the_code_of_the_migration_notes():
    names = run(PACKAGE.parent / "docs" / "migrating.md")
    assert abs(names["norm"].momentum - 0.01) < 1e-12 and names["norm"].eps == 1e-3
    assert str(names["bn"].report(names["model"])) == "fused 1 + 0 of 1; left: none"
