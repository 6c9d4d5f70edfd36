"""vLLM's own `vllm bench latency`, with its own counts of calls, in its own processes.

It is told the row's shape and what every engine is given; all else is what a user of the tool gets.
"""

import json
import os
import subprocess
import sys
import tempfile

# The command `vllm` asks for the version of the package `vllm`, which its build for CPUs does not have.
TOOL = """
from vllm.benchmarks import latency
from vllm.utils.argparse_utils import FlexibleArgumentParser
if __name__ == "__main__":
    parser = FlexibleArgumentParser()
    latency.add_cli_args(parser)
    latency.main(parser.parse_args())
"""


def times(spec):
    """Seconds of each timed call: a batch of random prompts from the first token to the last, all given at once."""
    memory = ["--gpu-memory-utilization", str(spec["memory_fraction"])]
    on_its_device = memory if spec["device"] == "cuda" else ["--enforce-eager"]
    shape = {"batch-size": "batch", "input-len": "prompt_length", "output-len": "new_tokens", "dtype": "dtype"}
    with tempfile.NamedTemporaryFile(suffix=".json") as found:
        command = [sys.executable, "-c", TOOL, "--model", spec["folder"]]
        command += [part for option, name in shape.items() for part in (f"--{option}", str(spec[name]))]
        command += ["--max-model-len", str(spec["prompt_length"] + spec["new_tokens"] + 1), *on_its_device]
        # The folder has no tokenizer.
        command += ["--skip-tokenizer-init", "--disable-detokenize", "--output-json", found.name]
        subprocess.run(command, check=True, stdout=sys.stderr, env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ})
        return json.load(found)["latencies"]
