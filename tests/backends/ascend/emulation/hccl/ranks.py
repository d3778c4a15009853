"""What each rank does in the tests of the emulated HCCL, by its C interface and on arrays of the host.

The functions that take ``folder`` are run by ``tests.processes`` in processes of their own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT_INFO_BYTES = 4108
DTYPES = {
    "int8": 0,
    "int16": 1,
    "int32": 2,
    "float16": 3,
    "float32": 4,
    "int64": 5,
    "uint8": 7,
    "float64": 10,
}
BFLOAT16 = 11
OPERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum": lambda rows: np.add.reduce(rows, dtype=rows.dtype),
    "prod": lambda rows: np.multiply.reduce(rows, dtype=rows.dtype),
    "max": np.maximum.reduce,
    "min": np.minimum.reduce,
}
SEND, RECEIVE = 0, 1


class HcclError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Item(ctypes.Structure):
    """HcclSendRecvItem."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("dtype", ctypes.c_int),
        ("peer", ctypes.c_uint32),
    )


def numbers(values: list[int]) -> Any:
    return (ctypes.c_uint64 * len(values))(*values)


def address(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


class Library:
    """The emulated libhccl.so over the emulated runtime, in one process."""

    def __init__(self) -> None:
        folder = Path(os.environ["ASCEND_HOME_PATH"]) / "lib64"
        self.runtime = ctypes.CDLL(str(folder / "libascendcl.so"), mode=ctypes.RTLD_GLOBAL)
        self.runtime.aclGetRecentErrMsg.restype = ctypes.c_char_p
        self.hccl = ctypes.CDLL(str(folder / "libhccl.so"))

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.hccl, name)(*arguments)
        if code:
            raise HcclError(code, self.runtime.aclGetRecentErrMsg().decode())

    def root_info(self) -> bytes:
        info = ctypes.create_string_buffer(ROOT_INFO_BYTES)
        self.call("HcclGetRootInfo", info)
        return info.raw


class Communicator:
    """One rank of a communicator; buffers are numpy arrays."""

    def __init__(self, library: Library, info: bytes, rank: int, size: int) -> None:
        self.library, self.rank, self.size = library, rank, size
        self.handle = ctypes.c_void_p()
        buffer = ctypes.create_string_buffer(info, ROOT_INFO_BYTES)
        library.call("HcclCommInitRootInfo", size, buffer, rank, ctypes.byref(self.handle))

    def call(self, name: str, *arguments: Any) -> None:
        self.library.call(name, *arguments, self.handle, None)

    def all_reduce(self, array: np.ndarray, operation: int = 0, dtype: int | None = None) -> np.ndarray:
        result = np.empty_like(array)
        dtype = DTYPES[array.dtype.name] if dtype is None else dtype
        self.call(
            "HcclAllReduce", address(array), address(result), numbers([array.size])[0], dtype, operation
        )
        return result

    def send_receive(self, *items: tuple[int, np.ndarray, int]) -> None:
        batch = (Item * len(items))()
        for entry, (kind, array, peer) in zip(batch, items, strict=True):
            entry.kind, entry.buffer, entry.count = kind, array.ctypes.data, array.size
            entry.dtype, entry.peer = DTYPES[array.dtype.name], peer
        self.call("HcclBatchSendRecv", batch, len(items))

    def destroy(self) -> None:
        self.library.call("HcclCommDestroy", self.handle)


