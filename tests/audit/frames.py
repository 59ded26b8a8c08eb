"""Frame times of a replay's page in headless Chromium, in real time.

    python -m flexattn.replay logs/medical --html page.html
    python tests/audit/frames.py page.html [screenshot.png]

Each job is done once a frame, and the time from one frame to the next is taken: 16.7 ms at best.
"""

from __future__ import annotations

import http.server
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from pathlib import Path

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--remote-debugging-port=0",
    "--disable-gpu",
    "--no-first-run",
    "--window-size=1500,1000",
]
SCRIPT = """<script>
  const rows = document.getElementById("rows"), find = document.getElementById("find");
  const jobs = {
    "nothing": [120, i => {}],
    "scroll the table of steps, 3 rows a frame": [240, i => { rows.scrollTop = i * 66; }],
    "scroll the table of steps, 32 rows a frame": [120, i => { rows.scrollTop = i * 704; }],
    "open an episode": [100, i => open(state.filtered[i % state.filtered.length], 5)],
    "filter all steps": [20, i => { find.value = i % 2 ? "1" : ""; filter(); }],
  };
  const out = {}, names = Object.keys(jobs);
  const run = name => {
    if (!name) { location.href = "/done?" + encodeURIComponent(JSON.stringify(out)); return; }
    const [turns, job] = jobs[name], took = out[name] = []; let i = 0, before = 0;
    const frame = now => { if (i) took.push(now - before); before = now;
      if (i++ < turns) { job(i); requestAnimationFrame(frame); } else run(names.shift()); };
    requestAnimationFrame(frame); };
  setTimeout(() => run(names.shift()), 1000);
</script></body>"""


def frames(page: str) -> dict[str, list[float]]:
    """Milliseconds from frame to frame, by job."""
    found: dict[str, list[float]] = {}
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/done":
                found.update(json.loads(urllib.parse.unquote(query)))
                done.set()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode() if path == "/" else b"")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as profile:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        browser = subprocess.Popen(
            [
                "chromium",
                *FLAGS,
                f"--user-data-dir={profile}",
                "--remote-debugging-port=0",
                address,
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            if not done.wait(300):
                raise SystemExit("the page did not answer within 300 s")
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    return found


def main(file: Path, picture: Path | None) -> None:
    """Print the table; take a screenshot where one is asked for."""
    page = file.read_text(encoding="utf-8")
    print("| what | frames | median | 95 % | most |")
    print("|---|---|---|---|---|")
    for name, took in frames(page.replace("</body>", SCRIPT)).items():
        ranked = sorted(took)
        high = ranked[int(0.95 * len(ranked))]
        print(
            f"| {name} | {len(took)} | {statistics.median(took):.1f} | {high:.1f} "
            f"| {ranked[-1]:.1f} |"
        )
    if picture:
        subprocess.run(
            ["chromium", *FLAGS, f"--screenshot={picture}", file.resolve().as_uri()],
            stderr=subprocess.DEVNULL,
            check=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
