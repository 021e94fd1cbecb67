"""Make a base model from plain text: a tokenizer, then a language model; or go on with one on a domain's text.

Follow a corpus by opening files in this order: `options` (what may be asked) -> `corpus` (documents, streamed) ->
`vocabulary` (the tokenizer) -> `tokens` (ids on disk) -> `packing` (blocks without padding) -> `mlm`, `clm` or
`seq2seq` (what is learnt from a block) -> `sizes` (the model) -> `plan` -> `job` (the run) -> `keep` (the folder).
Importing this file loads no torch.
"""

from __future__ import annotations

OBJECTIVES = {
    "mlm": "tunesmith.pretraining.mlm",
    "clm": "tunesmith.pretraining.clm",
    "seq2seq": "tunesmith.pretraining.seq2seq",
}
SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (6, 384)}  # name -> blocks, width
TOKENIZERS = ("bpe", "wordpiece", "characters")
MASKINGS = ("token", "whole-word", "segmented")
INITS = ("family", "xavier", "he")
DOCUMENTS = ("lines", "paragraphs")
