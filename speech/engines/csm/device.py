"""What the rooms around share about the device that they compute on."""

from __future__ import annotations

import torch


def keep_bits(device: torch.device) -> None:
    """Have `device` compute in the precision that is written, the same way in any company. Holds for the process."""
    if device.type != "cuda":
        return
    # A convolution in float32 would run in TF32, with 10 bits of mantissa: other codes than the CPU's.
    torch.backends.cudnn.allow_tf32 = False
    # A sum that is split over blocks stays in float32.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    # It plans anew for every length of prompt, and has been wrong for few key heads (pytorch issue 193893).
    torch.backends.cuda.enable_cudnn_sdp(False)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out: torch's own, the host's, and what a library of cuda's says instead."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in ("out of memory", "ALLOC_FAILED"))
