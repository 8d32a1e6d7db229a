"""Measure one-word embeddings asked of one real engine directly and through the proxy, in turn."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from bench_proxy import run_wrk  # noqa: E402

from tests.support.service import run_program, running_service  # noqa: E402

MODEL = "all-minilm-l6-v2"
PATH = "/v1/embeddings"
#: A new word each time, so that nothing is answered from memory or computed once for two.
SCRIPT = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
local number = 0
request = function()
  number = number + 1
  return wrk.format(nil, nil, nil, '{{"model": "{model}", "input": "word' .. number .. '"}}')
end
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the engine; by default every core")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "one.toml"
        threads = f"threads = {options.threads}\n" if options.threads else ""
        config.write_text(f'[models."{MODEL}"]\nreplicas = 1\n{threads}')
        extra = {
            "LLAMAFILE_MGR_SERVE_CACHE_BYTES": "0",
            "LLAMAFILE_MGR_CONFIG": str(config),
        }
        home = ROOT / "tests" / ".cache" / "home"
        run_program(home, "pull", MODEL)
        with running_service(home, MODEL, extra=extra) as service:
            port = service.url.rsplit(":", 1)[1]
            shown = run_program(home, "status", "--port", port, "--json", extra=extra).stdout
            [engine] = json.loads(shown)["models"][0]["engines"]
            [key_file] = home.rglob(f"serve-{service.process.pid}/*.key")
            script = Path(folder) / "post.lua"
            script.write_text(SCRIPT.format(key=key_file.read_text().strip(), model=MODEL))
            urls = {"direct": f"http://127.0.0.1:{engine['port']}", "ours": service.url}
            found: dict[tuple[str, int], list[float]] = {}
            for _ in range(options.rounds):
                for connections in (1, 8):
                    for name, url in urls.items():
                        measured = run_wrk(url + PATH, connections, options.seconds, script)
                        found.setdefault((name, connections), []).append(measured.rate)
    for connections, wanted in ((1, 0.8), (8, 0.95)):
        direct, ours = found["direct", connections], found["ours", connections]
        ratios = [mine / other for mine, other in zip(ours, direct, strict=True)]
        print(
            f"{connections} connections: direct {statistics.median(direct):.0f}/s, "
            f"ours {statistics.median(ours):.0f}/s, ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}), wanted >= {wanted}"
        )


if __name__ == "__main__":
    main()
