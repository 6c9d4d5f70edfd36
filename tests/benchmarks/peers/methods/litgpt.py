"""LitGPT's own `LLM.benchmark`, which takes one prompt at a time, on a model of the row's shape with its own weights.

It streams: without that it calls `generate` twice and reports the time of both. Text is a part of what it times: the
prompt is encoded, and each new token decoded, by a tokenizer that is made here.
"""

import random
import tempfile

import tokenizer

WARM, CALLS = 3, 10
PRECISIONS = {"bfloat16": "bf16-true", "float16": "16-true", "float32": "32-true"}


def refuse(spec):
    """Say that the tool takes no batch."""
    return None if spec["batch"] == 1 else "LLM.benchmark takes one prompt at a time"


def times(spec):
    """Seconds of each timed call: one random prompt, from its text to the last token's."""
    from lightning import Fabric
    from litgpt.api import LLM, Preprocessor
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.prompts import Default
    from litgpt.tokenizer import Tokenizer

    model, length = spec["model"], spec["prompt_length"]
    config = Config(
        block_size=length + spec["new_tokens"],
        n_layer=model["layers"],
        n_embd=model["width"],
        vocab_size=model["vocabulary"],
        padded_vocab_size=model["vocabulary"],
        n_head=model["heads"],
        n_query_groups=spec["kv_heads"],
        head_size=spec["head_size"],
        intermediate_size=model["mlp_width"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=model["norm_eps"],
        mlp_class_name="LLaMAMLP",
    )
    # As LLM.load does it for a folder of LitGPT's own kind.
    fabric = Fabric(accelerator=spec["device"], devices=1, precision=PRECISIONS[spec["dtype"]])
    with fabric.init_module(empty_init=False):
        made = GPT(config)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.write(folder, model["vocabulary"])
        preprocessor = Preprocessor(Tokenizer(folder), device=fabric.device)
    llm = LLM(
        model=fabric.setup_module(made.eval()),
        preprocessor=preprocessor,
        prompt_style=Default(),
        config=config,
        checkpoint_dir=None,
        fabric=fabric,
        generate_strategy=None,
        kv_cache_initialized=False,
        fixed_kv_cache_size=False,
    )
    draw, seconds = random.Random(0), []  # noqa: S311 - no secret
    for _ in range(WARM + CALLS):
        prompt = "".join(tokenizer.word(draw.randrange(model["vocabulary"])) for _ in range(length))
        _, said = llm.benchmark(prompt=prompt, max_new_tokens=spec["new_tokens"], stream=True)
        assert said["Tokens generated"] == [spec["new_tokens"]], said
        seconds += said["Seconds total"]
    return seconds[WARM:]
