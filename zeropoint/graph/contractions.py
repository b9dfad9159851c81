"""Contractions: einsum, tensordot, inner and bilinear as matrix products, which rules and engines know.

Where one operand is a constant, the product becomes a linear layer (``graph.constants``).
"""

import string
from dataclasses import dataclass
from typing import Any

from torch.fx import Graph, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.attention import inserted
from zeropoint.graph.constants import is_constant
from zeropoint.graph.operators import aten


@dataclass(frozen=True)
class _Contraction:
    """``output`` of ``left`` and ``right``: a letter for each of their axes, those of both summed or kept."""

    left: Node
    left_axes: str
    right: Node
    right_axes: str
    output: str


def contract_by_products(graph: Graph) -> None:
    """Writes contractions of two tensors as matrix products, where no more than permutations is needed.

    Of a constant several axes may be summed or left, since it can have any shape.
    """
    for node in graph.find_nodes(op="call_function", target=aten.bilinear.default):
        if fx.is_float(node):
            _contract_in_turn(node)
    for node in list(graph.nodes):
        found = _READ[node.target](node) if node.target in _READ and fx.is_float(node) else None
        made = _as_product(node, found) if found and _is_plain(found) else None
        if made is not None:
            node.replace_all_uses_with(made)
            graph.erase_node(node)


def _contract_in_turn(node: Node) -> None:
    """Writes a bilinear form as a contraction with its first input, and a sum of products with its second."""
    arguments: Any = node.args
    left, right, weight, *bias = arguments
    with node.graph.inserting_before(node):
        of_left = inserted(node, aten.einsum.default, "...i,oij->...oj", (left, weight))
        products = inserted(node, aten.mul.Tensor, of_left, inserted(node, aten.unsqueeze.default, right, -2))
        result = inserted(node, aten.sum.dim_IntList, products, [-1])
        if bias and bias[0] is not None:
            result = inserted(node, aten.add.Tensor, result, bias[0])
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)


def _of_einsum(node: Node) -> _Contraction | None:
    arguments: Any = node.args
    operands = arguments[1]
    terms, arrow, output = arguments[0].replace(" ", "").partition("->")
    axes = terms.split(",")
    if len(operands) != 2 or len(axes) != 2:
        return None
    if not arrow:  # the letters that are there once, in alphabetical order
        once = sorted(letter for letter in set(terms) if letter.isalpha() and terms.count(letter) == 1)
        output = "..." * ("..." in terms) + "".join(once)
    free = [letter for letter in string.ascii_letters if letter not in terms]
    counts = [
        operand.meta["val"].dim() - len(one) + 3
        for operand, one in zip(operands, axes, strict=True)
        if "..." in one
    ]
    if len(set(counts)) > 1:
        return None
    more = "".join(free[: counts[0]]) if counts else ""
    left, right, output = (one.replace("...", more) for one in (*axes, output))
    return _Contraction(operands[0], left, operands[1], right, output)


def _of_tensordot(node: Node) -> _Contraction:
    arguments: Any = node.args
    left, right, of_left, of_right = arguments
    ranks = [one.meta["val"].dim() for one in (left, right)]
    letters = string.ascii_letters[: sum(ranks)]
    left_axes, right_axes = list(letters[: ranks[0]]), list(letters[ranks[0] :])
    for one, other in zip(of_left, of_right, strict=True):
        right_axes[other] = left_axes[one]
    output = [letter for letter in left_axes + right_axes if (letter in left_axes) != (letter in right_axes)]
    return _Contraction(left, "".join(left_axes), right, "".join(right_axes), "".join(output))


def _of_inner(node: Node) -> _Contraction | None:
    arguments: Any = node.args
    ranks = [one.meta["val"].dim() for one in arguments]
    if not all(ranks):
        return None
    left, right = string.ascii_lowercase[: ranks[0]], string.ascii_uppercase[: ranks[1] - 1] + "z"
    return _Contraction(arguments[0], f"{left[:-1]}z", arguments[1], right, left[:-1] + right[:-1])


_READ: dict[Any, Any] = {
    aten.einsum.default: _of_einsum,
    aten.tensordot.default: _of_tensordot,
    aten.inner.default: _of_inner,
}


def _is_plain(of: _Contraction) -> bool:
    """Whether no axis is there twice in a tensor, repeated to a size, or summed in one operand alone."""
    axes = (of.left_axes, of.right_axes, of.output)
    sizes = [
        dict(zip(letters, map(str, operand.meta["val"].shape), strict=False))
        for operand, letters in ((of.left, of.left_axes), (of.right, of.right_axes))
    ]
    shared = sizes[0].keys() & sizes[1].keys()
    return (
        all(len(set(letters)) == len(letters) for letters in axes)
        and all(len(of_one) == len(letters) for of_one, letters in zip(sizes, axes, strict=False))
        and all(sizes[0][letter] == sizes[1][letter] for letter in shared)
        and set(of.left_axes) ^ set(of.right_axes) <= set(of.output) <= {*of.left_axes, *of.right_axes}
    )


def _as_product(node: Node, of: _Contraction) -> Node | None:
    if is_constant(of.left):
        of = _Contraction(of.right, of.right_axes, of.left, of.left_axes, of.output)
    both = [letter for letter in of.left_axes if letter in of.right_axes]
    batch, summed = ("".join(one for one in both if (one in of.output) == kept) for kept in (True, False))
    left = "".join(letter for letter in of.left_axes if letter not in both)
    right = "".join(letter for letter in of.right_axes if letter not in both)
    is_matrix = is_constant(of.right) and not batch and bool(summed and right)
    if not is_matrix and [len(left), len(summed), len(right)] != [1, 1, 1]:
        return None
    with node.graph.inserting_before(node):
        one = _permuted(node, of.left, of.left_axes, batch + left + summed)
        other = _permuted(node, of.right, of.right_axes, batch + summed + right)
        sizes = [int(size) for size in other.meta["val"].shape[len(summed) :]] if is_matrix else []
        if len(summed) > 1:
            one = inserted(node, aten.flatten.using_ints, one, -len(summed), -1)
            other = inserted(node, aten.flatten.using_ints, other, 0, len(summed) - 1)
        if len(right) > 1:
            other = inserted(node, aten.flatten.using_ints, other, 1, -1)
        product = inserted(node, aten.matmul.default, one, other)
        if len(right) > 1:
            product = inserted(node, aten.unflatten.int, product, -1, sizes)
        return _permuted(node, product, batch + left + right, of.output)


def _permuted(node: Node, value: Node, axes: str, wanted: str) -> Node:
    order = [axes.index(letter) for letter in wanted]
    return value if axes == wanted else inserted(node, aten.permute.default, value, order)
