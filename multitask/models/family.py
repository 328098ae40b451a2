"""The families of models that are described in ``configs/models``."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Any

from pydantic import Field, ValidationError

from multitask.errors import InputError
from multitask.resources import config_names, load_config, resource_dir
from multitask.task_spec import StrictModel


class TemplateChoice(StrictModel):
    """How a conversation becomes text.

    Attributes:
        chat_template: Axolotl's key: ``tokenizer_default``, or one of its built-in templates.
        eot_tokens: Axolotl's key: tokens that end a turn, where the tokenizer's eos does not.
        special_tokens: Axolotl's key: tokens that the tokenizer lacks or should name otherwise.
    """

    chat_template: str = "tokenizer_default"
    eot_tokens: tuple[str, ...] = ()
    special_tokens: dict[str, str] = Field(default_factory=dict)


class Checkpoint(StrictModel):
    """Models of the same shape.

    Attributes:
        base: Hub ids of pre-trained models.
        chat: Hub ids of their chat or instruction-tuned versions.
        config: Keys of config.json that set this size; they win over the family's.
        lora_target_modules: Axolotl's key, where it differs from the family's.
        unfrozen_parameters: Axolotl's key for full fine-tuning: what learns, when not all may.
    """

    base: tuple[str, ...] = ()
    chat: tuple[str, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict)
    lora_target_modules: str | None = None
    unfrozen_parameters: tuple[str, ...] = ()


class Family(StrictModel):
    """A file of ``configs/models``.

    Attributes:
        name: The file's name.
        description: One line for people.
        extends: The family whose keys hold where this file has none.
        model_types: Values of ``model_type`` in config.json.
        layer_class: Decoder layer class of transformers: what FSDP wraps.
        attention: Attention implementations that compute what the model was trained with, best
            first.
        packing: Attention implementations that keep packed rows apart.
        liger: Keys of Axolotl's Liger plugin that there are kernels for.
        cut_cross_entropy: Whether Axolotl lists the architecture for its plugin of that name.
        lora_kernels: Whether Axolotl can patch in its fused LoRA kernels.
        lora_target_modules: Layers to name instead of ``lora_target_linear``; None: not needed.
        trust_remote_code: Whether loading runs code from the model's repository.
        gated: Whether conditions must be accepted on the model's page first.
        licence: Under which the weights are given.
        hub_patterns: Shell patterns of the Hub ids that belong to the family.
        chat_patterns: Those among them that are chat models.
        base_patterns: Those that are not, although a chat pattern fits.
        base: Template of base models.
        chat: Template of chat models.
        config: Keys of config.json that all checkpoints share.
        checkpoints: Known models with their shapes.
    """

    name: str
    description: str
    extends: str | None = None
    model_types: Annotated[tuple[str, ...], Field(min_length=1)]
    layer_class: str
    attention: Annotated[tuple[str, ...], Field(min_length=1)]
    packing: tuple[str, ...]
    liger: tuple[str, ...]
    cut_cross_entropy: bool
    lora_kernels: bool
    lora_target_modules: tuple[str, ...] | None = None
    trust_remote_code: bool = False
    gated: bool = False
    licence: str | None = None
    hub_patterns: tuple[str, ...] = ()
    chat_patterns: tuple[str, ...] = ()
    base_patterns: tuple[str, ...] = ()
    base: TemplateChoice
    chat: TemplateChoice = TemplateChoice()
    config: dict[str, Any] = Field(default_factory=dict)
    checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Hub ids of all known models of the family."""
        return tuple(i for one in self.checkpoints for i in (*one.base, *one.chat))

    def checkpoint(self, model: str) -> Checkpoint | None:
        """The entry of a Hub id, upper and lower case alike as on the Hub."""
        for one in self.checkpoints:
            if model.lower() in (i.lower() for i in (*one.base, *one.chat)):
                return one
        return None

    def config_of(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The keys of config.json that rebuild a checkpoint's architecture."""
        return {"model_type": self.model_types[0]} | self.config | checkpoint.config

    def owns(self, model: str) -> bool:
        """Whether a Hub id belongs to the family."""
        return self.checkpoint(model) is not None or _fits(model, self.hub_patterns)

    def is_chat(self, model: str) -> bool:
        """Whether a Hub id of the family names a chat model."""
        entry = self.checkpoint(model)
        if entry is not None:
            return model.lower() in (i.lower() for i in entry.chat)
        return _fits(model, self.chat_patterns) and not _fits(model, self.base_patterns)


def _fits(model: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(model.lower(), pattern.lower()) for pattern in patterns)


@cache
def families() -> Mapping[str, Family]:
    """All families of ``configs/models``, by name.

    Raises:
        InputError: A file has an unknown key or a wrong value.
    """
    return {name: _load(name) for name in config_names("models")}


def _load(name: str) -> Family:
    content = load_config("models", name, key="model")
    if "extends" in content:
        parent = load_config("models", content["extends"], key="extends")
        content = parent | content
    try:
        return Family.model_validate({"name": name} | content)
    except ValidationError as error:
        issue = error.errors()[0]
        key = ".".join(str(part) for part in issue["loc"])
        where = resource_dir("configs/models") / f"{name}.yaml"
        raise InputError(f"key '{key}': {issue['msg']}", where=where) from None


def family_of_id(model: str) -> Family | None:
    """The family that a Hub id belongs to: a listed id first, then the patterns."""
    known = families().values()
    for family in known:
        if family.checkpoint(model) is not None:
            return family
    return next((family for family in known if family.owns(model)), None)


def family_of_config(config: Mapping[str, Any]) -> tuple[Family | None, str | None]:
    """The family that a configuration belongs to.

    Returns:
        The family, and the listed model that has all the same sizes. Without one, the family is
        the file that describes the architecture as a whole.
    """
    model_type = config.get("model_type")
    same = [family for family in families().values() if model_type in family.model_types]
    for family in same:
        for checkpoint in family.checkpoints:
            keys = family.config_of(checkpoint)
            if all(_sizes(config).get(key) == value for key, value in _sizes(keys).items()):
                return family, (*checkpoint.base, *checkpoint.chat)[0]
    general = [family for family in same if family.extends is None]
    return (general[0] if general else None), None


def attention_of(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Attention implementations that compute what a model was trained with, best first.

    Args:
        config: The content of its config.json.

    Returns:
        The family's list; ``eager`` alone where the configuration has something that other
        implementations leave out without a word; None where nothing speaks against transformers'
        own choice.
    """
    text = config.get("text_config") or config
    # ALiBi, and soft-capped scores, which transformers' sdpa ignores (sdpa_attention_forward takes
    # `softcap` among its unused keyword arguments).
    if text.get("alibi") or config.get("alibi"):
        return ("eager",)
    family, _ = family_of_config(config)
    if family is not None:
        return family.attention
    return ("eager",) if text.get("attn_logit_softcapping") else None


def rotary_share(config: Mapping[str, Any]) -> float:
    """The share of each head's features that rotary positions turn; 1 where nothing is said."""
    text = config.get("text_config") or config
    sections = [text, text.get("rope_parameters"), text.get("rope_scaling")]
    # Models with several sorts of layers give each its own parameters.
    sections += [
        inner for part in sections[1:] if isinstance(part, dict) for inner in part.values()
    ]
    found = [
        float(section[key])
        for section in sections
        if isinstance(section, Mapping)
        for key in ("partial_rotary_factor", "rotary_pct")
        if isinstance(section.get(key), (int, float))
    ]
    return min(found, default=1.0)


def fitting_kernels(family: Family, config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The Liger kernels of a family that are right for one of its models.

    Args:
        family: The model's.
        config: The content of its config.json; None when it is not known, which leaves out what
            depends on it.
    """
    wrong = set()
    # liger_kernel/ops/rope.py turns all features of a head, whatever the width of cos and sin.
    if config is None or rotary_share(config) != 1.0:
        wrong.add("liger_rope")
    text = (config or {}).get("text_config") or config or {}
    activation = text.get("hidden_activation") or text.get("hidden_act")
    # liger_kernel/transformers/{swiglu,geglu}.py: layers without biases, with these functions.
    if text.get("mlp_bias") or activation not in (None, "silu", "swish", "gelu_pytorch_tanh"):
        wrong.add("liger_glu_activation")
    return tuple(key for key in family.liger if key not in wrong)


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    text = config.get("text_config", config)
    return {key: value for key, value in text.items() if key in _SIZES}


# What tells one checkpoint from another of the same architecture; transformers rewrites other keys
# (rope, token ids) when it saves a model.
_SIZES = {
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "n_layer",
    "num_attention_heads",
    "n_head",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
}
