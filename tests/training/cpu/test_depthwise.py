import pytest
import torch
import torch.nn.functional as F

from atrous.training.cpu.depthwise import depthwise

CASES = [  # padding, rate, stride
    *((2, 2, 1), (0, 2, 1), (6, 6, 1), (0, 6, 1), (12, 12, 1), (2, 1, 1)),
    *((1, 1, 2), (0, 1, 2), (1, 1, 3)),
]


def _tensors(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 15, 14, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(3, 1, 3, 3, generator=generator, dtype=dtype, requires_grad=True)
    return x, weight


@pytest.mark.parametrize("rows", [15, 14])
@pytest.mark.parametrize(("padding", "rate", "stride"), CASES)
def test_value_and_gradients_equal_torchs(padding: int, rate: int, stride: int, rows: int) -> None:
    x, weight = _tensors()
    x = x[:, :, :rows]
    ours = depthwise(x, weight, padding, rate, stride)
    torchs = F.conv2d(x, weight, None, stride, padding, rate, groups=3)
    torch.testing.assert_close(ours, torchs)
    grad = torch.randn_like(torchs)
    for got, expected in zip(
        torch.autograd.grad(ours, (x, weight), grad),
        torch.autograd.grad(torchs, (x, weight), grad),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("padding", "rate", "stride"), [(2, 2, 1), (6, 6, 1), (1, 1, 2)])
def test_gradients_agree_with_finite_differences(padding: int, rate: int, stride: int) -> None:
    x, weight = _tensors()
    assert torch.autograd.gradcheck(
        lambda a, b: depthwise(a, b, padding, rate, stride), (x[:1, :, :9, :8], weight)
    )


def test_rate_beyond_the_picture_leaves_the_centre_tap() -> None:
    x, weight = _tensors()
    torch.testing.assert_close(depthwise(x, weight, 18, 18), x * weight[:, 0, 1, 1, None, None])


def test_autocast_computes_in_its_own_type() -> None:
    x, weight = _tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise(x, weight, 2, 2)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
