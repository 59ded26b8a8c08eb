"""Random shapes: every output and gradient against float64, beside the same type's error.

Rule: with `own` the largest error that the reference makes in the inputs' own type, ours is within
2 own, or, where own is smaller than that by luck (short texts, zeros), within one rounding of its
largest value or within 4 roundings of float32 of the largest of all. New memory is filled with
NaN, and every gradient is computed twice, on a CPU by one thread and by three, and must be the same
bit for bit.

python -m benchmarks.attention_agreement --cases 600 --processes 12
python -m benchmarks.attention_agreement --device cpu --cases 600 --processes 1
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch
from torch import Tensor

from flexattn.attention import local_attention, local_attention_multi
from flexattn.attention.patterns import SinkLocal, episode_window, sink_local_attention

LENGTHS = (1, 2, 5, 6, 31, 63, 64, 65, 100, 127, 128, 129, 200, 300, 513, 1000)
HEADS = ((4, 4), (4, 2), (3, 1))
IMPLEMENTATION = {"cuda": "triton", "cpu": "banded"}
KINDS = {
    "cuda": ("row", "row", "head", "int", "multi", "episodes", "sinks"),
    "cpu": ("row", "row", "head", "int", "multi", "episodes"),
}
DIMS = {"cuda": (16, 24, 32, 64, 96, 128), "cpu": (8, 16, 24, 32, 64, 96, 128)}
TYPES = {"cuda": (torch.bfloat16, torch.float16, torch.float32), "cpu": (torch.float32,)}
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 2**-23}


@dataclass(frozen=True)
class Case:
    """One shape."""

    device: str
    seed: int
    kind: str  # "row", "head", "int", "multi", "episodes", "sinks"
    batch: int
    length: int
    heads: tuple[int, int]
    dim: int
    widest: int
    dtype: torch.dtype
    small: bool  # int8 windows
    positions_outside: bool  # [B, T, H, D] in memory
    slopes: bool


def draw(device: str, seed: int) -> Case:
    """The case of a seed; types, heads and D are drawn first, since these are compiled in."""
    rng = random.Random(seed % 128)
    kind = rng.choice(KINDS[device])
    dtype, heads = rng.choice(TYPES[device]), rng.choice(HEADS)
    dim = rng.choice(DIMS[device])
    small, slopes = rng.random() < 0.3, rng.random() < 0.2
    rng = random.Random(seed)
    length = rng.choice(LENGTHS)
    widest = min(rng.choice((1, 2, 4, 6, 8, 9, 16, 17, 30, 33, 64, 100, 250)), max(1, 2 * length))
    if small:
        widest = min(widest, 127)
    batch, outside = rng.choice((1, 2, 3, 5)), rng.random() < 0.5
    return Case(
        device, seed, kind, batch, length, heads, dim, widest, dtype, small, outside, slopes
    )


def attend(case: Case, generator: torch.Generator) -> Callable[[list[Tensor], str], Tensor]:
    """The call of a case, for any inputs and implementation."""
    heads, shape = case.heads[0], (case.batch, case.length)
    slopes = None
    if case.slopes:
        slopes = torch.rand(heads, generator=generator, device=case.device)
    if case.kind == "multi":
        widths = tuple(sorted({1, 2, 3, case.widest}))
        return lambda x, impl: local_attention_multi(*x, widths, impl, slopes=slopes)
    if case.kind == "int":
        return lambda x, impl: local_attention(*x, case.widest, impl, slopes=slopes)
    if case.kind == "sinks":
        rng = random.Random(case.seed)
        pattern = SinkLocal(
            tuple(rng.choice((0, 1, 2)) for _ in range(heads)),
            tuple(rng.choice((1, 2, 7)) for _ in range(heads)),
        )
        return lambda x, impl: sink_local_attention(*x, pattern, impl, slopes=slopes)
    if case.kind == "head":
        shape = (case.batch, heads, case.length)
    kind = torch.int8 if case.small else torch.int32
    window = torch.randint(1, case.widest + 1, shape, generator=generator, device=case.device).to(
        kind
    )
    if case.kind == "episodes":
        starts = torch.rand(shape, generator=generator, device=case.device) < 0.1
        window = episode_window(window, starts)
    return lambda x, impl: local_attention(*x, window, impl, slopes=slopes)


def errors(case: Case) -> list[tuple[str, float, float, float]]:
    """(name, our error, the reference's own, largest value) of the output and each gradient."""
    generator = torch.Generator(case.device).manual_seed(case.seed)
    call = attend(case, generator)

    def random_rows(heads: int) -> Tensor:
        shape = (case.batch, case.length, heads, case.dim)
        x = (
            torch.randn(shape, generator=generator, device=case.device)
            .transpose(1, 2)
            .to(case.dtype)
        )
        return x if case.positions_outside else x.contiguous()

    inputs = [random_rows(heads) for heads in (case.heads[0], case.heads[1], case.heads[1])]
    slot = torch.Generator(case.device).manual_seed(case.seed + 1)

    def both(impl: str, dtype: torch.dtype, threads: int = 1) -> list[Tensor]:
        torch.set_num_threads(threads)
        x = [y.detach().to(dtype).requires_grad_() for y in inputs]
        out = call(x, impl)
        slot.manual_seed(case.seed + 1)
        do = torch.randn(out.shape, generator=slot, device=case.device).to(case.dtype).to(dtype)
        return [out.detach(), *torch.autograd.grad(out, x, do)]

    impl = IMPLEMENTATION[case.device]
    ours, again = both(impl, case.dtype), both(impl, case.dtype, threads=3)
    own, truth = both("reference", case.dtype), both("reference", torch.float64)
    found = []
    for name, a, b, c, d in zip(("o", "dq", "dk", "dv"), ours, again, own, truth):
        if not torch.equal(a, b):
            raise AssertionError(f"{name} differs between two runs: {case}")
        found.append(
            (
                name,
                (a.double() - d).abs().max().item(),
                (c.double() - d).abs().max().item(),
                d.abs().max().item(),
            )
        )
    return found


def check(device: str, seeds: list[int]) -> tuple[int, list[str], dict[str, float]]:
    """Cases done, what failed, and the largest ratio of errors of each type and tensor."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    failed, worst = [], {}
    for seed in seeds:
        case = draw(device, seed)
        try:
            found = errors(case)
            scale = max(largest for *_, largest in found)
            for name, ours, own, largest in found:
                floor = max(ROUNDING[case.dtype] * largest, 2**-21 * scale)
                if not ours <= max(2 * own, floor):
                    failed.append(f"{name}: {ours:.3g}, own {own:.3g}, of {largest:.3g}: {case}")
                if own > floor / 2:
                    key = f"{str(case.dtype)[6:]} {name}"
                    worst[key] = max(worst.get(key, 0.0), ours / own)
        except Exception as error:  # the sweep goes on and reports
            failed.append(f"{type(error).__name__} {str(error)[:200]}: {case}")
    return len(seeds), failed, worst


def beyond_float32() -> str:
    """Scores that a pivot from the own block can't hold: the kernel has to start again."""
    case = Case("cuda", 0, "sinks", 1, 640, (4, 2), 64, 1, torch.bfloat16, False, False, False)
    generator = torch.Generator("cuda").manual_seed(3)
    q, k, v = (torch.randn(1, h, 640, 64, generator=generator, device="cuda") for h in (4, 2, 2))
    k[:, :, 5] *= 200  # a sink that wins by far
    x = [y.to(case.dtype) for y in (q, k, v)]
    ours = sink_local_attention(*x, SinkLocal(1, 2), "triton")
    truth = sink_local_attention(*(y.double() for y in x), SinkLocal(1, 2), "reference")
    own = sink_local_attention(*x, SinkLocal(1, 2), "reference")
    error, same = ((y.double() - truth).abs().max().item() for y in (ours, own))
    if not error <= max(2 * same, 2**-8 * truth.abs().max().item()):
        raise AssertionError(f"scores beyond float32: error {error:.3g}, own {same:.3g}")
    return f"scores beyond float32: error {error:.3g}, own {same:.3g}"


def main() -> int:
    """Run the sweep; 1 where a case fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--processes", type=int, default=8)
    args = parser.parse_args()
    if args.device == "cuda":
        print(beyond_float32(), flush=True)
    parts = [list(range(n, args.cases, 128)) for n in range(128)]  # a part compiles little
    done, failed, worst = 0, [], {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=context) as pool:
        futures = [pool.submit(check, args.device, part) for part in parts if part]
        for future in as_completed(futures):
            count, bad, ratios = future.result()
            done += count
            failed += bad
            for key, ratio in ratios.items():
                worst[key] = max(worst.get(key, 0.0), ratio)
    print("\n".join(failed[:20]))
    for key in sorted(worst):
        print(f"{key:14s} largest error over the reference's own: {worst[key]:.2f}")
    print(f"{done} cases, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
