"""Rewrites of an OpenVINO model: smaller files, kernels that are faster or right; each computes the same."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from torch.fx import Node

from zeropoint.engines.openvino.fusions import OF_FUSIONS
from zeropoint.engines.openvino.ranges import OF_RANGES
from zeropoint.engines.openvino.reductions import OF_REDUCTIONS
from zeropoint.engines.openvino.weights import OF_WEIGHTS
from zeropoint.engines.rewrites import Rewrite, Tried, chosen
from zeropoint.graph.operators import aten

REWRITES = (*OF_WEIGHTS, *OF_REDUCTIONS, *OF_FUSIONS, *OF_RANGES)


def rewrite(model: Any, processor: str) -> list[Tried]:
    """Applies the rewrites for a kind of processor with OpenVINO's matchers, in place; what was tried."""
    from openvino.passes import Manager, Matcher, MatcherPass

    class Pass(MatcherPass):  # type: ignore[misc, unused-ignore]
        def __init__(self, one: Rewrite) -> None:
            super().__init__()

            def rewrite_root(matcher: Any) -> bool:
                node = matcher.get_match_root()
                reason = one.check(node)
                tried.append(Tried(one.name, node.get_friendly_name(), reason))
                if reason is None:
                    one.put(node)
                return reason is None

            self.register_matcher(Matcher(one.pattern(), one.name), rewrite_root)

    tried: list[Tried] = []
    passes, manager = [Pass(one) for one in chosen(REWRITES, processor)], Manager()
    for each in passes:
        manager.register_pass(each)
    manager.run_passes(model)
    return tried


def without_indentation(path: Path) -> None:
    """Writes an ``.xml`` again on one line, a sixth smaller."""
    tree = ElementTree.parse(path)
    for element in tree.iter():
        element.text, element.tail = (element.text or "").strip(), None
    tree.write(path, xml_declaration=True, encoding="utf-8")


def is_product(node: Node) -> bool:
    """Whether a matrix product is lowered to OpenVINO's own, which takes all dimensions."""
    return node.target is aten.matmul.default and all(s.meta["val"].dim() > 1 for s in node.all_input_nodes)
