"""BPF programs through libbpf.so.1: load and attach them, use their maps (libbpf.h); names of the kernel's enums (BTF).

Nothing is pinned: the kernel frees programs and maps when the last process that holds their descriptors ends.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any

LIBRARY = "libbpf.so.1"
KERNEL_TYPES = "/sys/kernel/btf/vmlinux"
CONSTANTS = ".rodata.config"
_KIND_ENUM, _KIND_ENUM64 = 6, 19  # linux/btf.h


class _Functions:
    """The functions of the library. OSError if it is not installed."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY, use_errno=True)
        self.set_print = self._bind("libbpf_set_print", c_void_p, c_void_p)
        self.open = self._bind("bpf_object__open_mem", c_void_p, c_char_p, c_size_t, c_void_p)
        self.load = self._bind("bpf_object__load", c_int, c_void_p)
        self.close = self._bind("bpf_object__close", None, c_void_p)
        self.next_program = self._bind("bpf_object__next_program", c_void_p, c_void_p, c_void_p)
        self.find_map = self._bind("bpf_object__find_map_by_name", c_void_p, c_void_p, c_char_p)
        self.program_name = self._bind("bpf_program__name", c_char_p, c_void_p)
        self.set_autoload = self._bind("bpf_program__set_autoload", c_int, c_void_p, c_bool)
        self.attach = self._bind("bpf_program__attach", c_void_p, c_void_p)
        self.destroy_link = self._bind("bpf_link__destroy", c_int, c_void_p)
        self.map_fd = self._bind("bpf_map__fd", c_int, c_void_p)
        self.set_max_entries = self._bind("bpf_map__set_max_entries", c_int, c_void_p, c_uint32)
        self.set_initial_value = self._bind("bpf_map__set_initial_value", c_int, c_void_p, c_char_p, c_size_t)
        self.update = self._bind("bpf_map_update_elem", c_int, c_int, c_char_p, c_char_p, c_uint64)
        self.lookup = self._bind("bpf_map_lookup_elem", c_int, c_int, c_char_p, c_char_p)
        self.delete = self._bind("bpf_map_delete_elem", c_int, c_int, c_char_p)
        self.next_key = self._bind("bpf_map_get_next_key", c_int, c_int, c_char_p, c_char_p)
        self.possible_cpus = self._bind("libbpf_num_possible_cpus", c_int)
        self.kernel_types = self._bind("btf__load_vmlinux_btf", c_void_p)
        self.free_types = self._bind("btf__free", None, c_void_p)
        self.find_type = self._bind("btf__find_by_name_kind", c_int, c_void_p, c_char_p, c_uint32)
        self.type_by_id = self._bind("btf__type_by_id", ctypes.POINTER(_Type), c_void_p, c_uint32)
        self.name_by_offset = self._bind("btf__name_by_offset", c_char_p, c_void_p, c_uint32)
        self.set_print(None)  # it would write to stderr what the errors here report

    def _bind(self, name: str, returns: Any, *arguments: Any) -> Callable[..., Any]:
        function = getattr(self._library, name)
        function.restype, function.argtypes = returns, arguments
        return function  # type: ignore[no-any-return]  # getattr of a CDLL


class _Type(ctypes.Structure):
    """struct btf_type, linux/btf.h."""

    _fields_ = (("name", c_uint32), ("info", c_uint32), ("size", c_uint32))


class _Enumerator(ctypes.Structure):
    """struct btf_enum, linux/btf.h."""

    _fields_ = (("name", c_uint32), ("value", ctypes.c_int32))


@cache
def _libbpf() -> _Functions:
    return _Functions()


def _checked(returned: int, what: str) -> int:
    if returned < 0:
        raise OSError(-returned, os.strerror(-returned), what)
    return returned


def _checked_pointer(returned: int | None, what: str) -> int:
    if not returned:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return returned


