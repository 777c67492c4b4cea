"""Compile the kernels, each for one shape when a network first needs it, and load them.

Where there is no C compiler, or BNSTUDY_KERNELS=0, there are none. Compiled ones are kept in the user's cache folder,
each with a checksum of it at its end: a file that is not whole would not be refused by the loader, but kill the process
when it is called. Whatever is the matter with the folder or the compiler, torch computes, and a line says so, once.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from bnstudy.store import files

SWITCH = "BNSTUDY_KERNELS"
used: set[str] = set()  # the kernels that computed something since `reset_uses`
missed: set[str] = set()  # those that were not available, so that torch computed
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fPIC", "-shared")
TRIED = (("-march=native", "-fopenmp"), ("-march=native",), ())  # some compilers lack one or the other
UNSUPPORTED = "unsupported option"  # as a compiler without OpenMP says
TIMEOUT_SEC = 120
DIGEST = 64  # bytes of a checksum
_hung = set[str]()  # compilers that did not end: each shape would wait for them anew


@functools.cache
def compiler() -> str | None:
    """The C compiler's path; None where there is none, or it is not to be used."""
    if os.environ.get(SWITCH) == "0":
        return None
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@functools.cache
def lanes() -> int:
    """Floats in one vector register: 16 with AVX-512, else 8.

    Sums that do not fit the registers go to memory and back: with 16 lanes on 16 registers of 8 floats the kernels
    were up to eighteen times slower than torch, with 8 about as fast to three times as fast (docs/speed.md).
    """
    return 16 if " avx512f " in _machine() else 8


@functools.cache
def multiplies_bf16() -> bool:
    """Whether the processor multiplies bf16; torch's convolutions of bf16 take ten times as long where it does not."""
    return has_matrix_unit() or _has("avx512_bf16")


@functools.cache
def has_matrix_unit() -> bool:
    """Whether the processor multiplies whole matrices of bf16, much faster than vectors of float32."""
    return _has("amx_bf16") or _has("bf16")  # as Linux calls it on x86 and on Arm


@functools.cache
def has_amx() -> bool:
    """Whether that unit is Intel's AMX, for which there is a kernel (amx.c)."""
    return _has("amx_bf16")


def units() -> list[str]:
    """What the processor multiplies with: its vectors, and what multiplies bf16."""
    vectors = [name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("asimd", "Neon")) if _has(flag)]
    half = [name for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "bf16"), ("bf16", "bf16")) if _has(flag)]
    return vectors[:1] + half[:1]


def _has(flag: str) -> bool:
    return f" {flag} " in f"{_machine()} ".replace("\n", " ")


def real(dtype: torch.dtype) -> torch.dtype:
    """The type in which the kernels compute with numbers that are stored as `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


TYPES: dict[torch.dtype, dict[str, str | int]] = {  # macros for the type of stored numbers
    torch.float32: {"REAL": "float"},
    torch.bfloat16: {"REAL": "float", "BF16": 1},
    torch.float64: {"REAL": "double"},
}


def library(name: str, **macros_of: str | int) -> ctypes.CDLL | None:
    """`name`.c compiled with these macros; None where that is not possible."""
    if compiler() is None:
        return None
    source = Path(__file__).with_name(f"{name}.c")
    macros = [f"-D{key}={value}" for key, value in {"LANES": lanes(), **macros_of}.items()]
    texts = [each.read_text(encoding="utf-8") for each in (source, *sorted(source.parent.glob("*.h")))]
    content = "\0".join([*texts, *FLAGS, str(TRIED), *macros, _machine()])
    file = f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.so"
    try:
        target = _cache() / file
        if not _whole(target) and not _compile(source, macros, target):
            return None
        return ctypes.CDLL(str(target))
    except (OSError, RuntimeError) as error:  # no home; a folder that cannot be read, or that allows no execution
        say(f"the kernels' cache cannot be used ({error}); torch computes instead")
        return None


def _whole(path: Path) -> bool:
    """Whether the file is there and ends with the checksum of what is before."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return len(content) > DIGEST and content[-DIGEST:] == hashlib.sha256(content[:-DIGEST]).hexdigest().encode()


def _compile(source: Path, macros: list[str], target: Path) -> bool:
    """Compile, and return whether it worked; print a line if not, as otherwise only the speed would tell."""
    path = compiler()
    assert path is not None
    if path in _hung:
        return False
    reason = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            library, log = Path(scratch) / target.name, Path(scratch) / "log"
            for more in TRIED:
                code, said = _run([path, *FLAGS, *more, *macros, str(source), "-o", str(library)], log)
                if code == 0:
                    content = library.read_bytes()
                    with files.replacing(target) as part:  # others compile the same at the same time
                        part.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
                    return True
                reason = said if not reason or UNSUPPORTED in reason else reason  # the first has all that there is
    except subprocess.TimeoutExpired as error:
        _hung.add(path)
        reason = str(error)
    except OSError as error:
        reason = str(error)
    say(f"{source.name} could not be compiled ({path}: {reason}); torch computes instead")
    return False


def _run(command: list[str], log: Path) -> tuple[int, str]:
    """Run a command; its exit status, and its first line about an error, or else its last.

    Raises TimeoutExpired after killing all its processes.
    """
    with log.open("w+b") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(TIMEOUT_SEC)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().split("\n")
        return code, next((line for line in lines if "error:" in line), lines[-1])


@functools.cache
def say(text: str) -> None:
    """Print a line, once."""
    print(text, file=sys.stderr)


def _cache() -> Path:
    """The user's cache folder. Raises RuntimeError where the user has no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"  # as the specification has it
    return root / "bnstudy" / "kernels"


@functools.cache
def _machine() -> str:
    """A key of what -march=native depends on, as different machines may share a cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    processor = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return "\n".join([platform.machine(), platform.processor(), str(compiler()), *processor])


def pointers(*arrays: Tensor | None) -> list[ctypes.c_void_p]:
    """Addresses for C; None is NULL. The arrays must outlive the call."""
    return [ctypes.c_void_p(None if array is None else array.data_ptr()) for array in arrays]


def count_use(name: str, library: object) -> None:
    """Record that the kernel `name` computes, or, without its library, that torch does."""
    (missed if library is None else used).add(name)


def reset_uses() -> None:
    """Clear the records of which kernels computed, before another run."""
    used.clear()
    missed.clear()


def check_once() -> None:
    """For a kernel's backward pass: raises RuntimeError where it is itself to be differentiated, which none allows."""
    if torch.is_grad_enabled():
        raise RuntimeError("the kernels compute first derivatives alone; take a network as its file defines it")


def long(number: int) -> ctypes.c_long:
    return ctypes.c_long(number)


def tracks(norm: nn.Module) -> bool:
    """Whether the module is a plain torch BN: with gamma and beta, and running statistics at a fixed rate."""
    return type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None


def of_norm(norm: nn.BatchNorm2d | None) -> dict[str, str]:
    """Macros for a norm: its epsilon, and the rate at which its running statistics move."""
    eps, momentum = (0.0, 0.0) if norm is None else (norm.eps, norm.momentum)
    return {"EPS": repr(eps), "MOMENTUM": repr(momentum)}


def tracked(norm: nn.BatchNorm2d) -> tuple[Tensor | None, ...]:
    """Running mean and variance, and the number of mini-batches, which a kernel is to update."""
    return norm.running_mean, norm.running_var, norm.num_batches_tracked