def join(folder: str) -> Communicator:
    """Meet the other ranks: rank 0 leaves the root info in ``folder``."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    library = Library()
    place = Path(folder) / "root-info"
    if rank == 0:
        place.with_suffix(".part").write_bytes(library.root_info())
        place.with_suffix(".part").rename(place)
    while not place.exists():
        time.sleep(0.01)
    return Communicator(library, place.read_bytes(), rank, size)


def block(rank: int, count: int, dtype: str) -> np.ndarray:
    """Small values that differ by rank and position, so that their products stay exact."""
    return ((np.arange(count) + rank) % 4 + 1).astype(dtype)


def reduce_everything(folder: str) -> list[str]:
    """Every reduction, data type and operation; returns what came out wrong."""
    group = join(folder)
    wrong: list[str] = []
    count = 10
    for dtype in ("int8", "int16", "int32", "int64", "float16", "float32"):
        rows = np.stack([block(rank, count * group.size, dtype) for rank in range(group.size)])
        mine, own = (
            np.ascontiguousarray(rows[group.rank]),
            slice(count * group.rank, count * (group.rank + 1)),
        )
        for code, (name, reference) in enumerate(OPERATIONS.items()):
            if dtype == "int16" and name == "prod":
                continue
            expected = reference(rows)
            if not np.array_equal(group.all_reduce(mine, code), expected):
                wrong.append(f"all_reduce {dtype} {name}")
            elements, kind = numbers([count, mine.size]), DTYPES[dtype]
            part = np.zeros(count, dtype)
            group.call(
                "HcclReduceScatter", address(mine), address(part), ctypes.c_uint64(elements[0]), kind, code
            )
            if not np.array_equal(part, expected[own]):
                wrong.append(f"reduce_scatter {dtype} {name}")
            whole, root = np.zeros_like(mine), group.size - 1
            group.call(
                "HcclReduce", address(mine), address(whole), ctypes.c_uint64(elements[1]), kind, code, root
            )
            if not np.array_equal(whole, expected if group.rank == root else np.zeros_like(mine)):
                wrong.append(f"reduce {dtype} {name}")
    group.destroy()
    return wrong


def reduce_bfloat16(folder: str) -> list[float]:
    """The sums over ranks of 1, 2, 3 and of 256, 1, 1, in bfloat16 (the upper half of a float32)."""
    group = join(folder)
    values = np.array([group.rank + 1, 1 if group.rank else 256], dtype=np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.int16)
    summed = group.all_reduce(upper, dtype=BFLOAT16)
    return (summed.astype(np.uint16).astype(np.uint32) << 16).view(np.float32).tolist()


def reduce_in_rank_order(folder: str) -> list[float]:
    """In float32 (1e8 + 1) - 1e8 is 0; any other order gives 1."""
    group = join(folder)
    return group.all_reduce(np.full(7, [1e8, 1.0, -1e8][group.rank], dtype=np.float32)).tolist()


def move_everything(folder: str) -> list[str]:
    """Every collective that only moves data, for blocks of 1, 2, 4 and 8 bytes an element."""
    group = join(folder)
    wrong: list[str] = []
    for dtype in ("uint8", "float16", "float32", "float64"):
        kind = DTYPES[dtype]
        for name, got, expected in (*_even(group, dtype, kind), *_uneven(group, dtype, kind)):
            if not np.array_equal(got, expected):
                wrong.append(f"{name} {dtype}")
    group.call("HcclBarrier")
    group.destroy()
    return wrong


def _even(group: Communicator, dtype: str, kind: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    size, rank, count = group.size, group.rank, 6
    elements, root = ctypes.c_uint64(count), size - 1
    rows = [block(other, count * size, dtype) for other in range(size)]
    own = slice(count * rank, count * (rank + 1))
    gathered, exchanged = np.zeros(count * size, dtype), np.zeros(count * size, dtype)
    group.call("HcclAllGather", address(rows[rank]), address(gathered), elements, kind)
    group.call("HcclAlltoAll", address(rows[rank]), elements, kind, address(exchanged), elements, kind)
    copy, part = rows[rank].copy(), np.zeros(count, dtype)
    group.call("HcclBroadcast", address(copy), ctypes.c_uint64(count * size), kind, root)
    group.call("HcclScatter", address(rows[rank]), address(part), elements, kind, root)
    return [
        ("all_gather", gathered, np.concatenate([row[:count] for row in rows])),
        ("all_to_all", exchanged, np.concatenate([row[own] for row in rows])),
        ("broadcast", copy, rows[root]),
        ("scatter", part, rows[root][own]),
    ]


def _uneven(group: Communicator, dtype: str, kind: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Rank i sends i + j elements to rank j; rank 0 sends itself nothing."""
    size, rank = group.size, group.rank
    matrix = [[i + j for j in range(size)] for i in range(size)]
    rows = [block(other, sum(matrix[other]), dtype) for other in range(size)]
    starts = [np.concatenate([[0], np.cumsum(counts)[:-1]]).tolist() for counts in matrix]
    expected = np.concatenate([rows[i][starts[i][rank] :][: matrix[i][rank]] for i in range(size)])
    to, come = matrix[rank], [matrix[i][rank] for i in range(size)]
    come_at = np.concatenate([[0], np.cumsum(come)[:-1]]).tolist()
    by_counts, by_matrix = np.zeros(sum(come), dtype), np.zeros(sum(come), dtype)
    sent = (address(rows[rank]), numbers(to), numbers(starts[rank]), kind)
    group.call("HcclAlltoAllV", *sent, address(by_counts), numbers(come), numbers(come_at), kind)
    flat = numbers([count for counts in matrix for count in counts])
    group.call("HcclAlltoAllVC", address(rows[rank]), flat, kind, address(by_matrix), kind)

    counts = [other + 1 for other in range(size)]
    at = np.concatenate([[0], np.cumsum(counts)[:-1]]).tolist()
    gathered = np.zeros(sum(counts), dtype)
    parts = [block(other, counts[other], dtype) for other in range(size)]
    own = (address(parts[rank]), ctypes.c_uint64(counts[rank]), address(gathered))
    group.call("HcclAllGatherV", *own, numbers(counts), numbers(at), kind)
    results = [
        ("all_to_all_v", by_counts, expected),
        ("all_to_all_vc", by_matrix, expected),
        ("all_gather_v", gathered, np.concatenate(parts)),
    ]
    if dtype == "float32":
        whole = [block(other, sum(counts), dtype) for other in range(size)]
        part = np.zeros(counts[rank], dtype)
        group.call(
            "HcclReduceScatterV",
            *(address(whole[rank]), numbers(counts), numbers(at), address(part)),
            *(ctypes.c_uint64(counts[rank]), kind, 0),
        )
        results.append(("reduce_scatter_v", part, np.sum(whole, axis=0)[at[rank] :][: counts[rank]]))
    return results


