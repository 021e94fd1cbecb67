"""Compute once what training cannot change: the states above the lowest, frozen blocks of a model.

Where a method leaves the embeddings and the lowest blocks alone (a linear probe, the top layers), every epoch would run
the same texts through the same weights. Here one pass keeps the states above those blocks in a file that is mapped into
memory; from then on a batch whose texts are all known starts there. States are found by what the model was given (token
ids and segments), so they never belong to another text; the file is named by a hash of the frozen weights and of the
texts, so it never belongs to another model.

The frozen part has no dropout, neither in the pass nor afterwards: what learns nothing gains nothing from noise.

Letters: B batch, T tokens, H hidden, N tokens of all known texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tunesmith.models.anatomy import Anatomy, parts_above

_NUMBER_BYTES = 4  # states are kept as float32, whatever the model computes in: reading them back changes nothing


def frozen_blocks(anatomy: Anatomy) -> int:
    """Give how many blocks, from the bottom, training cannot change; 0 where something below them learns."""
    if anatomy.is_encoder_decoder:
        return 0
    known = {id(p) for part in (*anatomy.blocks, *parts_above(anatomy)) for p in part.parameters()}
    if any(p.requires_grad and id(p) not in known for p in anatomy.body.parameters()):
        return 0  # words, positions, segments, a projection: all of them lie below the blocks
    learning = (index for index, block in enumerate(anatomy.blocks) if any(p.requires_grad for p in block.parameters()))
    return next(learning, len(anatomy.blocks))


def fingerprint(anatomy: Anatomy, blocks: int, texts: Iterable[Sequence[int]]) -> str:
    """Give a hash (40 hex digits) of everything that the states depend on: frozen weights, architecture and texts."""
    digest = hashlib.sha256(f"{type(anatomy.body).__name__}/{blocks}/{anatomy.body.config.to_json_string()}".encode())
    upper = {id(p) for block in anatomy.blocks[blocks:] for p in block.parameters()}
    for name, parameter in anatomy.body.named_parameters():
        if id(parameter) not in upper:
            digest.update(name.encode() + parameter.detach().cpu().contiguous().numpy().tobytes())
    for tokens in texts:
        digest.update(np.asarray(tokens, dtype=np.int32).tobytes() + b"/")
    return digest.hexdigest()[:40]


class States:
    """States (N, H) of known texts in a file, and where each text begins. Written once, then only read.

    Args:
        path: The file of states; beside it lies `.json` with the index, written last: without it the file is not whole.
        hidden: Width of the states.
        most_bytes: Texts that would make the file larger are not kept.
    """

    def __init__(self, path: Path, hidden: int, most_bytes: float = float("inf")) -> None:
        self.path, self.hidden, self.most_bytes = path, hidden, most_bytes
        self._places: dict[bytes, tuple[int, int]] = {}  # of each text: first token, number of tokens
        self._tokens = 0
        self._states_NH: Any = None
        self.dtype = "float32"  # what the model computes in
        self.others: int | None = None  # values that a block gives besides its states; None: it gives no tuple
        if self.index.is_file():
            found = json.loads(self.index.read_text(encoding="utf-8"))
            self.dtype, self.others = found["dtype"], found["others"]
            self._places = {bytes.fromhex(key): (start, length) for key, start, length in found["texts"]}
            self._tokens = sum(length for _, length in self._places.values())
            self._open()

    @property
    def index(self) -> Path:
        """The file that says where each text is."""
        return self.path.with_suffix(".json")

    @property
    def is_whole(self) -> bool:
        """Whether the states can be read."""
        return self._states_NH is not None

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def write(self, run: Callable[[], object]) -> None:
        """Call `run`, which adds texts, and make the file whole; nothing is left of it if that fails."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("wb") as self._file:
                run()
            texts = [(key.hex(), *place) for key, place in self._places.items()]
            found = {"dtype": self.dtype, "others": self.others, "texts": texts}
            temporary = self.index.with_suffix(".new")
            temporary.write_text(json.dumps(found), encoding="utf-8")
            temporary.replace(self.index)
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        self._open()

    def _open(self) -> None:
        shape = (self._tokens, self.hidden)
        self._states_NH = (
            np.memmap(self.path, np.float32, "r", shape=shape) if self._tokens else np.empty(shape, np.float32)
        )

    def add(self, key: bytes, states_TH: torch.Tensor) -> None:
        """Keep the states of a text (T, H), unless it is known already or the file would grow too large."""
        size = (self._tokens + len(states_TH)) * self.hidden * _NUMBER_BYTES
        if key in self._places or size > self.most_bytes:
            return
        self._file.write(states_TH.float().cpu().contiguous().numpy().tobytes())
        self._places[key] = (self._tokens, len(states_TH))
        self._tokens += len(states_TH)

    def batch(self, keys: Sequence[bytes], tokens: int) -> torch.Tensor:
        """Give the states of known texts as (B, T, H), zero behind the end of each."""
        states_BTH = np.zeros((len(keys), tokens, self.hidden), dtype=np.float32)
        for row, key in enumerate(keys):
            start, length = self._places[key]
            states_BTH[row, :length] = self._states_NH[start : start + length]
        return torch.from_numpy(states_BTH)

    def remove(self) -> None:
        """Delete the files."""
        self._states_NH = None
        for path in (self.index, self.path):
            path.unlink(missing_ok=True)


