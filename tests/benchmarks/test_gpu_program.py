"""The count of an optimised program, on a handwritten one."""

import pytest

from benchmarks.gpu_program import CARDS, Program, count

PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_relu (p.1: bf16[8,10,10,64]) -> bf16[8,10,10,64] {
  %p.1 = bf16[8,10,10,64]{3,2,1,0} parameter(0)
  ROOT %maximum.1 = bf16[8,10,10,64]{3,2,1,0} maximum(%p.1, %p.1)
}

%body (arg: (s32[], f32[100])) -> (s32[], f32[100]) {
  %arg = (s32[], f32[100]{0}) parameter(0)
  %x = f32[100]{0} get-tuple-element(%arg), index=1
  %copy.1 = f32[100]{0} copy(%x)
  ROOT %out = (s32[], f32[100]{0}) tuple(%arg, %copy.1)
}

ENTRY %main (a: bf16[8,10,10,32], k: bf16[3,3,32,64], b: f32[50,7]) -> f32[50,20] {
  %a = bf16[8,10,10,32]{3,2,1,0} parameter(0)
  %k = bf16[3,3,32,64]{2,1,0,3} parameter(1)
  %conv.1 = (bf16[8,10,10,64]{3,2,1,0}, s8[4096]{0}) custom-call(%a, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convForward"
  %y = bf16[8,10,10,64]{3,2,1,0} get-tuple-element(%conv.1), index=0
  %relu = bf16[8,10,10,64]{3,2,1,0} fusion(%y), kind=kLoop, calls=%fused_relu
  %conv.2 = (bf16[3,3,32,64]{2,1,0,3}, s8[4096]{0}) custom-call(%a, %relu), dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %b = f32[50,7]{1,0} parameter(2)
  %c = f32[7,20]{1,0} constant({...})
  %gemm = (f32[50,20]{1,0}, s8[64]{0}) custom-call(%b, %c), custom_call_target="__cublas$gemm", backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}
  %init = (s32[], f32[100]{0}) tuple(%b, %b)
  %loop = (s32[], f32[100]{0}) while(%init), condition=%never, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %result = f32[50,20]{1,0} get-tuple-element(%gemm), index=0
}
"""  # noqa: E501
MAP, FRAMES, KERNEL = 8 * 10 * 10 * 64, 8 * 10 * 10 * 32, 3 * 3 * 32 * 64


def test_bytes_flop_and_kernels_are_counted_by_group_without_workspaces_and_loops_as_often_as_they_run():
    groups = count(PROGRAM, CARDS["h100"], Program()).groups
    assert {name: group.kernels for name, group in groups.items()} == {
        "convolutions": 2,
        "pointwise, reductions": 1,
        "matrix products": 1,
        "copies": 5,
    }
    gigabytes = {name: group.gigabytes for name, group in groups.items()}
    assert gigabytes == {
        "convolutions": pytest.approx(2 * 2e-9 * (MAP + FRAMES + KERNEL)),
        "pointwise, reductions": pytest.approx(2 * 2e-9 * MAP),
        "matrix products": pytest.approx(4e-9 * (50 * 7 + 7 * 20 + 50 * 20)),
        "copies": pytest.approx(5 * 2 * 4e-9 * 100),
    }
    # 3 x 3 x 32 products for each value of the map, and as many for the kernel's gradient
    assert groups["convolutions"].tflop == pytest.approx(2 * 2e-12 * MAP * 3 * 3 * 32)
    assert groups["matrix products"].tflop == pytest.approx(2e-12 * 50 * 7 * 20)


def test_a_kernel_takes_at_least_what_its_bytes_or_its_flop_take():
    groups = count(PROGRAM, CARDS["t4"], Program()).groups
    relu, gemm = groups["pointwise, reductions"], groups["matrix products"]
    assert relu.milliseconds == pytest.approx(relu.gigabytes / 0.32)
    assert gemm.milliseconds == pytest.approx(max(1e3 * gemm.tflop / 8.1, gemm.gigabytes / 0.32))