def send_first_on_both_sides(folder: str) -> bool:
    """Both ranks send 32 MiB before either receives: more than any socket buffers."""
    group = join(folder)
    peer = 1 - group.rank
    sent, received = np.full(1 << 23, group.rank, np.int32), np.empty(1 << 23, np.int32)
    elements = ctypes.c_uint64(sent.size)
    group.call("HcclSend", address(sent), elements, DTYPES["int32"], peer)
    group.call("HcclRecv", address(received), elements, DTYPES["int32"], peer)
    group.destroy()
    return bool((received == peer).all())


def batch_round_the_ring(folder: str) -> list[int]:
    """A batch lists its receive first, on every rank; the own rank is a peer too."""
    group = join(folder)
    before, after = (group.rank - 1) % group.size, (group.rank + 1) % group.size
    mine, theirs, own = np.array([group.rank]), np.array([-1]), np.array([-1])
    group.send_receive(
        (RECEIVE, theirs, before), (RECEIVE, own, group.rank), (SEND, mine, after), (SEND, mine, group.rank)
    )
    return [int(theirs[0]), int(own[0])]


def sub_communicator(folder: str) -> list[float]:
    """Ranks 2 and 0, in this order, make a communicator of their own out of that of all three."""
    group = join(folder)
    members = [2, 0]
    if group.rank not in members:
        group.call("HcclBarrier")
        return []
    part = Communicator.__new__(Communicator)
    part.library, part.rank, part.size = group.library, members.index(group.rank), len(members)
    part.handle = ctypes.c_void_p()
    group.library.call(
        "HcclCreateSubCommConfig",
        *(ctypes.byref(group.handle), 2, (ctypes.c_uint32 * 2)(*members), ctypes.c_uint64(7), part.rank),
        *(None, ctypes.byref(part.handle)),
    )
    gathered = np.empty(2, np.float32)
    mine = np.array([group.rank], np.float32)
    part.call("HcclAllGather", address(mine), address(gathered), ctypes.c_uint64(1), DTYPES["float32"])
    group.call("HcclBarrier")
    return gathered.tolist()


