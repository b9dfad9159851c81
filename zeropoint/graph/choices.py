"""Choices: layers whose outputs choose what is computed next, as the router of a mixture of experts."""

import operator

from torch.fx import Node

from zeropoint.graph.operators import SOFTMAX, SPLITS, TRANSPARENT, aten

# Operators that give the places of the largest or smallest values, and at which of their results.
_CHOICES = {
    aten.argmax.default: None,
    aten.argmin.default: None,
    aten.argsort.default: None,
    aten.topk.default: 1,
    aten.sort.default: 1,
    aten.max.dim: 1,
    aten.min.dim: 1,
}
# What scores come through before the choice. None of these mixes rows, or belongs to another layer.
_PASSES = {
    *TRANSPARENT,
    *SPLITS,
    *SOFTMAX,
    operator.getitem,
    aten.log_softmax.int,
    aten.sigmoid.default,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.masked_fill.Scalar,
    aten.to.dtype,
    aten._to_copy.default,
}


def chooses(layer: Node) -> bool:
    """Whether places of the largest outputs of a layer are read by other operators.

    Rounding may choose another place, and all that is computed there is wrong. Places that are an output of
    the model, as the class of a classifier, steer nothing.
    """
    seen, waiting = {layer}, [layer]
    while waiting:
        for user in waiting.pop().users:
            if user.target in _CHOICES and _is_read(user, _CHOICES[user.target]):
                return True
            if user.target in _PASSES and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _is_read(choice: Node, result: int | None) -> bool:
    """Whether an operator reads the places that a choice gives."""
    if result is None:
        places = [choice]
    else:
        places = [user for user in choice.users if user.target is operator.getitem and user.args[1] == result]
    return any(reader.op != "output" for place in places for reader in place.users)
