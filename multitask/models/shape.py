"""The shape of a model: its linear layers and sizes, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from multitask.errors import InputError

ALL_LINEAR = ("all-linear",)
"""Target modules that mean every linear layer but the output head, as in peft and in Axolotl's
``lora_target_linear``."""


@dataclass(frozen=True)
class Linear:
    """A kind of linear layer.

    Attributes:
        name: Its name inside a decoder layer, as in ``q_proj``.
        inputs: Input features.
        outputs: Output features.
        count: How many of them the model has.
        bias: Whether each has a bias.
    """

    name: str
    inputs: int
    outputs: int
    count: int = 1
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Weights and biases of all of them."""
        return self.count * (self.inputs * self.outputs + (self.outputs if self.bias else 0))


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model, enough to count its parameters and its activations.

    Attributes:
        model_type: As in config.json (``llama``).
        hidden_size: Width of the residual stream.
        layers: Decoder layers; in an encoder-decoder those of both stacks.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Features of a head.
        intermediate_size: Width of the MLP.
        gated: Whether the MLP has a gate, as SwiGLU and GeGLU have.
        vocab_size: Rows of the embedding.
        max_positions: Longest sequence that the model was made for; None without a limit.
        linears: The linear layers inside the decoder layers.
        embeddings: Parameters of the input embedding (and of learned positions).
        head: Parameters of an output head of its own; 0 where it shares the embedding.
        norms: Parameters of normalisation layers and all others.
        frozen: Parameters of parts that training on text leaves alone, such as a vision tower.
    """

    model_type: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    gated: bool
    vocab_size: int
    max_positions: int | None
    linears: tuple[Linear, ...]
    embeddings: int
    head: int
    norms: int
    frozen: int = 0

    @property
    def tied(self) -> bool:
        """Whether the output head shares the embedding's weights."""
        return self.head == 0

    @property
    def linear_parameters(self) -> int:
        """Parameters of the linear layers inside the decoder layers, which quantisation shrinks."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def parameters(self) -> int:
        """All parameters, shared ones counted once."""
        return self.trainable_parameters + self.frozen

    @property
    def trainable_parameters(self) -> int:
        """Parameters that full fine-tuning on text changes."""
        return self.linear_parameters + self.embeddings + self.head + self.norms

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer: what FSDP gathers at a time."""
        return self.linear_parameters // self.layers

    @property
    def linear_names(self) -> tuple[str, ...]:
        """Names of the linear layers inside the decoder layers, each once."""
        return tuple(dict.fromkeys(linear.name for linear in self.linears))

    def targets(self, names: Iterable[str] = ALL_LINEAR) -> tuple[Linear, ...]:
        """The linear layers that an adapter with these target modules wraps.

        Args:
            names: Names of layers, or :data:`ALL_LINEAR`.

        Raises:
            InputError: A name is not one of the model's.
        """
        wanted = tuple(names)
        if wanted == ALL_LINEAR:
            return self.linears
        unknown = [name for name in wanted if name not in self.linear_names]
        if unknown:
            raise InputError(
                f"a {self.model_type} model has no linear layer {unknown[0]!r}",
                where="key 'lora_target_modules'",
                fix=f"choose among {', '.join(self.linear_names)}",
            )
        return tuple(linear for linear in self.linears if linear.name in wanted)


def lora_parameters(linears: Iterable[Linear], rank: int) -> int:
    """Trainable parameters of LoRA: A is rank by inputs, B is outputs by rank (Hu et al. 2021).

    rsLoRA, LoRA+ and PiSSA differ in scale, learning rate and start, not in number.
    """
    return sum(rank * (layer.inputs + layer.outputs) * layer.count for layer in linears)


def dora_parameters(linears: Iterable[Linear], rank: int) -> int:
    """Trainable parameters of DoRA: LoRA and a magnitude per output feature (Liu et al. 2024)."""
    linears = tuple(linears)
    return lora_parameters(linears, rank) + sum(layer.outputs * layer.count for layer in linears)


def adalora_parameters(linears: Iterable[Linear], initial_rank: int) -> int:
    """Trainable parameters of AdaLoRA at its start: P, Q and a singular value per rank.

    Args:
        linears: The layers it wraps.
        initial_rank: ``init_r``; pruning lowers the rank during training, the memory stays.

    Source: Zhang et al. 2023, arXiv 2303.10512.
    """
    linears = tuple(linears)
    return lora_parameters(linears, initial_rank) + sum(
        initial_rank * layer.count for layer in linears
    )
