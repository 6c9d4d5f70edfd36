"""A made tokenizer, for tools that want one: each id is a word of its own, and text is read back as the ids it was."""

import json
from pathlib import Path


def write(folder, vocabulary):
    """Write tokenizer.json and its configuration; `<17><4>` is the ids 17 and 4."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    words = {word(token): token for token in range(vocabulary)}
    made = Tokenizer(models.WordLevel(words, unk_token=word(0)))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("<[0-9]+>"), "isolated")
    made.decoder = decoders.Fuse()
    made.save(str(Path(folder) / "tokenizer.json"))
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": word(0)}
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps(configuration))


def word(token):
    """How an id is written."""
    return f"<{token}>"
