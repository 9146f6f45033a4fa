"""A scatter and its reader keep their order in what Inductor compiles."""

import torch

from localgraph import inductor_workaround


def scattered(x, index, a, b):
    product = a * b[:, None]
    sums = torch.zeros(a.shape).index_add(0, index, x)
    return product + 1, torch.sigmoid(
        sums
    ) * a  # compiled without the workaround, the second is off by about 1


def test_reader_comes_after_the_scatter():
    generator = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(*shape, generator=generator) for shape in ((200, 12), (33, 12), (33,)))
    index = torch.randint(0, 33, (200,), generator=generator)
    with inductor_workaround(), torch._inductor.config.patch(fx_graph_cache=False):
        found = torch.compile(scattered)(x, index, a, b)
    for one, other in zip(found, scattered(x, index, a, b), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_patch_is_undone():
    from torch._inductor.scheduler import SchedulerNode

    before = SchedulerNode.recompute_size_and_body
    with inductor_workaround():
        pass
    assert SchedulerNode.recompute_size_and_body is before