def refused(action: Callable[[], object]) -> tuple[int, str]:
    try:
        action()
    except HcclError as error:
        return error.code, error.reason
    return 0, ""


def disagree(folder: str, about: str) -> tuple[int, str]:
    """Rank 1 calls something else than the others; returns what this rank is told."""
    group = join(folder)
    odd = group.rank == 1
    array, four = np.ones(8, np.float32), ctypes.c_uint64(4)
    kind = DTYPES["float32"]
    if about == "operation":
        return refused(lambda: group.all_reduce(array, operation=2 if odd else 0))
    if about == "count":
        return refused(lambda: group.all_reduce(array[: 5 if odd else 8]))
    if about == "dtype":
        return refused(lambda: group.all_reduce(array.astype(np.int32) if odd else array))
    if about == "root":
        return refused(lambda: group.call("HcclBroadcast", address(array), four, kind, int(odd)))
    if about == "order":
        name = "HcclAllGather" if odd else "HcclAlltoAll"
        sends = (address(array), address(np.empty(32, np.float32)), four, kind)
        exchanges = (address(array), four, kind, address(np.empty(32, np.float32)), four, kind)
        return refused(lambda: group.call(name, *(sends if odd else exchanges)))
    assert about == "message"
    if odd:
        group.send_receive((SEND, array[:3], 0))
        return refused(lambda: group.call("HcclBarrier"))
    return refused(lambda: group.send_receive((RECEIVE, array, 1)))


def wait_for_another(folder: str, other_does: str) -> tuple[int, str, float]:
    """Rank 1 does not take part; the others are told so, and after how many seconds."""
    group = join(folder)
    group.all_reduce(np.ones(3, np.float32))
    if group.rank == 1:
        if other_does == "die":
            os._exit(0)
        if other_does == "destroy":
            group.destroy()
            return 0, "", 0.0
        if other_does == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)  # nothing reads the sockets any more; the test ends it
        time.sleep(4.0)
        os._exit(0)
    array = np.ones(
        1 << 24 if other_does == "freeze" else 3, np.float32
    )  # 64 MiB fill every buffer between them
    start = time.monotonic()
    code, reason = refused(lambda: group.all_reduce(array))
    return code, reason, time.monotonic() - start


def join_alone(folder: str) -> tuple[int, str]:
    library = Library()
    return refused(lambda: Communicator(library, library.root_info(), 0, 3))


def join_with_foreign_root(folder: str) -> tuple[int, str]:
    library = Library()
    return refused(lambda: Communicator(library, bytes(ROOT_INFO_BYTES), 0, 2))


def join_as_the_same_rank(folder: str) -> tuple[int, str]:
    os.environ["RANK"], rank = "0", os.environ["RANK"]
    library = Library()
    place = Path(folder) / "root-info"
    if rank == "0":
        place.with_suffix(".part").write_bytes(library.root_info())
        place.with_suffix(".part").rename(place)
    while not place.exists():
        time.sleep(0.01)
    return refused(lambda: Communicator(library, place.read_bytes(), 0, 2))


def reduce_what_the_chip_lacks(folder: str) -> dict[str, tuple[int, str]]:
    group = join(folder)
    ones = np.ones(2, np.float32)
    return {
        "float64 sum": refused(lambda: group.all_reduce(ones.astype(np.float64))),
        "bfloat16 prod": refused(lambda: group.all_reduce(np.ones(2, np.int16), 1, BFLOAT16)),
        "int16 prod": refused(lambda: group.all_reduce(np.ones(2, np.int16), 1)),
        "int16 max": refused(lambda: group.all_reduce(np.ones(2, np.int16), 2)),
        "int64 sum": refused(lambda: group.all_reduce(np.ones(2, np.int64))),
        "average": refused(lambda: group.all_reduce(ones, 4)),
        "float32 sum": refused(lambda: group.all_reduce(ones)),
    }


def use_after_destroy(folder: str) -> tuple[int, str]:
    group = join(folder)
    group.destroy()
    return refused(lambda: group.all_reduce(np.ones(2, np.float32)))
