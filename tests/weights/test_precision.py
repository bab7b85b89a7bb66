import pytest
import torch

from unildiff.utils.errors import UserError
from unildiff.weights.precision import check_dtype, default_dtype, use_fast_matmul


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((6, 1), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_a_gpu_computes_in_bfloat16_where_it_can(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert default_dtype(torch.device("cuda:0")) == expected


def test_other_devices() -> None:
    assert default_dtype(torch.device("cpu")) == torch.float32
    assert default_dtype(torch.device("mps")) == torch.float16


def test_float32_products_use_tf32_on_cuda_alone() -> None:
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        use_fast_matmul(torch.device("cpu"))
        assert not any(backend.allow_tf32 for backend in backends)
        use_fast_matmul(torch.device("cuda"))
        assert all(backend.allow_tf32 for backend in backends)
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def test_a_type_that_the_device_lacks_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check_dtype(dtype, torch.device("cpu"))
    with pytest.raises(UserError, match="dtype: cpu does not compute in bool; leave --dtype out, or give float32"):
        check_dtype(torch.bool, torch.device("cpu"))  # its product is not implemented
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UserError, match="dtype: cuda does not compute in bfloat16") as error:
        check_dtype(torch.bfloat16, torch.device("cuda"))
    assert "\n" not in str(error.value)
    # What PyTorch raises on Apple's GPUs before macOS 14.
    refusal = TypeError("BFloat16 is not supported on MPS")
    monkeypatch.setattr(torch, "ones", lambda *size, dtype, device: (_ for _ in ()).throw(refusal))
    with pytest.raises(UserError, match="dtype: mps does not compute in bfloat16"):
        check_dtype(torch.bfloat16, torch.device("mps"))
