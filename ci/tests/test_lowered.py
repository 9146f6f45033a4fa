"""Counters of Inductor's wrappers, on a wrapper of two kernels and a product."""

import pytest
from ci.regressions.replay import run

WRAPPER = """
import torch

def triton_poi_fused_mul_0(in_ptr0, out_ptr0, xnumel):
    pass
def triton_poi_fused_add_1(in_out_ptr0, in_ptr0, xnumel):
    pass

class Runner:
    def call(self, args):
        arg0_1, arg1_1 = args
        args.clear()
        arg1_1_size = arg1_1.size()
        s0 = arg1_1_size[0]
        assert_size_stride(arg0_1, (4, 8), (8, 1), 'input')
        with torch.cuda._DeviceGuard(0):
            torch.cuda.set_device(0)
            stream0 = get_raw_stream(0)
            buf0 = empty_strided_cuda((s0, 4), (4, 1), torch.float32)
            triton_poi_fused_mul_0_xnumel = 4*s0
            triton_poi_fused_mul_0.run(arg1_1, buf0, triton_poi_fused_mul_0_xnumel, stream=stream0)
            del arg1_1
            buf1 = empty_strided_cuda((s0, 8), (8, 1), torch.float32)
            extern_kernels.mm(reinterpret_tensor(buf0, (s0, 4), (4, 1), 0), arg0_1, out=buf1)
            del buf0
            buf2 = empty_strided_cuda((s0, ), (1, ), torch.float64)
            buf3 = buf1; del buf1  # reuse
            triton_poi_fused_add_1.run(buf3, buf2, 8*s0, stream=stream0)
        return (buf3, )

runner = Runner()
"""


@pytest.mark.parametrize("edges", [10, 1000])
def test_launches_bytes_and_peak(edges):
    cost = run(WRAPPER, [((4, 8), (8, 1), "float32"), ((edges, 4), (4, 1), "float64")])
    assert (cost.launches, cost.products, cost.largest) == (3, 1, 8 * edges)
    first, product = 32 + 16, 16 + 32
    second = 2 * 32 + 8  # in place: read and written
    assert cost.bytes == edges * (first + product + second) + 4 * 8 * 4
    assert cost.memory.peak == 48 * edges  # the product's operand and result, or its result and one more
