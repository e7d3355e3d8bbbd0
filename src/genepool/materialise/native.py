# pyright: basic
# (llvmlite has no type stubs)
"""Compiled functions kept as machine code, which later processes load without numba.

numba takes half a second until its first function runs, even out of its own cache: a fifth of a
merge of two models of 1.1 B parameters. The machine code of a function that refers to nothing
outside itself is ready in a tenth of that. It is kept for one processor, one version of llvmlite
and the very text of the files that it was compiled from; what does not fit is compiled anew. It is
run as it is found, so that a folder into which others can write is not used.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import re
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from genepool.checkpoints.files.atomic import write_bytes
from genepool.checkpoints.files.cache import shared_cache
from genepool.errors import WriteError

Function = Callable[..., object]

# What compiled functions here are made of.
_FILES = ("kernels.py", "intrinsics.py", "../checkpoints/files/dtypes.py")

_DIGEST = hashlib.sha256().digest_size

# What the compiler may put in for a loop; the system has these.
_SYSTEM = frozenset({"memcpy", "memmove", "memset"})

_TYPES: dict[str, Any] = {"i": ctypes.c_int64, "f": ctypes.c_float}

_ready: dict[str, Function] = {}
_lock = threading.Lock()

# Engines and compiled functions, which hold the code that is called by address.
_held: list[object] = []


def native(name: str, arguments: str) -> Function:
    """A function of `kernels`, compiled; calls release the interpreter's lock.

    Args:
        name: of a compiled function that returns nothing, raises nothing, and reaches memory
            through `intrinsics`.
        arguments: a letter for each: "i" int64 (also addresses), "f" float32.
    """
    found = _ready.get(name)
    if found is None:
        with _lock:
            found = _ready.get(name)
            if found is None:
                found = _ready[name] = _make(name, arguments)
    return found


def _make(name: str, arguments: str) -> Function:
    import llvmlite
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    try:
        cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    except RuntimeError:  # llvmlite cannot ask this system
        cpu, features = "", ""
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True)
    parts = [llvmlite.__version__, target.triple, cpu, features, name, arguments]
    parts += [(Path(__file__).parent / file).read_text(encoding="utf-8") for file in _FILES]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    folder = _own_folder()
    file = None if folder is None else folder / f"{name}-{key}.o"
    code = None if file is None else _read(file)
    if code is None:
        text = _assembly(name, arguments)
        if text is None:
            return _from_numba(name, arguments)
        code = bytes(machine.emit_object(llvm.parse_assembly(text)))
        if file is not None:
            _write(file, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _held.append(engine)
    # As numba calls functions: where to put the result, which is none, and what is raised.
    spare = (ctypes.c_void_p * 2)()
    places = (ctypes.byref(spare, 0), ctypes.byref(spare, ctypes.sizeof(ctypes.c_void_p)))
    types = [_TYPES[letter] for letter in arguments]
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *types)
    return partial(kind(engine.get_function_address(_symbol(name))), *places)


def _own_folder() -> Path | None:
    """Where machine code is kept; None where that cannot be, or others could put theirs there."""
    cache = shared_cache()
    if cache is None:
        return None
    folder = cache / "compiled"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return None
    if os.name != "posix":
        return folder
    own = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid()
    return folder if own and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None


def _read(file: Path) -> bytes | None:
    """The machine code in a file; None where there is none, or it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST], content[_DIGEST:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(file: Path, code: bytes) -> None:
    """Keep machine code; where it cannot be written it is made again the next time."""
    with suppress(WriteError):
        write_bytes(file, hashlib.sha256(code).digest() + code)


def _symbol(name: str) -> str:
    return f"genepool_{name}"


def _signature(arguments: str) -> Any:
    from numba import types

    letters = {"i": types.int64, "f": types.float32}
    return types.void(*(letters[letter] for letter in arguments))


def _python(name: str) -> Any:
    return getattr(importlib.import_module("genepool.materialise.kernels"), name).py_func


def _assembly(name: str, arguments: str) -> str | None:
    """A kernel in LLVM's assembly, optimised; None where it refers to anything outside itself."""
    from numba import njit

    options = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    compiled = njit(_signature(arguments), **options)(_python(name))
    text = compiled.inspect_llvm(compiled.signatures[0])
    declared = set(re.findall(r"^declare [^@]*@\"?([\w.$]+)", text, re.MULTILINE))
    foreign = {other for other in declared - _SYSTEM if not other.startswith("llvm.")}
    mangled = re.search(rf"^define [^@]*@\"?(\w*kernels\d+{name}\w*)", text, re.MULTILINE)
    if foreign or mangled is None:
        return None
    return text.replace(mangled[1], _symbol(name))


def _from_numba(name: str, arguments: str) -> Function:
    """The same without keeping anything, should another numba compile in another way."""
    from numba import cfunc

    compiled = cfunc(_signature(arguments), error_model="numpy")(_python(name))
    _held.append(compiled)
    types = [_TYPES[letter] for letter in arguments]
    address: Any = compiled.address
    return ctypes.CFUNCTYPE(None, *types)(address)
