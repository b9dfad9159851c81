"""The examples in the docstrings of this room print what they say."""

import doctest

import torch

import zeropoint.tasks
from zeropoint.tasks import own, speech


def test_examples():
    for module in (zeropoint.tasks, own, speech):
        failed, tried = doctest.testmod(module, extraglobs={"torch": torch})
        assert tried
        assert not failed
