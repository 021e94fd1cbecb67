"""Turn texts into short vectors that show what they are about, without running the model.

Three ways, the best that can be had: the embedding that the service was given along with the answer; the model's own
table of token embeddings, averaged; hashed runs of characters.
Letters: N texts, H width of the table, D width of the vectors, V vocabulary, T characters or tokens.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.monitoring.language import code_points
from tunesmith.monitoring.observed import LONGEST

Floats = npt.NDArray[Any]

WIDTH = 64
"""Of the vectors. Of 32, 64 and all 384 dimensions of MiniLM's table, 64 told topics apart best (AG News)."""

_MOST_TOKENS = 256  # of a text that are averaged
_BUCKETS = 1 << 16
_HASH_WIDTH = 128
_NGRAMS = (2, 3, 4)
_MULTIPLIERS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F], dtype=np.uint32)
_SMOOTHING = 1e-3  # `a` of Arora et al. 2017, who recommend 1e-3..1e-4


@dataclass(frozen=True)
class Embedded:
    """What an embedder makes of some texts."""

    vectors_ND: Floats  # float32, each of length 1; zeros for a text of which nothing is known
    tokens_N: Floats  # NaN where it has no tokenizer
    unknown_N: Floats  # tokens that the tokenizer does not know


@dataclass(frozen=True)
class TokenTable:
    """The mean of the token embeddings that the model itself begins with, rare tokens counting more.

    Source: Arora et al. 2017, "A simple but tough-to-beat baseline for sentence embeddings": weights a / (a + p).
    We do not take the first component away, and turn the table to its own main axes first and keep 64 of them.
    """

    tokenizer: str  # the text of tokenizer.json
    table_VD: Floats  # float16
    weights_V: Floats  # float16
    unknown: int  # token id; -1 where every text can be spelled
    kind: str = "tokens"
    _backend: list[Any] = field(default_factory=list, compare=False, repr=False)

    def embed(self, texts: Sequence[str], given: Sequence[Sequence[float] | None] = ()) -> Embedded:
        """Give vectors (N, D) and count tokens."""
        vectors_ND = np.zeros((len(texts), self.table_VD.shape[1]), dtype=np.float32)
        tokens_N, unknown_N = np.zeros(len(texts)), np.zeros(len(texts))
        if not texts:
            return Embedded(vectors_ND, tokens_N, unknown_N)
        clean = [text[:LONGEST].encode("utf-8", "replace").decode("utf-8") for text in texts]
        for row, encoding in enumerate(self._open().encode_batch(clean, add_special_tokens=False)):
            ids_T = np.array(encoding.ids, dtype=np.intp)
            tokens_N[row] = len(ids_T)
            unknown_N[row] = (ids_T == self.unknown).sum()
            kept_T = ids_T[:_MOST_TOKENS]
            kept_T = kept_T[kept_T < len(self.table_VD)]
            vectors_ND[row] = self.weights_V[kept_T].astype(np.float32) @ self.table_VD[kept_T].astype(np.float32)
        return Embedded(unit_rows(vectors_ND), tokens_N, unknown_N)

    def _open(self) -> Any:
        if not self._backend:
            self._backend.append(_open_tokenizer(self.tokenizer))
        return self._backend[0]


@dataclass(frozen=True)
class HashedCharacters:
    """Runs of two to four characters, hashed with a sign, rare ones counting more.

    Source: Weinberger et al. 2009, "Feature hashing for large scale multitask learning".
    """

    weights_B: Floats  # float16, for each of the 65,536 buckets: its inverse document frequency in the reference
    kind: str = "characters"

    def embed(self, texts: Sequence[str], given: Sequence[Sequence[float] | None] = ()) -> Embedded:
        """Give vectors (N, D); tokens are not counted."""
        vectors_ND = np.zeros((len(texts), _HASH_WIDTH), dtype=np.float32)
        for row, text in enumerate(texts):
            hashes_T = np.unique(hashed_runs(text))
            signs_T = np.where((hashes_T >> 30) & 1, 1.0, -1.0)
            weights_T = self.weights_B[hashes_T % _BUCKETS] * signs_T
            vectors_ND[row] = np.bincount((hashes_T >> 16) % _HASH_WIDTH, weights=weights_T, minlength=_HASH_WIDTH)
        nothing_N = np.full(len(texts), np.nan)
        return Embedded(unit_rows(vectors_ND), nothing_N, nothing_N)


@dataclass(frozen=True)
class GivenVectors:
    """Embeddings that come along with the answers, on the main axes that the reference's have."""

    mean_H: Floats
    axes_HD: Floats
    kind: str = "given"

    def embed(self, texts: Sequence[str], given: Sequence[Sequence[float] | None] = ()) -> Embedded:
        """Give vectors (N, D); zeros where none came along."""
        vectors_ND = np.zeros((len(texts), self.axes_HD.shape[1]), dtype=np.float32)
        for row, vector in enumerate(given):
            if vector is not None and len(vector) == len(self.mean_H):
                vectors_ND[row] = (np.asarray(vector, dtype=np.float32) - self.mean_H) @ self.axes_HD
        nothing_N = np.full(len(texts), np.nan)
        return Embedded(unit_rows(np.nan_to_num(vectors_ND)), nothing_N, nothing_N)


