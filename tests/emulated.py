"""The kernels compiled for another processor and run in an emulator, behind the same calls as the loaded library."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bnstudy.training.engine.kernels import build

COMPILER, EMULATOR, SYSROOT = "aarch64-linux-gnu-gcc", "qemu-aarch64", "/usr/aarch64-linux-gnu"
there = all(map(shutil.which, (COMPILER, EMULATOR))) and Path(SYSROOT).is_dir()

# Every argument of a kernel is an address or a whole number. In the procedure call standard of 64-bit Arm each takes a
# register or eight bytes of the stack, whatever its type, and arguments beyond those that a function has do no harm.
DRIVER = """
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#define MAX 24
typedef void kernel(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                    int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                    int64_t, int64_t);
static int64_t next(FILE *file) {
    int64_t value;
    if (fread(&value, sizeof value, 1, file) != 1) exit(3);
    return value;
}
/* Library, function and file, which holds the arrays, then the arguments as (array or -1, offset or value). */
int main(int argc, char **argv) {
    void *library = argc == 4 ? dlopen(argv[1], RTLD_NOW) : NULL;
    kernel *f = library ? (kernel *)dlsym(library, argv[2]) : NULL;
    FILE *file = f ? fopen(argv[3], "r+b") : NULL;
    if (!file) { fprintf(stderr, "%s\\n", dlerror()); return 2; }
    int64_t num = next(file), size[MAX], a[MAX] = {0};
    char *array[MAX];
    for (int64_t i = 0; i < num; i++) {
        size[i] = next(file);
        array[i] = aligned_alloc(64, (size[i] + 127) / 64 * 64);
        if ((int64_t)fread(array[i], 1, size[i], file) != size[i]) return 3;
    }
    int64_t arguments = next(file);
    for (int64_t i = 0; i < arguments; i++) {
        int64_t of = next(file), value = next(file);
        a[i] = of < 0 ? value : (int64_t)(array[of] + value);
    }
    f(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15], a[16],
      a[17], a[18], a[19], a[20], a[21], a[22], a[23]);
    rewind(file);
    next(file);
    for (int64_t i = 0; i < num; i++) {
        next(file);
        fseek(file, 0, SEEK_CUR);
        if ((int64_t)fwrite(array[i], 1, size[i], file) != size[i]) return 3;
        fseek(file, 0, SEEK_CUR);
    }
    return fclose(file);
}
"""


def compile_kernel(
    compiler: str, flags: Sequence[str], name: str, macros: dict[str, Any], target: Path
) -> subprocess.CompletedProcess[str]:
    source = Path(build.__file__).with_name(f"{name}.c")
    defined = [f"-D{key}={value}" for key, value in macros.items()]
    command = [compiler, *build.FLAGS, *flags, *defined, str(source), "-o", str(target)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def refuses(compiler: str, flags: Sequence[str]) -> bool:
    """Whether the compiler has no such processor."""
    command = [compiler, *flags, "-x", "c", "-fsyntax-only", "-"]
    return subprocess.run(command, input=b"", capture_output=True, timeout=120).returncode != 0


def pointers(*arrays: Tensor | None) -> list[Tensor | int]:
    """In place of addresses, which the emulator's process does not share, the arrays; None is NULL."""
    return [0 if array is None else array for array in arrays]


class Library:
    """A kernel of which every call is one of the emulator's, all arrays written to a file and read from it."""

    def __init__(self, name: str, macros: dict[str, Any], folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._library = folder / f"{name}-{hashlib.sha256(repr(macros).encode()).hexdigest()[:16]}.so"
        done = compile_kernel(COMPILER, ["-march=armv8-a", "-fopenmp"], name, macros, self._library)
        assert done.returncode == 0, done.stderr
        self._driver = folder / "driver"
        if not self._driver.exists():
            (folder / "driver.c").write_text(DRIVER)
            subprocess.run([COMPILER, "-O1", str(folder / "driver.c"), "-o", str(self._driver), "-ldl"], check=True)

    def __getattr__(self, function: str) -> Callable[..., None]:
        return lambda *arguments: self._call(function, arguments)

    def _call(self, function: str, arguments: Sequence[Any]) -> None:
        arrays: dict[int, np.ndarray] = {}  # a tensor's whole storage, once though several may lie in it
        placed: list[tuple[int | None, int]] = []
        for each in arguments:
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                size, start = storage.nbytes(), storage.data_ptr()
                arrays[start] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(start))
                placed.append((start, each.data_ptr() - start))
            else:
                placed.append((None, each.value if isinstance(each, ctypes.c_long) else int(each)))
        number = {start: index for index, start in enumerate(arrays)}
        file = self._folder / "call"
        with file.open("wb") as out:
            out.write(struct.pack("<q", len(arrays)))
            for array in arrays.values():
                out.write(struct.pack("<q", len(array)) + array.tobytes())
            out.write(struct.pack("<q", len(placed)))
            for of, value in placed:
                out.write(struct.pack("<qq", -1 if of is None else number[of], value))
        command = [EMULATOR, "-L", SYSROOT, str(self._driver), str(self._library), function, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{function}: {done.returncode} {done.stderr}"
        content, at = file.read_bytes(), 8
        for array in arrays.values():
            array[:] = np.frombuffer(content, np.uint8, len(array), at + 8)
            at += 8 + len(array)
