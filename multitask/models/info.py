"""What must be known of a model before it is there: looked up, else inferred, and said so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multitask.errors import InputError, MultitaskError
from multitask.files import read_json
from multitask.models.architectures import known_architectures, shape_of
from multitask.models.family import (
    Checkpoint,
    Family,
    TemplateChoice,
    attention_of,
    family_of_config,
    family_of_id,
    fitting_kernels,
)
from multitask.models.meta import shape_by_transformers, transformers_installed
from multitask.models.shape import ModelShape

# By model_type, where a config.json leaves `is_encoder_decoder` to the class's default.
ENCODER_DECODERS = frozenset(
    ("t5", "mt5", "umt5", "longt5", "t5gemma", "bart", "mbart", "pegasus", "marian", "blenderbot")
)

_BY_NAME = (
    "{model} is taken for a {family} model by its name; its size is not listed in configs/models "
    "and its config.json is not on this machine, so memory and time cannot be estimated"
)
_NOTHING_KNOWN = (
    "nothing is known of {model}: it is not in configs/models, and its config.json is not on this "
    "machine. The layer to wrap is left to accelerate, packing and fused kernels stay off, and "
    "memory cannot be estimated. Download it first, or add a file to configs/models"
)


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model.

    The defaults are what to do with a model of which nothing is known: leave the choice to
    accelerate and transformers, and use nothing that could be wrong.

    Attributes:
        family: The file of ``configs/models`` that describes it; None when none does.
        layer_class: Decoder layer class that FSDP wraps; None leaves the choice to accelerate,
            which takes the model's own ``_no_split_modules``.
        model_type: As in config.json; None when it is not known.
        shape: Its sizes; None when they are not known.
        config: Keys of config.json that rebuild the architecture; None when they are not known.
        chat_template: Axolotl's ``chat_template``.
        special_tokens: Axolotl's ``special_tokens``.
        eot_tokens: Axolotl's ``eot_tokens``; empty: the tokenizer's eos ends a turn.
        attention: Attention implementations that are right for it, best first.
        packing: Attention implementations with which packed rows do not see each other.
        liger: Keys of Axolotl's Liger plugin that there are kernels for.
        cut_cross_entropy: Whether Axolotl's cut cross entropy knows the architecture.
        lora_kernels: Whether Axolotl's fused LoRA kernels can be patched in; where not, the
            ``lora_*_kernel`` keys must be false, since Axolotl turns them on by itself.
        lora_target_modules: Axolotl's key of that name (layer names, or a regular expression over
            module paths), to set in place of ``lora_target_linear``; None: not needed.
        unfrozen_parameters: Axolotl's key for full fine-tuning: what learns; empty: everything.
        trust_remote_code: Whether loading runs code from the model's repository.
        gated: The page where conditions must be accepted; None when it is open.
        licence: Under which the weights are given.
        notes: What was inferred and from what, and what could not be known.
    """

    family: str | None = None
    layer_class: str | None = None
    model_type: str | None = None
    shape: ModelShape | None = None
    config: Mapping[str, Any] | None = None
    chat_template: str = "tokenizer_default"
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    eot_tokens: tuple[str, ...] = ()
    attention: tuple[str, ...] = ("sdpa", "eager")
    packing: tuple[str, ...] = ()
    liger: tuple[str, ...] = ()
    cut_cross_entropy: bool = False
    lora_kernels: bool = False
    lora_target_modules: tuple[str, ...] | str | None = None
    unfrozen_parameters: tuple[str, ...] = ()
    trust_remote_code: bool = False
    gated: str | None = None
    licence: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def encoder_decoder(self) -> bool:
        """Whether an encoder reads the prompt, as in T5 and BART."""
        return bool(self.config and self.config.get("is_encoder_decoder")) or (
            self.model_type in ENCODER_DECODERS
        )

    @property
    def alpaca(self) -> bool:
        """Whether prompts take the Alpaca form, for want of a chat template."""
        return self.chat_template == "alpaca"

    def attention_on(self, *, flash: bool) -> str:
        """The attention implementation to use.

        Args:
            flash: Whether the machine can run flash attention (a GPU of sm_80 or newer).
        """
        usable = [name for name in self.attention if flash or not name.startswith("flash")]
        return usable[0] if usable else "eager"


def model_info(model: str, base: Path) -> ModelInfo:
    """Find out what is known of a model, without a network.

    A local folder's own config.json comes first; then the checkpoints listed in
    ``configs/models``; then the Hub's cache on this machine.

    Args:
        model: A Hub id or a path, relative ones taken from ``base``.
        base: The run directory.

    Raises:
        InputError: The local model's config.json cannot be read.
    """
    folder = base / model
    if (folder / "config.json").is_file():
        return _from_config(model, _read(folder / "config.json"), folder)
    family = family_of_id(model)
    entry = None if family is None else family.checkpoint(model)
    if family is not None and entry is not None:
        config = family.config_of(entry)
        return _described(
            family,
            model,
            family.chat if family.is_chat(model) else family.base,
            config=config,
            shape=shape_of(config),
            checkpoint=entry,
        )
    cached = _cached_config(model)
    if cached is not None:
        return _from_config(model, _read(cached), cached.parent, family)
    if family is not None:
        return _described(
            family,
            model,
            family.chat if family.is_chat(model) else family.base,
            notes=(_BY_NAME.format(model=model, family=family.description),),
        )
    return ModelInfo(notes=(_NOTHING_KNOWN.format(model=model),))


