"""Windowed attention beside FlexAttention, SDPA and a compiled loop, in one run.

On a GPU: medians of CUDA events around single calls that were queued ahead, on data ten times the
L2 cache (decoding: on caches in rotation, in a CUDA graph). `floor` is arithmetic, bytes that must
move over the bandwidth of a large copy measured first: forward q, k, v, o; backward q, k, v, do,
dq, dk, dv. On a CPU: the best of several calls, taken in turn with the peers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexattn.attention import local_attention, local_attention_multi
from flexattn.attention.cache import SinkLocalCache
from flexattn.attention.patterns import SinkLocal, sink_local_attention
from flexattn.bench import Row

CHOICES = (2, 3, 4, 6)
Job = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """Sequences under windows drawn from CHOICES."""

    batch: int
    length: int
    heads: int
    dim: int
    dtype: torch.dtype

    def __str__(self) -> str:
        kind = {torch.bfloat16: "bf16", torch.float32: "fp32"}[self.dtype]
        return f"B{self.batch} T{self.length} H{self.heads} D{self.dim} {kind}"

    def tensors(self, device: str, count: int) -> list[Tensor]:
        """`count` random [B, H, T, D]."""
        shape = (self.batch, self.heads, self.length, self.dim)
        return [torch.randn(shape, device=device, dtype=self.dtype) for _ in range(count)]

    def window(self, device: str) -> Tensor:
        """[B, T] int32."""
        pick = torch.randint(0, len(CHOICES), (self.batch, self.length), device=device)
        return torch.tensor(CHOICES, dtype=torch.int32, device=device)[pick]

    @property
    def stream_mb(self) -> float:
        """One tensor, megabytes of 10^6."""
        size = torch.finfo(self.dtype).bits // 8
        return self.batch * self.length * self.heads * self.dim * size / 1e6


GPU_WORK = (
    Work(4096, 128, 4, 32, torch.bfloat16),
    Work(1024, 512, 4, 64, torch.bfloat16),
    Work(4096, 128, 4, 32, torch.float32),
)
CPU_WORK = Work(256, 128, 4, 32, torch.float32)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `flexattn bench attention`."""
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cuda where there is one"
    )
    parser.add_argument("--no-peers", action="store_true", help="measure this library alone")
    parser.add_argument("--rounds", type=int, default=20, help="calls of each measurement")


def run(args: argparse.Namespace) -> Iterator[Row]:
    """Every case of one device."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    if device == "cpu":
        yield from _cpu(args)
        return
    from benchmarks import attention_peers

    bandwidth = _bandwidth(args.rounds)
    yield _row("copy of 1 GiB, GB/s as 10^-3 ms a GB", "torch.copy_", 1e3 / bandwidth)
    for work in GPU_WORK:
        peers = {} if args.no_peers else attention_peers.windowed(work)
        yield from _windowed(work, bandwidth, args.rounds, peers)
    yield from _long(args, attention_peers)
    yield from _decode(args)


def _row(case: str, subject: str, milliseconds: float) -> Row:
    return Row("attention", case, subject, milliseconds, "ms")


def timed(job: Job, rounds: int) -> float:
    """Median milliseconds of one call on the GPU, calls queued behind a long sleep."""
    for _ in range(3):
        job()
    torch.cuda.synchronize()
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    torch.cuda._sleep(30_000_000)
    for begin, end in marks:
        begin.record()
        job()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in marks)


def _bandwidth(rounds: int) -> float:
    """GB/s of a large copy, reads and writes counted."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / timed(lambda: target.copy_(source), rounds) / 1e6


def _windowed(work: Work, bandwidth: float, rounds: int, peers: dict[str, object]) -> Iterator[Row]:
    q, k, v, do = work.tensors("cuda", 4)
    window = work.window("cuda")
    stream = work.stream_mb / bandwidth  # milliseconds
    bound = max(CHOICES)

    forward = lambda: local_attention(q, k, v, window, max_window=bound)  # noqa: E731
    yield _row(f"forward {work}", "flexattn", timed(forward, rounds))
    yield _row(f"forward {work}", "floor", 4 * stream)
    several = lambda: local_attention_multi(q, k, v, CHOICES)  # noqa: E731
    yield _row(f"forward, 4 windows {work}", "flexattn", timed(several, rounds))
    yield _row(f"forward, 4 windows {work}", "floor", 7 * stream)
    for subject, prepare in peers.items():
        yield from _peer_rows(
            work, f"forward {work}", subject, prepare, (q, k, v), window, None, rounds
        )

    for x in (q, k, v):
        x.requires_grad_()

    def both() -> object:
        return torch.autograd.grad(
            local_attention(q, k, v, window, max_window=bound), (q, k, v), do
        )

    yield _row(f"forward + backward {work}", "flexattn", timed(both, rounds))
    yield _row(f"forward + backward {work}", "floor", 11 * stream)
    case = f"forward + backward {work}"
    for subject, prepare in peers.items():
        yield from _peer_rows(work, case, subject, prepare, (q, k, v), window, do, rounds)
    stacked = torch.stack([do] * len(CHOICES))

    def both_several() -> object:
        return torch.autograd.grad(local_attention_multi(q, k, v, CHOICES), (q, k, v), stacked)

    yield _row(f"forward + backward, 4 windows {work}", "flexattn", timed(both_several, rounds))
    yield _row(f"forward + backward, 4 windows {work}", "floor", (7 + 10) * stream)


