from __future__ import annotations

import json

import numpy as np
import pytest
from usual_rows import rows, token_table

from tunesmith.monitoring.embedding import (
    WIDTH,
    learn_characters,
    learn_given,
    main_axes,
    read_tokens,
    unit_rows,
    unknown_id,
    weighted,
)


def test_tokens_and_unknown_ones_are_counted_and_vectors_have_length_one():
    table = token_table()
    found = table.embed(["ship1 ship2 the1", "ship1 never seen", ""])
    assert found.tokens_N.tolist() == [3, 3, 0]
    assert found.unknown_N.tolist() == [0, 2, 0]
    assert np.linalg.norm(found.vectors_ND, axis=1) == pytest.approx([1, 1, 0], abs=1e-3)


def test_texts_of_one_topic_lie_nearer_to_one_another():
    table = token_table()
    ships, more, bread = table.embed(
        ["ship1 ship2 ship3 ship9", "ship4 ship5 ship30 ship8", "bread1 bread2 bread7 bread9"]
    ).vectors_ND
    assert ships @ more > ships @ bread + 0.3


def test_common_tokens_count_less():
    table = weighted(token_table(), ["the1 the1 the1 ship1"] * 10)
    weights = dict(zip(json.loads(table.tokenizer)["model"]["vocab"], table.weights_V.tolist(), strict=True))
    assert weights["the1"] < weights["ship1"] < weights["moss1"] == 1


def test_half_characters_do_not_stop_the_tokenizer():
    assert token_table().embed(["ship1 \ud83d ship2"]).tokens_N[0] >= 2
    assert learn_characters(["a"]).embed(["\ud83d"]).vectors_ND.shape == (1, 128)


def test_hashed_characters_know_like_from_unlike():
    embedder = learn_characters([row.text for row in rows(200, 3)])
    one, same, other = embedder.embed(["the parcel is late", "my parcel is late again", "升级后无法登录"]).vectors_ND
    assert one @ same > 0.3 > abs(one @ other)
    assert not embedder.embed(["", "x"]).vectors_ND.any()


def test_given_embeddings_keep_what_varies():
    generator = np.random.default_rng(0)
    vectors_NH = generator.normal(size=(300, 100)) * np.linspace(3, 0, 100)
    embedder = learn_given(vectors_NH)
    found = embedder.embed(["", ""], [vectors_NH[0].tolist(), None]).vectors_ND
    assert found.shape == (2, WIDTH)
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 0])


def test_main_axes_keep_distances_as_well_as_so_many_axes_can():
    generator = np.random.default_rng(0)
    table = generator.normal(size=(500, 8)).astype(np.float32) @ generator.normal(size=(8, 96)).astype(np.float32)
    found = main_axes(table).astype(np.float64)
    assert found.shape == (500, WIDTH)
    centred = unit_rows(table - table.mean(0))
    assert unit_rows(found)[:50] @ unit_rows(found)[:50].T == pytest.approx(centred[:50] @ centred[:50].T, abs=0.01)


def test_the_table_of_a_model_folder_is_found(tmp_path):
    from safetensors.numpy import save_file

    assert read_tokens(tmp_path, tmp_path) is None
    table = token_table()
    (tmp_path / "tokenizer.json").write_text(table.tokenizer, encoding="utf-8")
    save_file(
        {"bert.embeddings.word_embeddings.weight": np.eye(191, 32, dtype=np.float32)}, tmp_path / "model.safetensors"
    )
    found = read_tokens(tmp_path, tmp_path)
    assert found is not None
    assert (found.table_VD.shape, found.unknown) == ((191, 32), 0)
    (tmp_path / "tokenizer.json").unlink()
    assert read_tokens(tmp_path, tmp_path) is None


def test_the_unknown_token_is_found_in_each_kind_of_tokenizer():
    assert unknown_id(json.dumps({"model": {"unk_id": 3, "vocab": []}})) == 3
    assert unknown_id(json.dumps({"model": {"unk_token": "[UNK]", "vocab": {"a": 0, "[UNK]": 7}}})) == 7
    assert unknown_id(json.dumps({"model": {"unk_token": None, "vocab": {}}})) == -1