Embedder = TokenTable | HashedCharacters | GivenVectors


def unit_rows(vectors_ND: Floats) -> Floats:
    """Give the rows at length 1; rows of zeros stay."""
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    units_ND: Floats = np.divide(vectors_ND, lengths_N1, out=np.zeros_like(vectors_ND), where=lengths_N1 > 0)
    return units_ND


def hashed_runs(text: str) -> npt.NDArray[np.uint32]:
    """Give a 32-bit hash for each run of two to four characters, in lower case."""
    points_T = code_points(text[:LONGEST].lower())
    found = [np.zeros(0, dtype=np.uint32)]
    for size in _NGRAMS:
        count = len(points_T) - size + 1
        if count > 0:
            hashes_T = np.full(count, size, dtype=np.uint32)
            for place in range(size):
                hashes_T = (hashes_T ^ (points_T[place : count + place] * _MULTIPLIERS[place])) * np.uint32(0x01000193)
                hashes_T ^= hashes_T >> np.uint32(15)
            found.append(hashes_T)
    return np.concatenate(found)


def learn_characters(texts: Sequence[str]) -> HashedCharacters:
    """Learn which runs of characters are rare in the reference's texts."""
    seen_B = np.zeros(_BUCKETS)
    for text in texts:
        seen_B[np.unique(hashed_runs(text) % _BUCKETS)] += 1
    return HashedCharacters(np.log((1 + len(texts)) / (1 + seen_B)).astype(np.float16))


def learn_given(vectors_NH: Floats) -> GivenVectors:
    """Find the main axes of the reference's embeddings (N, H)."""
    vectors_NH = np.nan_to_num(np.asarray(vectors_NH, dtype=np.float32))
    mean_H = vectors_NH.mean(0)
    _, _, axes_DH = np.linalg.svd(vectors_NH - mean_H, full_matrices=False)
    return GivenVectors(mean_H, np.ascontiguousarray(axes_DH[:WIDTH].T))


def read_tokens(folder: Path, weights: Path) -> TokenTable | None:
    """Take the table of token embeddings of a model; every token counts the same until `weighted` is called.

    Args:
        folder: With `tokenizer.json`.
        weights: Folder with the safetensors files of the model, or of the base model where the run has only a delta.

    Returns:
        None where the model has no such table, or the tokenizer none of its ids.
    """
    path = folder / "tokenizer.json"
    table_VH = _token_embeddings(weights)
    if table_VH is None or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    return TokenTable(text, main_axes(table_VH), np.ones(len(table_VH), dtype=np.float16), unknown_id(text))


def weighted(table: TokenTable, texts: Sequence[str]) -> TokenTable:
    """Let tokens that are common in the reference's texts count less."""
    counts_V = np.zeros(len(table.table_VD))
    clean = [each[:LONGEST].encode("utf-8", "replace").decode("utf-8") for each in texts]
    for encoding in _open_tokenizer(table.tokenizer).encode_batch(clean, add_special_tokens=False):
        ids_T = np.array(encoding.ids, dtype=np.intp)
        np.add.at(counts_V, ids_T[ids_T < len(counts_V)], 1)
    shares_V = counts_V / max(counts_V.sum(), 1)
    return dataclasses.replace(table, weights_V=(_SMOOTHING / (_SMOOTHING + shares_V)).astype(np.float16))


def main_axes(table_VH: Floats) -> Floats:
    """Give the table on its own main axes, at most 64 of them: (V, D), float16, of about unit size."""
    centred_VH = table_VH.astype(np.float32)
    centred_VH -= centred_VH.mean(0)
    values_H, axes_HH = np.linalg.eigh(centred_VH.T @ centred_VH)
    turned_VD = centred_VH @ axes_HH[:, np.argsort(-values_H)[:WIDTH]]
    largest = float(np.abs(turned_VD).max()) or 1.0
    table_VD: Floats = (turned_VD / largest).astype(np.float16)
    return table_VD


def unknown_id(tokenizer: str) -> int:
    """Give the id of the token for what the tokenizer does not know; -1 where it has none."""
    content = json.loads(tokenizer)
    model = content.get("model", {})
    if isinstance(model.get("unk_id"), int):  # Unigram
        return int(model["unk_id"])
    name = model.get("unk_token")
    if not isinstance(name, str):
        return -1
    vocabulary = model.get("vocab", {})
    return int(vocabulary.get(name, -1)) if isinstance(vocabulary, dict) else -1


def _open_tokenizer(text: str) -> Any:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(text)
    backend.no_padding()
    backend.no_truncation()
    return backend


_TABLES = ("word_embeddings.weight", "embed_tokens.weight", "wte.weight", "shared.weight", "tok_embeddings.weight")


def _token_embeddings(folder: Path) -> Floats | None:
    """Find the table in the safetensors files of a folder, by the names that Transformers gives it."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            names = sorted((name for name in file.keys() if name.endswith(_TABLES)), key=len)  # noqa: SIM118
            try:
                found: list[Floats] = [np.asarray(file.get_tensor(name), dtype=np.float32) for name in names[:1]]
            except TypeError:  # bfloat16, which numpy does not have
                return None
            if found and found[0].ndim == 2 and len(found[0]) >= 16:
                return found[0]
    return None
