"""Models of several families are built, with a fresh head, a sensible pooler and the labels' names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

import toy_world
from tunesmith.errors import ModelProblem
from tunesmith.models.build import build_model, build_tokenizer, longest_input
from tunesmith.tasks.text_classification import TASK

CLASS = "AutoModelForSequenceClassification"
NARROW = {
    "vocab_size": 70,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
FAMILIES = {
    "bert": lambda: transformers.BertConfig(**NARROW, max_position_embeddings=32),
    "roberta": lambda: transformers.RobertaConfig(**NARROW, max_position_embeddings=34),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=70, dim=16, n_layers=3, n_heads=2, hidden_dim=24, max_position_embeddings=32
    ),
    "electra": lambda: transformers.ElectraConfig(**NARROW, embedding_size=8, max_position_embeddings=32),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=70, n_embd=16, n_layer=3, n_head=2, n_positions=32, pad_token_id=0
    ),
}
LABELS = ("负面", "b", "card_arrival")


def save(model: torch.nn.Module, folder: Path) -> Path:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    toy_world.make_tokenizer().save_pretrained(folder)
    return folder


def make_folder(family: str, folder: Path) -> Path:
    """Save a randomly drawn model without a head."""
    torch.manual_seed(0)
    return save(transformers.AutoModel.from_config(FAMILIES[family]()), folder)


@pytest.fixture(scope="module", params=FAMILIES)
def family_folder(request, tmp_path_factory):
    return request.param, make_folder(request.param, tmp_path_factory.mktemp("base") / request.param)


def test_a_family_is_built_with_a_fresh_head(family_folder):
    _, folder = family_folder
    model = build_model(folder, CLASS, seed=1, **TASK.model_config(LABELS))
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    ids = torch.randint(5, 60, (2, 7))
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape == (2, 3)
    assert model.config.id2label == dict(enumerate(LABELS))
    kept, built = build_model(folder, "AutoModel").state_dict(), model.base_model.state_dict()
    assert all(torch.equal(tensor, built[name]) for name, tensor in kept.items() if "pooler" not in name)


def test_the_head_is_drawn_from_the_seed(family_folder):
    _, folder = family_folder
    one, same, other = (
        build_model(folder, CLASS, seed=seed, **TASK.model_config(LABELS)).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_longest_input_is_what_the_model_can_take(family_folder):
    family, folder = family_folder
    model, tokenizer = build_model(folder, CLASS, **TASK.model_config(LABELS)), build_tokenizer(folder)
    tokenizer.model_max_length = int(1e30)  # as where a tokenizer does not say
    longest = longest_input(model.config, tokenizer)
    assert longest == 32
    ids = torch.randint(5, 60, (1, longest + 1))
    model(input_ids=ids[:, :longest], attention_mask=torch.ones(1, longest, dtype=torch.long))
    if family != "gpt2":
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    tokenizer.model_max_length = 20
    assert longest_input(model.config, tokenizer) == 20


def test_longest_input_is_512_where_nobody_says():
    tokenizer = toy_world.make_tokenizer()
    tokenizer.model_max_length = int(1e30)
    assert longest_input(object(), tokenizer) == 512


def is_identity(model: torch.nn.Module) -> bool:
    dense = model.base_model.pooler.dense
    return torch.equal(dense.weight, torch.eye(16)) and not dense.bias.any()


def test_a_pooler_that_was_trained_is_left_alone(tmp_path):
    folder = make_folder("bert", tmp_path / "bert")
    kept = build_model(folder, "AutoModel").pooler.dense.weight
    model = build_model(folder, CLASS, seed=5, **TASK.model_config(LABELS))
    assert torch.equal(model.base_model.pooler.dense.weight, kept)
    assert not is_identity(model)


def test_a_missing_pooler_starts_as_the_identity(tmp_path):
    torch.manual_seed(0)
    folder = save(transformers.BertModel(FAMILIES["bert"](), add_pooling_layer=False), tmp_path / "bert")
    assert is_identity(build_model(folder, CLASS, **TASK.model_config(LABELS)))


@pytest.mark.parametrize(
    ("pooling", "starts_anew"),
    [
        ({"pooling_mode_mean_tokens": True}, True),
        ({"pooling_mode": "mean"}, True),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, False),
    ],
)
def test_the_pooler_of_a_sentence_encoder_starts_as_the_identity(tmp_path, pooling, starts_anew):
    folder = make_folder("bert", tmp_path / "bert")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    assert is_identity(build_model(folder, CLASS, **TASK.model_config(LABELS))) is starts_anew


def test_label_names_survive_saving(tmp_path):
    folder = make_folder("bert", tmp_path / "bert")
    save(build_model(folder, CLASS, **TASK.model_config(LABELS)), tmp_path / "saved")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "saved")
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {label: index for index, label in enumerate(LABELS)}
    assert config.problem_type == "single_label_classification"


def test_another_number_of_labels_replaces_the_head(tmp_path):
    folder = make_folder("bert", tmp_path / "bert")
    trained = build_model(folder, CLASS, **TASK.model_config(LABELS))
    saved = save(trained, tmp_path / "saved")
    again = build_model(saved, CLASS, seed=9)
    assert torch.equal(again.classifier.weight, trained.classifier.weight)
    other = build_model(saved, CLASS, seed=9, **TASK.model_config(("x", "y")))
    assert other.classifier.weight.shape == (2, 16)
    assert other.config.id2label == {0: "x", 1: "y"}
    assert torch.equal(
        other.base_model.embeddings.word_embeddings.weight, trained.base_model.embeddings.word_embeddings.weight
    )


def test_a_base_tuned_for_several_labels_at_once_forgets_its_sigmoid(tmp_path):
    config = FAMILIES["bert"]()
    config.problem_type = "multi_label_classification"
    folder = save(transformers.BertModel(config), tmp_path / "bert")
    assert build_model(folder, CLASS, **TASK.model_config(LABELS)).config.problem_type == "single_label_classification"


def test_dropout_replaces_every_dropout(family_folder):
    _, folder = family_folder
    model = build_model(folder, CLASS, dropout=0.0, attention_dropout=0.0, **TASK.model_config(LABELS))
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_dropout_of_attention_is_apart_from_the_rest(tmp_path):
    folder = make_folder("bert", tmp_path / "bert")
    for given, wanted in (({"dropout": 0.3}, (0.3, 0.1)), ({"attention_dropout": 0.3}, (0.1, 0.3))):
        model = build_model(folder, CLASS, **given, **TASK.model_config(LABELS))
        block = model.bert.encoder.layer[0]
        assert (block.output.dropout.p, block.attention.self.dropout.p) == wanted


def test_the_tokenizer_takes_a_limit_and_a_padding_token(tmp_path):
    folder = make_folder("gpt2", tmp_path / "gpt2")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("pad_token")
    settings["eos_token"] = "[SEP]"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = build_tokenizer(folder, max_length=9)
    assert tokenizer.pad_token == "[SEP]"
    assert tokenizer.model_max_length == 9
    assert len(tokenizer("the1 " * 50, truncation=True)["input_ids"]) == 9


def test_a_folder_without_tokenizer_says_what_it_needs(tmp_path):
    folder = make_folder("bert", tmp_path / "bert")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelProblem) as caught:
        build_tokenizer(folder)
    assert caught.value.what == "the tokenizer of this base model has no vocabulary"
    assert caught.value.do == "the folder needs tokenizer.json, or vocab files and what the tokenizer class requires"


@pytest.mark.parametrize(
    "content", ['{"model_type": "no-such-type"}', "{}", "[]", '{"model_type": "bert", "hidden_size": "x"}']
)
def test_a_configuration_nobody_knows_is_explained(tmp_path, content):
    folder = make_folder("bert", tmp_path / "bert")
    (folder / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelProblem) as caught:
        build_model(folder, CLASS)
    assert caught.value.what.startswith("this base model cannot be used here: ")
    assert caught.value.where == str(folder)


def test_a_model_of_another_kind_is_explained(tmp_path):
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    transformers.utils.logging.disable_progress_bar()
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    with pytest.raises(ModelProblem, match="this base model cannot be used here"):
        build_model(tmp_path / "vit", CLASS)
    shutil.rmtree(tmp_path / "vit")