def _peer_rows(
    work: Work,
    case: str,
    subject: str,
    prepare: object,
    qkv: tuple[Tensor, Tensor, Tensor],
    window: Tensor,
    do: Tensor | None,
    rounds: int,
) -> Iterator[Row]:
    """A peer's mask and its attention apart."""
    assert callable(prepare)
    build, attend = prepare(window)
    if do is None:
        yield _row(f"mask {work}", subject, timed(build, rounds))
    mask = build()
    if do is None:
        yield _row(case, subject, timed(lambda: attend(*qkv, mask), rounds))
    else:
        job = lambda: torch.autograd.grad(attend(*qkv, mask), qkv, do)  # noqa: E731
        yield _row(case, subject, timed(job, rounds))


def _long(args: argparse.Namespace, peers: object) -> Iterator[Row]:
    """One sink and seven locals of 128 at 128K."""
    length, heads, kv_heads, dim = 131_072, 32, 8, 128
    q, k, v = (
        torch.randn(1, h, length, dim, device="cuda", dtype=torch.bfloat16)
        for h in (heads, kv_heads, kv_heads)
    )
    pattern = SinkLocal(1, 7)
    rounds = max(3, args.rounds // 2)
    case = "sink 1 + local 7, T131072 H32/8 D128 bf16, forward"
    job = lambda: sink_local_attention(q, k, v, pattern)  # noqa: E731
    yield _row(case, "flexattn", timed(job, rounds))
    if not args.no_peers:
        attend = peers.sink_local(pattern, length)  # type: ignore[attr-defined]
        yield _row(case, "flex_attention", timed(lambda: attend(q, k, v), rounds))
    for x in (q, k, v):
        x.requires_grad_()
    do = torch.randn_like(q)
    case = case.replace("forward", "forward + backward")

    def both() -> object:
        return torch.autograd.grad(sink_local_attention(q, k, v, pattern), (q, k, v), do)

    yield _row(case, "flexattn", timed(both, rounds))
    if not args.no_peers:
        job = lambda: torch.autograd.grad(attend(q, k, v), (q, k, v), do)  # noqa: E731
        yield _row(case, "flex_attention", timed(job, rounds))


def graphed(jobs: Sequence[Job]) -> Job:
    """The replay of a CUDA graph of these calls."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for job in jobs:
            job()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for job in jobs:
            job()
    return graph.replay


def _decode(args: argparse.Namespace) -> Iterator[Row]:
    """One step at position 131,000, kernel time inside a CUDA graph."""
    heads, kv_heads, dim, length = 32, 8, 128, 131_072
    for batch, caches in ((1, 64), (16, 4)):
        steps: list[Job] = []
        for _ in range(caches):
            cache = SinkLocalCache(
                batch, kv_heads, dim, SinkLocal(1, 7), dtype=torch.bfloat16, device="cuda"
            )
            cache.keys.normal_()
            cache.values.normal_()
            cache.position.fill_(131_000 - 40 * args.rounds)
            q = torch.randn(batch, heads, dim, device="cuda", dtype=torch.bfloat16)
            new = torch.randn(batch, kv_heads, dim, device="cuda", dtype=torch.bfloat16)
            steps.append(lambda cache=cache, q=q, new=new: cache.step(q, new, new))  # type: ignore[misc]
        case = f"decode at 128K, B{batch} H32/8 D128 bf16"
        yield _row(case, "flexattn", timed(graphed(steps), args.rounds) / caches)
        k, v = (
            torch.randn(batch, kv_heads, length, dim, device="cuda", dtype=torch.bfloat16)
            for _ in range(2)
        )
        row = q[:, :, None]

        def full(row: Tensor = row, k: Tensor = k, v: Tensor = v) -> object:
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(row, k, v, enable_gqa=True)

        yield _row(case, "torch.sdpa, all keys", timed(graphed([full] * 4), 5) / 4)
        del k, v
        torch.cuda.empty_cache()


def _cpu(args: argparse.Namespace) -> Iterator[Row]:
    from benchmarks import attention_peers

    work = CPU_WORK
    q, k, v, do = work.tensors("cpu", 4)
    for x in (q, k, v):
        x.requires_grad_()
    window = work.window("cpu")
    jobs: dict[str, Job] = {
        "flexattn": lambda: local_attention(q, k, v, window, "banded"),
    }
    if not args.no_peers:
        mask = attention_peers.dense_mask(window)
        jobs["torch.sdpa"] = lambda: attention_peers.sdpa(q, k, v, mask)
        shift = attention_peers.compiled_shift(max(CHOICES))
        if shift is not None:
            jobs["compiled shift loop"] = lambda: shift(q, k, v, window)
    found: dict[str, list[float]] = {f"{part} {name}": [] for name in jobs for part in ("f", "fb")}
    for turn in range(args.rounds + 2):
        for name, job in jobs.items():
            begin = time.perf_counter()
            out = job()
            middle = time.perf_counter()
            torch.autograd.grad(out, (q, k, v), do)  # type: ignore[arg-type]
            if turn > 1:
                found[f"f {name}"].append((middle - begin) * 1e3)
                found[f"fb {name}"].append((time.perf_counter() - begin) * 1e3)
    for part, case in (("f", "forward"), ("fb", "forward + backward")):
        for name in jobs:
            taken = found[f"{part} {name}"]
            yield _row(f"cpu {case} {work}, best", name, min(taken))
            yield _row(f"cpu {case} {work}, median", name, statistics.median(taken))
