"""Writes docs/rules.md from the rules themselves: python docs/rules.py"""

from pathlib import Path

from zeropoint.report.rules import markdown

HEAD = """# The rules of placement

Which values and weights carry a quantizer is decided by the rules below and by nothing else. An engine's
`Target` says which operators it runs in int8; a rule holds for every engine that runs its operators. Every
rule applies at a node, or says why not. `zeropoint inspect MODEL.pt2 --rules` shows that for a model. With
fewer than 8 bits for activations, `static` then gives 8 bits to the inputs that add the most noise: the
[noise budget](methods.md#static), which `inspect --rules` shows, too. This page is written by
`python docs/rules.py`.

"""


def page() -> str:
    """The whole page."""
    return HEAD + markdown()


if __name__ == "__main__":
    Path(__file__).with_name("rules.md").write_text(page(), encoding="utf-8")
