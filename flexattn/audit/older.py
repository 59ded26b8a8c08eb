"""Logs of the older form are read too, and checked for what they hold: each line by itself.

The older form has step, Lh, Lp, a, seg, len, idf, sim, delta, ler and at times a length cost,
spelled `len_cos`; no episode, no entry, no seal. Nothing can be said about changes, but

    delta = lambda_lex max(0, sim - tau) idf        len = characters of seg <= Lp
    len_cost = lambda_h (Lh / L_max)^alpha_h + lambda_p (Lp / L_max)^alpha_p
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any

from flexattn.audit.findings import Finding
from flexattn.audit.schema import MAX_LINE_BYTES
from flexattn.config import RewardSection

KEYS = ("step", "Lh", "Lp", "a", "seg", "len", "idf", "sim", "delta", "ler")
COSTS = ("len_cost", "len_cos")
WHOLE = ("step", "Lh", "Lp", "len")
ENOUGH_DIGITS = 9  # so many decimals are a value, fewer are what print left of it


def check_older(
    lines: Iterable[bytes], name: str, reward: RewardSection, tau: float, longest: int
) -> Iterator[Finding]:
    """Every defect of a log of the older form.

    Args:
      lines: its lines.
      name: its file, for the findings.
      reward: weights of the run that wrote it.
      tau: semantic gate, similarity.
      longest: L_max, characters.
    """
    last = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        step = _parsed(line)
        if isinstance(step, str):
            yield Finding("not-json", name, number, step)
            continue
        for code, text, field, logged, derived in _defects(step, reward, tau, longest, last):
            yield Finding(code, name, number, text, field, logged, derived)
        if type(step.get("step")) is int:
            last = step["step"]


def _parsed(line: bytes) -> dict[str, Any] | str:
    """The values, numbers with a point as Decimal; in words why there are none."""
    if len(line) > MAX_LINE_BYTES:
        return f"the line is longer than {MAX_LINE_BYTES} bytes"

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def never(text: str) -> None:
        raise ValueError(f"{text} is no number")

    try:
        text = line.decode("utf-8")
        value = json.loads(text, parse_float=Decimal, parse_constant=never, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        return f"the line is no JSON: {str(error)[:80]}"
    return value if isinstance(value, dict) else "the line is no JSON object"


_Defect = tuple[str, str, str, Any, Any]


def _defects(
    step: Mapping[str, Any], reward: RewardSection, tau: float, longest: int, last: int
) -> Iterator[_Defect]:
    missing = next((key for key in KEYS if key not in step), None)
    if missing:
        yield "schema", f"{missing} is missing", missing, None, None
        return
    for key in KEYS:
        wanted: tuple[type, ...] = (int,) if key in WHOLE else (int, Decimal)
        wanted = (str,) if key in ("a", "seg") else wanted
        if type(step[key]) not in wanted:
            text = (
                f"{key} is {step[key]!r}, expected {'a text' if wanted == (str,) else 'a number'}"
            )
            yield "schema", text, key, str(step[key]), None
            return
    if step["step"] != last + 1:
        text = f"step is {step['step']}, expected {last + 1}: steps jump"
        yield "step-order", text, "step", step["step"], last + 1
    if step["a"] == " ":
        yield "blank", "a is a blank: a mark of the text was lost here", "a", " ", None
    seg = "" if step["seg"] == "-" else step["seg"]
    if step["len"] != len(seg):
        text = f"len is {step['len']}, {seg or 'no term'} has {len(seg)} characters"
        yield "length", text, "len", step["len"], len(seg)
    if len(seg) > step["Lp"]:
        text = f"Lp is {step['Lp']}, but {seg} has {len(seg)} characters and may not hit"
        yield "over-cap", text, "Lp", step["Lp"], len(seg)
    if seg and not seg.startswith(step["a"]):
        yield "hit", f"seg is {seg}, which does not start with a", "seg", seg, None
    gain = reward.lambda_lex * max(0.0, float(step["sim"]) - tau) * float(step["idf"])
    delta = gain if seg else 0.0
    yield from _number(step, "delta", delta)
    if step["ler"] != step["delta"]:
        yield from _number(step, "ler", delta)
    yield from _cost(step, reward, longest)


def _number(step: Mapping[str, Any], key: str, derived: float) -> Iterator[_Defect]:
    logged = Decimal(step[key])
    places = -int(logged.as_tuple().exponent)
    exact = Decimal(repr(derived))
    unit = Decimal(1).scaleb(-places)
    if logged == exact.quantize(unit, ROUND_HALF_UP):
        return
    if places < ENOUGH_DIGITS and logged == exact.quantize(unit, ROUND_DOWN):
        text = f"{key} is {logged}, derived {derived:.6g}: cut to {places} decimals, not rounded"
        yield "digits", text, key, str(logged), derived
    else:
        text = f"{key} is {logged}, derived {derived:.6g}"
        yield "number", text, key, str(logged), derived


def _cost(step: Mapping[str, Any], reward: RewardSection, longest: int) -> Iterator[_Defect]:
    look = reward.lambda_h * (step["Lh"] / longest) ** reward.alpha_h
    cap = reward.lambda_p * (step["Lp"] / longest) ** reward.alpha_p
    derived = look + cap
    key = next((key for key in COSTS if key in step), None)
    if key is None:
        yield "cost", f"len_cost is missing, derived {derived:.6g}", "len_cost", None, derived
        return
    if key == "len_cos":
        yield "older-spelling", "len_cos is an older spelling of len_cost", key, key, "len_cost"
    logged = step[key]
    if type(logged) not in (int, Decimal):
        yield "schema", f"{key} is {logged!r}, expected a number", key, str(logged), derived
    elif not math.isclose(float(logged), derived, abs_tol=5e-4):
        part = math.isclose(float(logged), cap, abs_tol=5e-4)
        why = ": it lacks the part of Lh" if part else ""
        yield "cost", f"{key} is {logged}, derived {derived:.6g}{why}", key, str(logged), derived
