"""How a CPU multiplies matrices of float32: by torch's usual library, or by the other one, which some processors run faster."""

import contextlib
import time

from .errors import UserError

LARGEST_ERROR = 2e-6  # relative, of a product over 512 numbers; with bfloat16 inside it would be a thousand times that
SHAPES = (256, 512, 512)


@contextlib.contextmanager
def multiplied(precision):
    """Inside, torch multiplies as said; afterwards as before."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def check(precision, device):
    """Raises UserError where "medium" is not what it is offered as: other sums, but of float32 numbers."""
    if precision == "highest":
        return
    if device.type != "cpu":
        raise UserError(f"expected --matmul highest on {device}, got {precision}; --precision bf16 is faster there")
    if (found := error(precision)) > LARGEST_ERROR:
        raise UserError(
            f"expected --matmul highest on this processor, got {precision}, whose relative error is {found:.0e} here; "
            "--precision bf16 is as coarse, and keeps densities in float32"
        )


def error(precision):
    """The relative error of a product against float64: the same number each time on one machine."""
    a, b = _factors()
    exact = a.double() @ b.double()
    with multiplied(precision):
        return float((a @ b - exact).norm() / exact.norm())


def speed(rounds=7, repeats=5):
    """How many times faster "medium" is than "highest" here, in CPU time: the median of interleaved rounds, some 40 ms."""
    a, b = _factors()
    ratios = []
    for _ in range(rounds + 1):
        times = []
        for precision in ("highest", "medium"):
            with multiplied(precision):
                start = time.process_time()
                for _ in range(repeats):
                    a @ b
                times.append(time.process_time() - start)
        ratios.append(times[0] / max(times[1], 1e-9))
    return sorted(ratios[1:])[rounds // 2]  # the first warms up


def _factors():
    import torch

    rows, inner, columns = SHAPES
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)
