"""A finished run that a smaller model learns from: what it answers to every row, found once and kept by its content.

FOLDER/KEY/                      KEY is a hash of the teacher's files, the layers asked for and all rows in their order
  logits.npy                     (U, L) float32: one row for each unit (a text, or a labelled token)
  states.npy                     (P, K, H) float16: one row for each token, K layers; only where states are asked for
  manifest.json                  hashes; written last, so a folder that has it is whole

The rows are asked in a fixed order, so that a resumed run reads the same bits.
Letters: N units of a batch, L labels, B batch, T tokens, K layers, H hidden.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import nn

from tunesmith.bundle.atomic import demand_space, explain_os_errors, find_damage, write_folder
from tunesmith.bundle.load import Bundle
from tunesmith.bundle.members import TOKENS
from tunesmith.tasks import Example
from tunesmith.tasks.batching import fill, lengths_of
from tunesmith.tasks.pairs import TwoTexts

IGNORED = -100  # the label of a token that has none

Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Lesson:
    """What the teacher says of one example."""

    logits_UL: Floats
    states_TKH: Floats | None = None


class Watched:
    """A model that also gives its states, and keeps what it gave last."""

    def __init__(self, model: Any, *, has_states: bool) -> None:
        self.model, self.has_states = model, has_states
        self.states: Sequence[torch.Tensor] = ()  # of the embeddings, then of each block: (B, T, H)

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # asked for while the object is still being made
            raise AttributeError(name)
        return getattr(self.model, name)

    def __call__(self, **inputs: Any) -> Any:
        """Run the model."""
        if not self.has_states:
            return self.model(**inputs)
        found = self.model(**inputs, output_hidden_states=True)
        self.states = found.hidden_states
        return found


def unit_logits(task: Any, model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
    """Give the logits of every unit that is learnt (N, L), and how many units each example of the batch has."""
    labels = batch.get("labels")
    if labels is not None and labels.dim() == 2 and not labels.is_floating_point():  # a label for each token
        logits_NL, targets_N = task.labelled_logits(model, batch)
        counts = (labels != IGNORED).sum(1).tolist()
        if sum(counts) != len(targets_N):  # a causal model is not asked for the first token of a text
            counts = (labels[:, 1:] != IGNORED).sum(1).tolist()
        return logits_NL, counts
    logits_BL = task.logits(model, batch)
    return logits_BL, [1] * len(logits_BL)


class Teacher:
    """Answers the rows that another model learns from.

    Args:
        bundle: The finished run, opened with torch.
        reads_same_tokens: Whether the model that learns has the same tokenizer; else its rows are read anew.
        layers: The blocks (from 1) whose states are wanted, one for each block of the model that learns.
        batch_tokens: Most tokens in the teacher at once.
    """

    def __init__(
        self, bundle: Bundle, *, reads_same_tokens: bool, layers: Sequence[int] = (), batch_tokens: int = 2048
    ) -> None:
        self.bundle, self.layers, self.batch_tokens = bundle, tuple(layers), batch_tokens
        self.reads_same_tokens = reads_same_tokens
        self.task: Any = bundle.task
        self.model, self.tokenizer = bundle.model, bundle.tokenizer
        self._places: dict[bytes, tuple[int, int, int, int]] = {}  # first unit, units, first token, tokens
        self._logits: Floats | None = None
        self._states: Floats | None = None

    def state_bytes(self, examples: Sequence[Example]) -> int:
        """Give what the states of these examples take on disk."""
        return 2 * sum(lengths_of(examples)) * len(self.layers) * (hidden_width(self.model) if self.layers else 0)

    def lessons(self, examples: Sequence[Example]) -> list[Lesson] | None:
        """Give what it says of examples; None for rows that it was never asked about, once it has been asked."""
        if self._logits is None:
            return self._asked(examples)
        keys = [key_of_example(example) for example in examples]
        if not all(key in self._places for key in keys):
            return None
        return [self._found(key) for key in keys]

    def _found(self, key: bytes) -> Lesson:
        assert self._logits is not None
        unit, units, token, tokens = self._places[key]
        states = None if self._states is None else np.asarray(self._states[token : token + tokens])
        return Lesson(np.asarray(self._logits[unit : unit + units]), states)

    def learn(self, examples: Sequence[Example], folder: Path, device: Any = "cpu") -> None:
        """Find what it says of all examples: in the folder where an earlier run kept it, else by asking.

        Raises:
            MachineProblem: The disk is full.
        """
        distinct = {key_of_example(example): place for place, example in enumerate(examples)}
        rows = sorted(distinct.values())
        target = folder / self._key(distinct)
        with explain_os_errors(folder, "making the folder of the teacher's answers"):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{target.name}.lock"):
            if find_damage(target):
                shutil.rmtree(target, ignore_errors=True)
                demand_space(folder, self.state_bytes(examples))
                self.model.to(device)
                write_folder(target, lambda place: self._write(place, [examples[row] for row in rows]))
                self.model.to("cpu")
        self._logits = np.load(target / "logits.npy", mmap_mode="r")
        self._states = np.load(target / "states.npy", mmap_mode="r") if self.layers else None
        sizes = np.load(target / "sizes.npy")
        unit = token = 0
        for row, (units, tokens) in zip(rows, sizes.tolist(), strict=True):
            self._places[key_of_example(examples[row])] = (unit, units, token, tokens)
            unit, token = unit + units, token + tokens

    def _key(self, distinct: Mapping[bytes, int]) -> str:
        total = hashlib.sha256(f"{weights_of(self.bundle)}/{self.layers}/{self.reads_same_tokens}".encode())
        for key in distinct:
            total.update(key)
        return total.hexdigest()[:16]

    def _write(self, folder: Path, examples: Sequence[Example]) -> None:
        """Ask about examples in fills of like length, and write the answers in the order of the examples."""
        lessons: dict[int, Lesson] = {}
        lengths = lengths_of(examples)
        states: Any = None
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        for rows in fill(range(len(examples)), lengths, self.batch_tokens):
            for row, lesson in zip(rows, self._asked([examples[row] for row in rows]), strict=True):
                if lesson.states_TKH is not None:
                    if states is None:
                        shape = (int(starts[-1]), *lesson.states_TKH.shape[1:])
                        states = np.lib.format.open_memmap(
                            folder / "states.npy", mode="w+", dtype=np.float16, shape=shape
                        )
                    states[starts[row] : starts[row] + len(lesson.states_TKH)] = lesson.states_TKH
                lessons[row] = Lesson(lesson.logits_UL)
        if states is not None:
            states.flush()
        ordered = [lessons[row].logits_UL for row in range(len(examples))]
        np.save(folder / "logits.npy", np.concatenate(ordered).astype(np.float32))
        sizes = [(len(logits_UL), length) for logits_UL, length in zip(ordered, lengths, strict=True)]
        np.save(folder / "sizes.npy", np.array(sizes, dtype=np.int64))

    def _asked(self, examples: Sequence[Example]) -> list[Lesson]:
        """Run the model over examples, as they are or read anew with its own tokenizer."""
        ensemble = self.bundle.ensemble
        if ensemble is not None and ensemble.kind != TOKENS:  # its members read the rows themselves
            answers_NL = np.asarray(ensemble.answer_encoded(examples), dtype=np.float32)
            return [Lesson(row_L[None]) for row_L in answers_NL]
        asked = list(examples) if self.reads_same_tokens else self._own(examples)
        tokenizer, device = self.tokenizer, next(self.model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in self.task.batch(asked, tokenizer).items()}
        watched = Watched(self.model.eval(), has_states=bool(self.layers))
        with torch.inference_mode():
            logits_NL, counts = unit_logits(self.task, watched, batch)
        logits, states = logits_NL.float().cpu().numpy(), None
        if self.layers:
            picked = torch.stack([watched.states[layer] for layer in self.layers], dim=2)
            states = picked.to(torch.float16).cpu().numpy()  # (B, T, K, H)
        return list(_parted(asked, logits, counts, states))

    def _own(self, examples: Sequence[Example]) -> list[Example]:
        records = [example.record for example in examples]
        max_length = int(self.bundle.facts["max_length"])
        found: list[Example] = self.task.encode(
            records, self.tokenizer, labels=self.bundle.labels, max_length=max_length
        )
        assert len(found) == len(examples), "one example for each row"
        return found


def _parted(
    examples: Sequence[Example], logits_NL: Floats, counts: Sequence[int], states_BTKH: Floats | None
) -> Iterator[Lesson]:
    start = 0
    for row, (example, count) in enumerate(zip(examples, counts, strict=True)):
        states = None if states_BTKH is None else states_BTKH[row, : len(example.tokens)]
        yield Lesson(logits_NL[start : start + count], states)
        start += count


def key_of_example(example: Example) -> bytes:
    """Give 16 bytes of a hash over what the model reads of an example, and which of its tokens have a label."""
    parts = [array("q", example.tokens), array("q", example.segments)]
    if isinstance(example, TwoTexts):
        parts.append(array("q", example.other))
    if isinstance(example.target, tuple) and len(example.target) == len(example.tokens):
        parts.append(array("q", (label != IGNORED for label in example.target)))
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(len(part).to_bytes(4, "little") + part.tobytes())
    return total.digest()


def weights_of(bundle: Bundle) -> str:
    """Give the hash that the manifest has of the weights of a run; its id where there is none."""
    manifest = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    entry = manifest["files"].get("model.safetensors") or {}
    return str(entry.get("sha256", bundle.id))


def padded_states(lessons: Sequence[Lesson]) -> torch.Tensor:
    """Give the states of several examples as one tensor (B, T, K, H), float32, zero behind the shorter ones."""
    longest = max(len(lesson.states_TKH) for lesson in lessons if lesson.states_TKH is not None)
    first = lessons[0].states_TKH
    assert first is not None
    found = np.zeros((len(lessons), longest, *first.shape[1:]), dtype=np.float32)
    for row, lesson in enumerate(lessons):
        assert lesson.states_TKH is not None
        found[row, : len(lesson.states_TKH)] = lesson.states_TKH
    return torch.from_numpy(found)


def hidden_width(model: nn.Module) -> int:
    """Give how wide the states of a model are."""
    config: Any = model.config
    return int(getattr(config, "hidden_size", None) or getattr(config, "d_model", None) or config.dim)
