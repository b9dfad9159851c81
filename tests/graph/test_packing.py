import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import ADDS_INSIDE, images, options, residual, static

from zeropoint.graph.operators import FAKE_QUANTIZE
from zeropoint.graph.packing import from_planes, pack, to_planes, unpack
from zeropoint.graph.quantizers import quantizers


@given(st.integers(1, 8), st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 2**31))
def test_planes_are_inverse(bits, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 2**bits, shape, generator=generator, dtype=torch.uint8)
    planes = to_planes(levels, bits)
    assert planes.dtype == torch.uint8
    assert planes.shape == (bits, -(-levels.numel() // 8))
    assert torch.equal(from_planes(planes, levels.shape), levels)


def test_planes_worked_by_hand():
    levels = torch.tensor([0, 1, 2, 3, 3, 0, 0, 0, 1], dtype=torch.uint8)
    # Bit 0 of 0 1 2 3 3 0 0 0 is set in places 1, 3, 4; bit 1 in places 2, 3, 4. The ninth starts a byte.
    assert to_planes(levels, 2).tolist() == [[0b11010, 1], [0b11100, 0]]


@pytest.mark.parametrize("bits", [8, 7, 4, 2])
@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("planes", [True, False])
def test_same_outputs_packed_and_unpacked(bits, granularity, symmetric, planes):
    chosen = options(
        weight_bits=bits, end_bits=bits, weight_granularity=granularity, weight_symmetric=symmetric
    )
    program = static(residual(), ADDS_INSIDE, [images()], chosen)
    packed = dataclasses.replace(program, module=pack(program.module, planes=planes))
    assert packed.module.state_dict().keys() != program.module.state_dict().keys()
    floats = [name for name, p in packed.module.named_parameters() if p.dim() > 1]
    assert floats == []
    unpacked = dataclasses.replace(program, module=unpack(packed.module))
    expected = program(images())
    assert torch.equal(packed(images()), expected)
    assert torch.equal(unpacked(images()), expected)
    again = dataclasses.replace(program, module=pack(unpacked.module, planes=planes))
    assert torch.equal(again(images()), expected)
    kept = [q for q in quantizers(unpacked.module) if q.is_weight]
    assert {q.scheme.granularity for q in kept} == {granularity}
    if planes:
        assert {q.scheme.bits for q in kept} == {bits}
    before = {node.name for node in program.module.graph.nodes if node.target in FAKE_QUANTIZE}
    assert len(before) == sum(node.target in FAKE_QUANTIZE for node in unpacked.module.graph.nodes)


def test_the_given_program_is_left_alone():
    program = static(residual(), ADDS_INSIDE, [images()], options())
    code, state = program.module.code, {k: v.clone() for k, v in program.module.state_dict().items()}
    unpack(pack(program.module))
    assert program.module.code == code
    assert all(torch.equal(value, state[name]) for name, value in program.module.state_dict().items())
