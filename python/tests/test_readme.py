"""The Python of README.md runs."""

from pathlib import Path


def test_the_example_of_the_readme():
    text = (Path(__file__).parent.parent / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    assert "BatchNormReLU" in repr(names["model"])
    import torch

    names["model"].eval()
    hidden = names["model"][:3](torch.rand(2, 3, 9, 9))
    torch.testing.assert_close(names["conv"](hidden), names["model"][3:](hidden))