def _described(
    family: Family,
    model: str,
    template: TemplateChoice,
    *,
    config: Mapping[str, Any] | None = None,
    shape: ModelShape | None = None,
    checkpoint: Checkpoint | None = None,
    local: bool = False,
    notes: tuple[str, ...] = (),
) -> ModelInfo:
    checkpoint = checkpoint or Checkpoint()
    return ModelInfo(
        family=family.name,
        layer_class=family.layer_class,
        model_type=str(config["model_type"]) if config else family.model_types[0],
        shape=shape,
        config=config,
        chat_template=template.chat_template,
        special_tokens=template.special_tokens,
        eot_tokens=template.eot_tokens,
        attention=family.attention,
        packing=family.packing,
        liger=fitting_kernels(family, config),
        cut_cross_entropy=family.cut_cross_entropy,
        lora_kernels=family.lora_kernels,
        lora_target_modules=checkpoint.lora_target_modules or family.lora_target_modules,
        unfrozen_parameters=checkpoint.unfrozen_parameters,
        trust_remote_code=family.trust_remote_code and not local,
        gated=f"https://huggingface.co/{model}" if family.gated and not local else None,
        licence=family.licence,
        notes=notes,
    )


def _from_config(
    model: str, config: Mapping[str, Any], folder: Path, named: Family | None = None
) -> ModelInfo:
    """Infer from a config.json and the tokenizer files beside it."""
    family, twin = family_of_config(config)
    family = named or family
    if config.get("alibi"):
        family = None  # a Falcon-RW: nothing that falcon.yaml says of attention holds
    template, notes = _template_of(folder, family, is_chat=bool(named and named.is_chat(model)))
    (shape, layer_class), shape_notes = _shape(
        config, family.layer_class if family else None, folder / "config.json"
    )
    if family is not None:
        how = f"has the sizes of {twin}" if twin else f"model_type {config.get('model_type')!r}"
        said = f"{model}: taken for {family.description} ({how} in its config.json)"
        return _described(
            family,
            model,
            template,
            config=config,
            shape=shape,
            local=named is None,
            notes=(said, *notes, *shape_notes),
        )
    model_type = config.get("model_type")
    said = (
        f"{model}: architecture {model_type!r} is not in configs/models; packing and fused kernels "
        "stay off, attention is left to PyTorch"
    )
    return ModelInfo(
        layer_class=layer_class,
        model_type=None if model_type is None else str(model_type),
        shape=shape,
        config=config,
        chat_template=template.chat_template,
        special_tokens=template.special_tokens,
        eot_tokens=template.eot_tokens,
        attention=attention_of(config) or ("sdpa", "eager"),
        notes=(said, *notes, *shape_notes),
    )


def _shape(
    config: Mapping[str, Any], layer_class: str | None, where: Path
) -> tuple[tuple[ModelShape | None, str | None], tuple[str, ...]]:
    """Shape and layer class, by formula, else from transformers' own model."""
    model_type = config.get("model_type")
    said: tuple[str, ...] = ()
    if model_type in known_architectures() and layer_class is not None:
        try:
            return (shape_of(config, where=where), layer_class), ()
        except InputError as error:
            said = (f"{error}; transformers' default is taken",)
    if not transformers_installed():
        note = f"counting the parameters of this {model_type!r} model needs transformers installed"
        return (None, layer_class), (*said, note)
    try:
        shape, inferred = shape_by_transformers(config)
    except MultitaskError as error:
        return (None, layer_class), (*said, f"its sizes are not known: {error}")
    note = f"transformers builds it with {shape.parameters:,} parameters in layers of {inferred}"
    return (shape, layer_class or inferred), (*said, note)


def _template_of(
    folder: Path, family: Family | None, *, is_chat: bool
) -> tuple[TemplateChoice, tuple[str, ...]]:
    """What the tokenizer files of a model say of its chat template and pad token."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        if family is None:
            return TemplateChoice(), ("no tokenizer_config.json: its chat template is not known",)
        kind = "chat" if is_chat else "base"
        note = f"no tokenizer_config.json: treated as a {kind} model of its family"
        return (family.chat if is_chat else family.base), (note,)
    tokenizer = _read(path)
    has_template = (
        bool(tokenizer.get("chat_template")) or (folder / "chat_template.jinja").is_file()
    )
    choice = "tokenizer_default" if has_template else "alpaca"
    note = (
        "its tokenizer brings a chat template"
        if has_template
        else "its tokenizer brings no chat template: the Alpaca form is used"
    )
    if tokenizer.get("pad_token") or family is None:
        return TemplateChoice(chat_template=choice), (note,)
    pad = {k: v for k, v in family.base.special_tokens.items() if k == "pad_token"}
    return TemplateChoice(chat_template=choice, special_tokens=pad), (note,)


def _cached_config(model: str) -> Path | None:
    """The config.json of a Hub model that this machine has downloaded before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, fix="fetch the model again, or copy it again")
