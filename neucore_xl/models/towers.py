"""Opening an open_clip model by hub name, tag, local file or JSON config, with one-sentence errors.

Nothing here downloads unless the name or tag asks for it: a config file, a local ``.pt``/``.safetensors`` and a
``local-dir:`` are read from disk alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import pickle
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import get_model_config
from open_clip.pretrained import get_pretrained_cfg
from safetensors import SafetensorError
from torch import Tensor, nn

from neucore_xl.config.schema import BackboneSettings
from neucore_xl.errors import UserError, did_you_mean, nearest
from neucore_xl.jsonfile import read_json
from neucore_xl.models import text_only

LOCAL_DIR = "local-dir:"
Triple = tuple[float, float, float]
_CONFIG_LIMIT = 1 << 20  # bytes; open_clip's own have 600
WEIGHT_FILES = (".pt", ".pth", ".bin", ".safetensors", ".npz")


@dataclass(frozen=True)
class Opened:
    """An open_clip model, its tokenizer (``list[str]`` to ids ``[B, L]``), the id of its padding and its config."""

    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    pad_id: int
    architecture: dict[str, Any]


def open_model(settings: BackboneSettings) -> Opened:
    """The open_clip model that ``settings`` names, in fp32 on the CPU.

    A ``local-dir:`` folder or ``hf-hub:`` model brings its own weights; ``pretrained`` is then null, or a file that
    takes their place. Raises ``UserError`` for an unknown name (with the nearest known one), an unreadable config,
    weights that are missing, unreadable, of another model or of another activation.
    """
    name, architecture, preprocess = _named(settings)
    if "vision_cfg" not in architecture:
        return _open_texts(name, architecture, settings)
    model = _create(name, architecture, settings, preprocess)
    tokenizer = _tokenizer(name, architecture, own_config=settings.config is not None)
    return Opened(model, tokenizer, _pad_id(model, tokenizer), architecture)


def outline_model(settings: BackboneSettings) -> Opened:
    """The same model without weights: to be called where tensors are made on the meta device.

    Neither weights nor a tokenizer are read; the tokenizer gives ids of zeros in the right shape. Raises
    ``UserError`` for an unknown name or tag and for weights of another activation, as ``open_model`` does; whether a
    file of weights is there is not asked.
    """
    name, architecture, preprocess = _named(settings)
    if "vision_cfg" not in architecture:
        name, architecture = _registered_texts(name, architecture)
    elif ":" in name:  # the architecture of a folder or hub model, without the weights beside it
        name = _register(Path(name.replace(":", "-").replace("/", "-")).name, architecture)
    elif settings.pretrained is not None and not (
        _is_file_name(settings.pretrained) or Path(settings.pretrained).is_file()
    ):
        _check_tag(name, settings.pretrained, architecture)
    size = _forced_size(settings, architecture)
    options = _options(preprocess)
    model = _guarded(name, None, load_weights=False, force_image_size=size, device="meta", **options)
    length = int(architecture["text_cfg"].get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH))

    def blank(texts: list[str]) -> Tensor:
        return torch.zeros(len(texts), length, dtype=torch.long, device="meta")

    return Opened(model, blank, _pad_id(model, blank), architecture)


def _open_texts(name: str, architecture: dict[str, Any], settings: BackboneSettings) -> Opened:
    """The model of a folder that holds a text tower alone; its image tower is a blank that the backbone drops."""
    own_name, complete = _registered_texts(name, architecture)
    model = _guarded(own_name, None, load_weights=False, **_options({}))
    if settings.pretrained in (None, name):
        weights = text_only.weights_in(_folder_of(name)) if name.startswith(LOCAL_DIR) else None
    else:
        weights = Path(str(settings.pretrained)).expanduser()
        if not weights.is_file():
            raise UserError(f"backbone.pretrained: {name} is a text tower alone and {weights} no file; set it to null.")
    if weights is not None:
        text_only.load_texts(model, weights)
    text = complete["text_cfg"]
    has_own = bool(text.get("hf_model_name"))
    tokenizer = _hf_tokenizer(text) if has_own else _bpe_tokenizer(text.get("context_length", 77))
    return Opened(model, tokenizer, _pad_id(model, tokenizer), architecture)


def _registered_texts(name: str, architecture: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    folder = _folder_of(name) if name.startswith(LOCAL_DIR) else None
    complete = text_only.buildable(architecture, folder)
    return _register(f"texts-of-{folder.resolve().name if folder else name}", complete), complete


def _folder_of(name: str) -> Path:
    return Path(name.removeprefix(LOCAL_DIR))


def _named(settings: BackboneSettings) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, architecture and ``preprocess_cfg`` of the model that ``settings`` means."""
    preprocess: dict[str, Any] = {}
    if settings.config is not None:
        name, preprocess = _register_config(settings.config)
    elif settings.pretrained is not None and settings.pretrained.startswith(LOCAL_DIR):
        name = settings.pretrained
    else:
        name = settings.name
    return name, _architecture(name, texts_alone=settings.features is not None), preprocess