class BpfObject:
    """The programs of one object file in the kernel, attached, and their maps; a context manager.

    `programs` are loaded, the others are not. `entries` gives maps another number of entries than the object does
    (bytes, for a ring buffer), and `constants` are the bytes of its section CONSTANTS.

    Raises OSError: ENOENT (`filename` is the library) without libbpf.so.1, EPERM without CAP_BPF and CAP_PERFMON, and
    what the kernel refuses a program with; `filename` is the program, "" if it is not known.
    """

    def __init__(self, image: bytes, programs: Collection[str], entries: Mapping[str, int], constants: bytes) -> None:
        self._library = library = _libbpf()
        self._links: list[int] = []
        self._object = _checked_pointer(library.open(image, len(image), None), "")
        try:
            found: dict[str, int] = {}
            program = library.next_program(self._object, None)
            while program:
                name = library.program_name(program).decode()
                _checked(library.set_autoload(program, name in programs), name)
                found[name] = program
                program = library.next_program(self._object, program)
            for name, count in entries.items():
                _checked(library.set_max_entries(self._map(name), count), name)
            _checked(library.set_initial_value(self._map(CONSTANTS), constants, len(constants)), CONSTANTS)
            _checked(library.load(self._object), "")
            for name in programs:
                self._links.append(_checked_pointer(library.attach(found[name]), name))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BpfObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _map(self, name: str) -> int:
        return _checked_pointer(self._library.find_map(self._object, name.encode()), name)

    def map_fd(self, name: str) -> int:
        """The descriptor of a map, which stays this object's."""
        return _checked(self._library.map_fd(self._map(name)), name)

    def close(self) -> None:
        """Detach and unload the programs. Idempotent."""
        while self._links:
            self._library.destroy_link(self._links.pop())
        if self._object:
            self._library.close(self._object)
            self._object = 0


def update_map(fd: int, key: bytes, value: bytes) -> None:
    """Set the value of a key. OSError: E2BIG if the map is full."""
    _checked(_libbpf().update(fd, key, value, 0), "")


def delete_from_map(fd: int, key: bytes) -> None:
    """Remove a key, if it is there."""
    _libbpf().delete(fd, key)


def map_values(fd: int, key_bytes: int, value_bytes: int) -> Iterator[bytes]:
    """Yield the values of a map that programs change meanwhile: each at least once if it stays."""
    library = _libbpf()
    key, value = ctypes.create_string_buffer(key_bytes), ctypes.create_string_buffer(value_bytes)
    more = library.next_key(fd, None, key)
    while more == 0:
        following = ctypes.create_string_buffer(key_bytes)
        more = library.next_key(fd, key, following)
        if library.lookup(fd, key, value) == 0:
            yield value.raw
        key = following


def per_cpu_value(fd: int, key: bytes) -> int:
    """The sum of a value of 8 bytes over all processors."""
    cpus = _checked(_libbpf().possible_cpus(), "")
    values = ctypes.create_string_buffer(8 * cpus)
    _checked(_libbpf().lookup(fd, key, values), "")
    return sum(memoryview(values).cast("B").cast("Q"))


@cache
def kernel_enum(name: str, prefix: str = "") -> Mapping[int, str]:
    """The names of an enum of the running kernel by value, without `prefix`; none if the kernel lacks it.

    OSError: no libbpf.so.1, no BTF.
    """
    library = _libbpf()
    types = _checked_pointer(library.kernel_types(), KERNEL_TYPES)
    try:
        number = library.find_type(types, name.encode(), _KIND_ENUM)
        if number < 0:
            return {}
        enum = library.type_by_id(types, number)
        count = enum.contents.info & 0xFFFF
        start = ctypes.addressof(enum.contents) + ctypes.sizeof(_Type)
        enumerators = (_Enumerator * count).from_address(start)
        return {
            each.value: library.name_by_offset(types, each.name).decode().removeprefix(prefix) for each in enumerators
        }
    finally:
        library.free_types(types)
