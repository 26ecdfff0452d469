"""Where to compute and in what precision: what `auto` means on this machine."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from theseus_core.errors import TheseusError, nearest

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """A device by name; `auto` takes cuda, then mps, then cpu.

    Raises:
        TheseusError: no such kind of device, or this machine has none.
    """
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in kinds.items() if there))
    kind, _, number = name.partition(":")
    if kind not in kinds or (":" in name and not number.isdecimal()):
        raise TheseusError(f"no such device: {name}", hint=nearest(kind, ["auto", *kinds]))
    count = torch.cuda.device_count() if kind == "cuda" else int(kinds[kind])
    if int(number or 0) >= count:
        found = f"{count} found" if count else f"this machine, or this build of PyTorch ({torch.__version__}), has none"
        raise TheseusError(f"no such device here: {name}", hint=f"{found}; `theseus doctor` says more")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision to compute in; `auto` takes bf16 where it is fast, else fp32.

    Raises:
        TheseusError: no such precision, or one that the device computes only by emulation.
    """
    if name == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    if name not in DTYPES:
        raise TheseusError(f"no such dtype: {name}", hint=nearest(name, ["auto", *DTYPES]))
    if name == "fp16" and device.type == "cpu":
        raise TheseusError(f"a CPU computes this dtype only by emulation, many times slower: {name}", hint="--dtype bf16 or fp32")
    return DTYPES[name]


def in_doubles(device: torch.device) -> torch.device:
    """Where tables for a device are computed in double precision: on it, or on the CPU for Apple's, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


def dtype_name(dtype: torch.dtype) -> str:
    """`bf16` for `torch.bfloat16`, as `pick_dtype` takes it."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bf16 faster than in fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # an older torch knows of x86 alone
            return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        found = torch.cpu.get_capabilities()
        return any(bool(found.get(feature)) for feature in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def has_int8_products() -> bool:
    """Whether this CPU multiplies and adds int8 in one instruction, several times faster than floats."""
    found = (
        torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {"avx512_vnni": torch.cpu._is_vnni_supported()}
    )
    return any(bool(found.get(feature)) for feature in ("avx512_vnni", "avx_vnni", "amx_int8"))


def keep_freed_memory() -> None:
    """Ask the C library to keep what is freed, for the next step: large tensors then cost no page faults, 15 % of a step on a CPU.

    Only glibc, on Linux, gives blocks of this size back at once and must be told; elsewhere nothing is done. It cannot be undone:
    the whole process keeps its memory until it ends, which suits one that trains.
    """
    library = _c_library()
    if library is None:
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    library.mallopt(mmap_max, 0)
    library.mallopt(trim_threshold, 2**31 - 1)


def free_memory(device: torch.device) -> int:
    """Bytes that a program could take now on the device; of main memory for one without its own."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    memory = Path("/proc/meminfo")
    if memory.exists():
        fields = dict(line.split(":") for line in memory.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 2**10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # all there is: nothing else can be asked in a portable way


def resident_memory() -> int:
    """Bytes of main memory that this process takes now; on systems that do not say, the most that it took so far."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_memory()


def peak_memory() -> int:
    """The most bytes of main memory that this process took so far.

    Linux also counts in `ru_maxrss` what the parent held when it started the process, so there the program's own mark is read.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 2**10
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def trim_freed_memory() -> None:
    """Give back to the system what this process has freed and the C library keeps: after quantization, half of it."""
    library = _c_library()
    if library is not None and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def forget_mapped(tensor: torch.Tensor) -> None:
    """Let go of the memory of a tensor that is mapped from a file, and was copied: while others are mapped it would stay.

    Its values are read from the file again should they be asked for. What is written to a mapped tensor is lost by this.
    """
    library = _c_library()
    if library is None:
        return
    size = os.sysconf("SC_PAGE_SIZE")
    first, last = -(-tensor.data_ptr() // size), (tensor.data_ptr() + tensor.nbytes) // size  # of the pages that are its alone
    if first < last:
        dont_need = 4  # MADV_DONTNEED of mman.h
        library.madvise(ctypes.c_void_p(first * size), ctypes.c_size_t((last - first) * size), dont_need)


def _c_library() -> ctypes.CDLL | None:
    """glibc, where this system has it."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:
        return None


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Matrix products in `dtype`, everything else as it is; the weights stay in fp32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Matrix products as precise as what is multiplied, also within `autocast`."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


@contextmanager
def explained(less_memory: str) -> Iterator[None]:
    """Turn what torch raises for the machine's limits into an error that names the way out.

    Args:
        less_memory: what would take less, for the hint.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in said or "overflowed" in said:
            raise TheseusError(f"out of memory: {_in_a_line(error)}", hint=less_memory) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            hint = "torch.compile needs a C++ compiler (g++ or clang), and triton on CUDA; or leave --compile out"
            raise TheseusError(f"the network does not compile: {_in_a_line(error)}", hint=hint) from error
        raise


def _in_a_line(error: Exception) -> str:
    """The first two lines of what torch says: where there are two, the first only names the part that failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