def _register_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Register a user's JSON with open_clip; returns its name and its ``preprocess_cfg`` (may be empty).

    Both forms are read: the bare model config, and open_clip's ``open_clip_config.json`` (``model_cfg`` beside
    ``preprocess_cfg``). Names of HF folders are taken relative to the file when such a folder lies there.
    """
    where = f"backbone.config {path}"
    try:
        content = read_json(path, dict, limit=_CONFIG_LIMIT)
    except UserError as error:
        raise UserError(f"backbone.config cannot be used: {error}") from None
    model, preprocess = content.get("model_cfg", content), content.get("preprocess_cfg", {})
    _check_config(model, where)
    if not isinstance(preprocess, dict):
        raise UserError(f"{where}: preprocess_cfg must be an object; see open_clip's configs.")
    model = {key: value for key, value in model.items() if key != "preprocess_cfg"}
    text = dict(model["text_cfg"])
    for key in ("hf_model_name", "hf_tokenizer_name"):
        beside = path.parent / str(text.get(key, ""))
        if text.get(key) and beside.is_dir():
            text[key] = str(beside.resolve())
    model["text_cfg"] = text
    return _register(path.stem, model), preprocess


def _check_config(model: Any, where: str) -> None:
    """Refuse what is no model of open_clip, and what asks for programs of the model's folder to be run."""
    if not isinstance(model, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(model):
        raise UserError(f"{where} lacks embed_dim, vision_cfg or text_cfg; see open_clip's configs.")
    vision, text = model["vision_cfg"], model["text_cfg"]
    options = text.get("tokenizer_kwargs") or {} if isinstance(text, dict) else None
    if not (isinstance(vision, dict) and isinstance(text, dict) and isinstance(options, dict)):
        raise UserError(f"{where}: vision_cfg, text_cfg and its tokenizer_kwargs are objects; see open_clip's configs.")
    if options.get("trust_remote_code"):
        raise UserError(f"{where}: trust_remote_code runs programs that lie beside the model; remove it.")


def _register(name: str, model: dict[str, Any]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        cleaned = Path(folder) / f"{name}.json"
        cleaned.write_text(json.dumps(model), encoding="utf-8")
        open_clip.add_model_config(cleaned)  # read at once; open_clip skips files that are gone later
    return name


def _architecture(name: str, texts_alone: bool = False) -> dict[str, Any]:
    try:
        config = get_model_config(name if ":" in name else name.replace("/", "-"))
    except Exception as error:
        kind = "folder" if name.startswith(LOCAL_DIR) else "hub model"
        raise UserError(f"The {kind} {name!r} gives no open_clip_config.json ({_first_line(error)}).") from None
    if config is None:
        raise UserError(f"Unknown backbone {name!r}{did_you_mean(nearest(name, open_clip.list_models(), cutoff=0.0))}")
    where = f"the config of {name}"
    if name.startswith(LOCAL_DIR) and isinstance(config, dict) and "vision_cfg" not in config and "text_cfg" in config:
        if not texts_alone:
            raise UserError(
                f"{where} is that of a text tower alone: set backbone.features to a folder of image features."
            )
        _check_config(config | {"vision_cfg": {}}, where)
        return config
    _check_config(config, where)
    return config


def _create(
    name: str, architecture: dict[str, Any], settings: BackboneSettings, preprocess: dict[str, Any]
) -> nn.Module:
    pretrained = settings.pretrained
    is_timm = "timm_model_name" in architecture["vision_cfg"]
    size = _forced_size(settings, architecture)
    common = _options(preprocess)
    if ":" in name and pretrained in (None, name):  # a folder or hub model holds weights of its own
        return _guarded(name, name, require_pretrained=True, force_image_size=size, **common)
    if pretrained is None:
        return _guarded(name, None, load_weights=False, force_image_size=size, **common)
    if pretrained in open_clip.list_pretrained_tags_by_model(name):
        _check_activation(name, pretrained, architecture)
        return _guarded(name, pretrained, force_image_size=size, **common)
    path = Path(pretrained).expanduser()
    if not path.is_file():
        if ":" in name:
            raise UserError(
                f"backbone.pretrained: {name} brings its own weights and {pretrained!r} is no file; "
                "set backbone.pretrained=null."
            )
        if _is_file_name(pretrained):
            raise UserError(f"backbone.pretrained: no weights at {path}; give a file, `{LOCAL_DIR}DIR`, a tag or null.")
        _check_tag(name, pretrained, architecture)
    # A file may hold position embeddings of the tower's own size or of the forced one.
    last: Exception | None = None
    for initial in dict.fromkeys((size, None) if is_timm else (size,)):
        model = _guarded(name, None, load_weights=False, force_image_size=initial, **common)
        try:
            open_clip.load_checkpoint(model, str(path), strict=True)
        except Exception as error:
            last = error
            continue
        if is_timm and size is not None and initial is None:
            visual: Any = model.visual
            visual.set_input_size(size)
            visual.preprocess_cfg["size"] = visual.image_size
        return model
    unreadable = (pickle.UnpicklingError, EOFError, OSError, SafetensorError)
    if isinstance(last, unreadable) or "PytorchStreamReader" in str(last):
        raise UserError(f"backbone.pretrained: {path} cannot be read as weights ({_first_line(last)}).") from last
    raise UserError(f"backbone.pretrained: {path} holds the weights of another model than {name}.") from last


def _forced_size(settings: BackboneSettings, architecture: dict[str, Any]) -> int | None:
    """The side that has to be forced: timm towers ignore ``image_size`` of the JSON otherwise."""
    vision = architecture["vision_cfg"]
    return settings.image_size or (vision.get("image_size") if "timm_model_name" in vision else None)


def _options(preprocess: dict[str, Any]) -> dict[str, Any]:
    return {
        # a [1] logit scale: DeepSpeed refuses parameters without a dimension
        "nonscalar_logit_scale": True,
        "force_preprocess_cfg": preprocess,
        "pretrained_text": False,
    }


def _is_file_name(pretrained: str) -> bool:
    return Path(pretrained).suffix in WEIGHT_FILES or "/" in pretrained


def _check_tag(name: str, tag: str, architecture: dict[str, Any]) -> None:
    """Refuse a tag that ``name`` has no weights of, or of another activation."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        raise UserError(f"backbone.pretrained: no weights at {tag}; give a file, `{LOCAL_DIR}DIR`, a tag or null.")
    if tag not in tags:
        hint = did_you_mean(nearest(tag, tags, cutoff=0.0))
        raise UserError(f"backbone.pretrained: {name} has no weights {tag!r}{hint}")
    _check_activation(name, tag, architecture)


def _check_activation(name: str, tag: str, architecture: dict[str, Any]) -> None:
    """Refuse weights trained with QuickGELU in a model of plain GELU, which open_clip runs after a warning.

    The other way round (one model of open_clip's list) the JSON is right and its list says nothing, so it passes.
    """
    trained_with = (get_pretrained_cfg(name, tag) or {}).get("quick_gelu", False)
    if trained_with and not architecture.get("quick_gelu", False):
        raise UserError(
            f"backbone.pretrained: the weights {tag!r} of {name} were trained with QuickGELU, which {name} does not "
            f"compute; set backbone.name={name}-quickgelu."
        )


def _guarded(name: str, pretrained: str | None, **options: Any) -> nn.Module:
    tag = None if ":" in name else pretrained
    try:
        with _random_weights_are_meant(pretrained is None):
            return open_clip.create_model(name, pretrained=tag, **options)
    except Exception as error:
        weights = f" with weights {pretrained!r}" if pretrained not in (None, name) else ""
        raise UserError(f"Backbone {name!r}{weights} cannot be built: {_first_line(error)}.") from error


@contextlib.contextmanager
def _random_weights_are_meant(meant: bool) -> Iterator[None]:
    """Keep open_clip's warning of a randomly initialised model off the terminal where that was asked for."""

    def wanted(record: logging.LogRecord) -> bool:
        return not (meant and "initialized randomly" in record.getMessage())

    logging.getLogger().addFilter(wanted)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(wanted)


def _tokenizer(name: str, architecture: dict[str, Any], own_config: bool) -> Callable[[list[str]], Tensor]:
    text = architecture["text_cfg"]
    if own_config and not text.get("hf_tokenizer_name"):
        # open_clip would download a SigLIP tokenizer for any name that contains "siglip"
        if text.get("hf_model_name") and Path(text["hf_model_name"]).is_dir():
            return _hf_tokenizer(text)
        return _bpe_tokenizer(text.get("context_length", 77))
    try:
        return open_clip.get_tokenizer(name)
    except Exception as error:
        raise UserError(f"The tokenizer of backbone {name!r} cannot be loaded: {_first_line(error)}.") from error


@functools.lru_cache(maxsize=4)
def _bpe_tokenizer(context_length: int) -> open_clip.SimpleTokenizer:
    """CLIP's own tokenizer; reading its 49,000 merges costs more than building a small model."""
    return open_clip.SimpleTokenizer(context_length=context_length)


def _hf_tokenizer(text: dict[str, Any]) -> Callable[[list[str]], Tensor]:
    try:
        return open_clip.tokenizer.HFTokenizer(
            text["hf_model_name"], context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {})
        )
    except Exception as error:
        raise UserError(f"No tokenizer in {text['hf_model_name']} ({_first_line(error)}).") from error


def _pad_id(model: nn.Module, tokenizer: Callable[[list[str]], Tensor]) -> int:
    """The id that fills a row behind its text: the HF tower's own, else the tokenizer's, else 0 (CLIP's BPE)."""
    config = getattr(getattr(model, "text", None), "config", None)
    for holder in (config, getattr(tokenizer, "tokenizer", None)):
        pad = getattr(holder, "pad_token_id", None)
        if isinstance(pad, int):
            return pad
    return 0


def _first_line(error: BaseException | None) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200].rstrip(".")


def image_mean_std(model: nn.Module) -> tuple[int, Triple, Triple]:
    """Side in pixels, mean and standard deviation that the image tower was trained with.

    Raises ``UserError`` for a tower of non-square input.
    """
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    if not isinstance(size, int):
        height, width = size
        if height != width:
            raise UserError(f"The image tower reads {height}×{width} pixels; only square towers are supported.")
        size = height
    red, green, blue = map(float, config["mean"])
    std_red, std_green, std_blue = map(float, config["std"])
    return int(size), (red, green, blue), (std_red, std_green, std_blue)


def parameters_hash(module_state: dict[str, Tensor], salt: str) -> str:
    """SHA-256 (hex) of ``salt`` and every tensor's name, dtype, shape and bytes, in the order of the names."""
    digest = hashlib.sha256(salt.encode())
    for name in sorted(module_state):
        tensor = module_state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