class FrozenPrefix:
    """A model whose lowest blocks run once for each text. It is one inside `with`; outside, the model is as it was.

    Args:
        anatomy: Of a model whose `blocks` lowest blocks, and all below them, do not learn (see `frozen_blocks`).
        blocks: How many blocks are run once (1 .. all).
        states: What is known, or is to be found out by `remember`.
    """

    def __init__(self, anatomy: Anatomy, blocks: int, states: States) -> None:
        self.anatomy, self.blocks, self.states = anatomy, blocks, states
        self._keys: list[bytes] = []  # of the batch in the model; empty where it is not of the kind that is remembered
        self._is_recording = False
        self._is_known = False

    def __enter__(self) -> FrozenPrefix:
        self._hook = self.anatomy.body.register_forward_pre_hook(self._see, with_kwargs=True)
        inside = {id(block) for block in self.anatomy.blocks}
        self._below = [
            child for child in self.anatomy.body.children() if not any(id(part) in inside for part in child.modules())
        ]
        for index, block in enumerate(self.anatomy.blocks):
            block.forward = self._instead(index, block.forward)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        for block in self.anatomy.blocks:
            del block.forward  # the class's own shows again

    def remember(self, run: Callable[[], object]) -> None:
        """Find out the states of all texts that `run` puts through the model; only the frozen blocks work meanwhile."""
        self._is_recording = True
        try:
            self.states.write(run)
        finally:
            self._is_recording = False

    def _see(self, body: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Look at what the body is given, before it runs."""
        for part in self._below:
            part.eval()
        self._keys = keys_of(given, named)
        self._is_known = not self._is_recording and bool(self._keys) and all(key in self.states for key in self._keys)

    def _instead(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Give what a block does now."""
        block, is_last = self.anatomy.blocks[index], index == self.blocks - 1

        def upper(states_BTH: torch.Tensor, *given: Any, **named: Any) -> Any:
            return self._shaped(states_BTH) if self._is_recording else forward(states_BTH, *given, **named)

        def frozen(states_BTH: torch.Tensor, *given: Any, **named: Any) -> Any:
            if self._is_known:
                if is_last:
                    known_BTH = self.states.batch(self._keys, states_BTH.shape[1])
                    states_BTH = known_BTH.to(states_BTH.device, getattr(torch, self.states.dtype))
                return self._shaped(states_BTH)
            block.eval()
            with torch.no_grad():
                found = forward(states_BTH, *given, **named)
            if self._is_recording and is_last:
                self._keep(found)
            return found

        return frozen if index < self.blocks else upper

    def _keep(self, found: Any) -> None:
        is_tuple = isinstance(found, tuple)
        self.states.others = len(found) - 1 if is_tuple else None
        states_BTH = found[0] if is_tuple else found
        self.states.dtype = str(states_BTH.dtype).removeprefix("torch.")
        for key, states_TH in zip(self._keys, states_BTH, strict=False):
            self.states.add(key, states_TH[: tokens_of(key)])

    def _shaped(self, states_BTH: torch.Tensor) -> Any:
        return states_BTH if self.states.others is None else (states_BTH, *[None] * self.states.others)


def keys_of(given: tuple[Any, ...], named: Mapping[str, Any]) -> list[bytes]:
    """Give what tells each text of a batch from all others; none where more is given than texts padded on the right."""
    values = {
        name: value for name, value in named.items() if isinstance(value, torch.Tensor) or name.startswith("past")
    }
    ids_BT, mask_BT, segments_BT = (
        values.pop(name, None) for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    if given and ids_BT is None and len(given) == 1:
        ids_BT = given[0]
    if ids_BT is None or any(value is not None for value in values.values()):
        return []
    rows, tokens = ids_BT.shape
    lengths = [tokens] * rows
    if mask_BT is not None:
        if mask_BT.shape != ids_BT.shape or bool((mask_BT[:, 1:] > mask_BT[:, :-1]).any()):
            return []
        lengths = mask_BT.sum(1).tolist()
    parts = [ids_BT] if segments_BT is None or not bool(segments_BT.any()) else [ids_BT, segments_BT]
    numbers = [part.to("cpu", torch.int32).numpy() for part in parts]
    return [
        int(length).to_bytes(4, "little") + b"".join(part[row, : int(length)].tobytes() for part in numbers)
        for row, length in enumerate(lengths)
    ]


def tokens_of(key: bytes) -> int:
    """Give the number of tokens of the text that a key stands for."""
    return int.from_bytes(key[:4], "little")
