"""Work for torch's own threads: those of its OpenMP, which wait for the next operation beside ours.

Rule: a counter hands out shares of the items, so who takes which is left open; what an item computes must not depend
on it. After an operation of torch its threads spin for some milliseconds. Threads of our own would share cores with
them; asked through the same OpenMP they begin at once.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["openmp", "shared"]

_INDEX, _NUMBER = ir.IntType(64), ir.IntType(32)
_ANY = ir.IntType(8).as_pointer()  # C's void *
_JOB = ir.FunctionType(ir.VoidType(), [_ANY])
_START = ir.FunctionType(ir.VoidType(), [_JOB.as_pointer(), _ANY, _NUMBER, _NUMBER])
_COUNTER, _SHARE, _ITEMS, _FAILED, _GIVEN = range(5)  # what the threads have in common

_forked = False


def _fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork)


def openmp() -> int:
    """Where the GOMP_parallel that torch calls lies in memory.

    0 where torch comes with an OpenMP that has none, and after a fork, which its threads do not survive.
    """
    return 0 if _forked else _found()


@lru_cache(maxsize=1)
def _found() -> int:
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        start = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(start, ctypes.c_void_p).value or 0


def shared(task: Any) -> Any:
    """An operation for compiled code that does a compiled task with several threads.

    `task(*given, first, last)` does items first .. last - 1. The operation takes (start, threads,
    share, items, given): `openmp()`, how many threads, how many items at a time, how many in all.
    It returns 0, or 1 where a task failed.
    """

    @intrinsic
    def share_out(typing_context, start, threads, share, items, given):  # type: ignore[no-untyped-def]
        wanted = (*given.types, types.intp, types.intp)
        task.get_call_template(wanted, {})  # compiles it

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            compiled = task.overloads[wanted]
            context.add_linking_libs([compiled.library])
            start, threads, share, items, values = args
            common = ir.LiteralStructType([_INDEX] * _GIVEN + [values.type])
            frame = cgutils.alloca_once(builder, common)
            none = _INDEX(0)
            for place, value in enumerate((none, share, items, none, values)):
                builder.store(value, _at(builder, frame, place))
            job = ir.Function(builder.module, _JOB, builder.module.get_unique_name("share"))
            job.linkage = "internal"
            _work(context, ir.IRBuilder(job.append_basic_block()), job, common, compiled)
            call = builder.inttoptr(start, _START.as_pointer())
            number = builder.trunc(threads, _NUMBER)
            builder.call(call, [job, builder.bitcast(frame, _ANY), number, _NUMBER(0)])
            return builder.load(_at(builder, frame, _FAILED))

        return types.intp(types.intp, types.intp, types.intp, types.intp, given), generate

    return share_out


def _at(builder: Any, frame: Any, place: int) -> Any:
    return builder.gep(frame, [_NUMBER(0), _NUMBER(place)], inbounds=True)


def _work(context: Any, builder: Any, job: Any, common: Any, compiled: Any) -> None:
    """One thread's part: shares until the counter is past the last item."""
    frame = builder.bitcast(job.args[0], common.as_pointer())
    share, items = (builder.load(_at(builder, frame, place)) for place in (_SHARE, _ITEMS))
    given = cgutils.unpack_tuple(builder, builder.load(_at(builder, frame, _GIVEN)))
    taking, done = (job.append_basic_block(name) for name in ("taking", "done"))
    builder.branch(taking)
    builder.position_at_end(taking)
    first = builder.atomic_rmw("add", _at(builder, frame, _COUNTER), share, "seq_cst")
    with builder.if_then(builder.icmp_signed(">=", first, items), likely=False):
        builder.branch(done)
    past = builder.add(first, share)
    last = builder.select(builder.icmp_signed("<", past, items), past, items)
    status, _ = context.call_internal_no_propagate(
        builder, compiled.fndesc, compiled.signature, [*given, first, last]
    )
    with builder.if_then(status.is_error, likely=False):
        builder.store(_INDEX(1), _at(builder, frame, _FAILED))
    builder.branch(taking)
    builder.position_at_end(done)
    builder.ret_void()
