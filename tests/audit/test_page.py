from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flexattn.audit.findings import Finding
from flexattn.audit.page import page, page_episode
from flexattn.audit.schema import TRAIN_FIELDS
from flexattn.audit.verify import Report

SETTINGS = {"history_chars": [2, 4], "hit_cap_chars": [3, 6], "semantic_gate": 0.75, "eta1": 0.15,
            "eta2": 1.0, "bonus": "gated"}  # fmt: skip
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=8000", "--dump-dom",
]  # fmt: skip


def step(t: int, hit: bool, **changes: Any) -> dict[str, Any]:
    values = {"int": 1, "float": 0.5, "str": "-", "text": "茶", "short": "00000000"}
    base = {f.name: values[f.kind] for f in TRAIN_FIELDS if not f.optional}
    seg = {"seg": "茶叶", "len": 2, "pos": f"t{t}-{t + 1}"} if hit else {"len": 0}
    return {**base, "step": t + 1, "Lh": 4, "Lp": 3, **seg, **changes}


def an_episode(ep: int, size: int, **changes: Any) -> dict[str, Any]:
    header = {
        "ep": ep, "env": 0, "record": "tea", "question": "什么是茶？", "catalog": "0" * 64,
        "split": "train",
    }  # fmt: skip
    steps = [step(t, t % 5 == 0, **changes) for t in range(size)]
    return page_episode(header, steps, ("r/steps-00000.jsonl", 2), "茶叶。", [[0.0, 0.1]] * size)


def a_page(
    episodes: list[dict[str, Any]], findings: list[Finding] | None = None, **settings: Any
) -> str:
    report = Report("r", "train", findings=findings or [], lines=9, steps=7, numbers=True)
    entries = {"0" * 64: {"茶叶": {"id": 5, "term": "茶叶", "df": 3}}}
    return page(report, episodes, entries, {**SETTINGS, **settings})


def test_a_page_needs_no_other_file_and_no_network() -> None:
    text = a_page([an_episode(0, 9)])
    assert not re.search(r"""(src|href|url)\s*[=(]|https?://|@import|fetch\(|XMLHttp""", text)
    assert "default-src 'none'" in text


def test_nothing_logged_can_become_markup() -> None:
    text = a_page([an_episode(0, 2, note="</script><script>alert(1)</script>")])
    assert text.count("</script>") == 2
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert data["episodes"][0]["columns"]["note"][0].startswith("</script>")


def test_empty_columns_are_left_out() -> None:
    columns = an_episode(0, 3)["columns"]
    assert "w" not in columns
    assert "ep" not in columns


def dom_of(text: str, tmp_path: Path) -> str:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs Chromium")
    file = tmp_path / "page.html"
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True,
        check=True,
        timeout=120,
    )
    return done.stdout.decode("utf-8")


@pytest.mark.slow
def test_a_browser_shows_the_answer_its_hits_and_its_findings(tmp_path: Path) -> None:
    finding = Finding("number", "r/steps-00000.jsonl", 4, "reward is 1, derived 2", "reward", 1, 2)
    dom = dom_of(a_page([an_episode(0, 12), an_episode(1, 5)], [finding]), tmp_path)
    assert 'data-ready="1"' in dom
    assert dom.count('class="ch ') == 12
    assert dom.count('class="ch s0"') == 2
    assert dom.count('class="ch s1"') == 2
    assert 'class="c bad"' in dom
    assert "reward is 1, derived 2" in dom
    assert "Lp 6: ler 0.1" in dom  # the alternatives of the first step
    assert "<dd>茶叶</dd>" in dom  # its catalog entry


@pytest.mark.slow
@pytest.mark.parametrize(("bonus", "marks"), [("gated", 3), ("hard", 0)])
def test_a_hard_bonus_has_no_gate_that_could_be_open_or_shut(
    tmp_path: Path, bonus: str, marks: int
) -> None:
    dom = dom_of(a_page([an_episode(0, 12)], bonus=bonus), tmp_path)
    table = dom.partition('id="hits"')[2].partition("</table>")[0]
    assert table.count("shut, below 0.75") == marks
    assert table.count("<th>gate</th>") == (marks > 0)
    assert dom.count("hits and gate</h2>") == (marks > 0)


@pytest.mark.slow
def test_ten_thousand_steps_are_filtered_and_scrolled_in_no_time(tmp_path: Path) -> None:
    text = a_page([an_episode(n, 100) for n in range(100)])
    timing = """<script>
      const rows = document.getElementById("rows"), term = document.getElementById("term");
      const best = (turns, job) => { const took = [];
        for (let i = 0; i < turns; i++) { const t = performance.now();
          job(i); document.body.offsetHeight; took.push(performance.now() - t); }
        return Math.min(...took); };
      document.body.dataset.times = [
        best(5, i => { term.value = i % 2 ? "" : "茶叶"; filter(); }),
        best(50, i => { rows.scrollTop = i * 700; paint(); }),
        best(20, i => open(i, 5)) ].join(" ");
    </script></body>"""
    dom = dom_of(text.replace("</body>", timing), tmp_path)
    found = re.search(r'data-times="([^"]*)"', dom)
    assert found
    filtering, scrolling, opening = map(float, found.group(1).split())
    assert filtering < 250
    assert scrolling < 50
    assert opening < 250
    assert dom.count('class="row"') < 50  # of 10,000


@pytest.mark.slow
def test_a_finding_and_the_keys_lead_to_their_step(tmp_path: Path) -> None:
    # an episode of 5 steps has its lines 2..6 here, so line 5 is its fourth step
    finding = Finding("number", "r/steps-00000.jsonl", 5, "reward is 1, derived 2", "reward", 1, 2)
    press = """<script>
      const said = [];
      const key = name => { document.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
        said.push(state.episode + "/" + state.step); };
      const old = document.onkeydown, target = { value: document.body };
      document.onkeydown = ev => old(Object.defineProperty(ev, "target", target));
      document.querySelector(".find.here").click();
      said.push(state.episode + "/" + state.step);
      for (const way of ["Right", "Right", "Left", "Down", "Up"]) key("Arrow" + way);
      key("f");
      document.body.dataset.said = said.join(" ");
    </script></body>"""
    text = a_page([an_episode(0, 5), {**an_episode(1, 5), "line": 20}], [finding])
    dom = dom_of(text.replace("</body>", press), tmp_path)
    assert 'data-said="0/3 0/4 0/4 0/3 1/0 0/0 0/3"' in dom
