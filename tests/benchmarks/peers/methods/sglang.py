"""SGLang's own `bench_one_batch`, in its own process: without its scheduler, greedy, and it waits for each step.

It is told the row's shape and what every engine is given; all else is what a user of the tool gets.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import tokenizer

CALLS = 10


def times(spec):
    """Seconds of each timed call: a batch of random prompts, from before its first pass to its last token."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.write(folder, spec["model"]["vocabulary"])
        found = Path(folder) / "found.jsonl"
        command = [sys.executable, "-m", "sglang.benchmark.one_batch", "--model-path", spec["folder"]]
        command += ["--tokenizer-path", folder, "--dtype", spec["dtype"], "--disable-radix-cache"]
        command += ["--mem-fraction-static", str(spec["memory_fraction"]), "--result-filename", str(found)]
        command += ["--batch-size", str(spec["batch"]), "--input-len", str(spec["prompt_length"])]
        # Its own warm-up decodes 32 tokens at most: the first whole call is left out.
        command += ["--output-len", *[str(spec["new_tokens"])] * (CALLS + 1)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return [json.loads(line)["total_latency"] for line in found.read_text().splitlines()][1:]
