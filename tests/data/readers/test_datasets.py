import datasets
import pytest

from tunesmith.data.readers import read
from tunesmith.errors import DataProblem

ROWS = {"text": ["good", "bad", "so so"], "label": [1, 0, -1], "tags": [[0, 1], [], [1]]}
FEATURES = datasets.Features(
    text=datasets.Value("string"),
    label=datasets.ClassLabel(names=["negative", "positive"]),
    tags=datasets.List(datasets.ClassLabel(names=["O", "B"])),
)
DECODED = [
    (1, {"text": "good", "label": "positive", "tags": ["O", "B"]}),
    (2, {"text": "bad", "label": "negative", "tags": []}),
    (3, {"text": "so so", "label": None, "tags": ["B"]}),
]


@pytest.fixture
def dataset(monkeypatch):
    datasets.disable_progress_bars()
    return datasets.Dataset.from_dict(ROWS, features=FEATURES)


def test_a_saved_data_set_is_read_with_class_names(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "saved")
    source = read(tmp_path / "saved")
    assert (source.format, source.columns, source.splits) == ("datasets", ("text", "label", "tags"), ())
    assert list(source.rows()) == DECODED


def test_several_shards_are_one_file(tmp_path):
    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict({"text": [str(i) for i in range(2500)]})
    data.select(range(2499, -1, -1)).save_to_disk(tmp_path / "saved", num_shards=3)
    rows = list(read(tmp_path / "saved").rows())
    assert rows == [(i + 1, {"text": str(2499 - i)}) for i in range(2500)]


def test_of_several_parts_train_is_read_and_the_others_are_named(tmp_path, dataset):
    root = tmp_path / "saved"
    datasets.DatasetDict(train=dataset, test=dataset.select([0])).save_to_disk(root)
    assert read(root).splits == ("test",)
    assert read(root).path == str(root / "train")
    assert list(read(root).rows()) == DECODED
    assert list(read(root / "test").rows()) == DECODED[:1]


def test_folders_that_are_refused(tmp_path, dataset):
    root = tmp_path / "saved"
    datasets.DatasetDict(a=dataset, b=dataset).save_to_disk(root)
    with pytest.raises(DataProblem) as caught:
        read(root)
    assert str(caught.value) == (
        f"DataProblem: the folder has no part 'train'; it has a, b\n  where: {root}\n"
        f"  do:    give one part, e.g. {root / 'a'}"
    )
    with pytest.raises(DataProblem) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"DataProblem: the folder was not saved by the datasets library (no state.json); it has saved\n"
        f"  where: {tmp_path}\n  do:    give one data file, or a folder written by `save_to_disk`"
    )


def test_damage_and_names_that_lead_elsewhere_are_refused(tmp_path, dataset):
    root = tmp_path / "saved"
    dataset.save_to_disk(root)
    arrow = next(root.glob("*.arrow"))
    whole = arrow.read_bytes()
    arrow.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataProblem, match="the Arrow file is damaged or cut off"):
        list(read(root).rows())
    arrow.unlink()
    with pytest.raises(DataProblem, match="the file cannot be read: No such file or directory"):
        read(root)
    (root / "state.json").write_text('{"_data_files": [{"filename": "../other.arrow"}]}')
    with pytest.raises(DataProblem, match=r"state\.json names no usable data files"):
        read(root)
