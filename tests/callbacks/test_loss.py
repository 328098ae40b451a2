"""The loss over supervised columns is the model's own loss."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from multitask.callbacks import loss as module  # noqa: E402
from multitask.callbacks.loss import IGNORED, answer_loss, supervised_columns  # noqa: E402

_SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
# Families that differ where the loss is computed: a plain head, tied, scaled, capped, routed.
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"tie_word_embeddings": True},
    "gemma2": {"final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "mixtral": {"output_router_logits": True, "router_aux_loss_coef": 0.1},
}


def _model(family: str = "llama") -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, **_SIZES | special | _FAMILIES[family])
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()


def _unpacked() -> dict[str, Any]:
    torch.manual_seed(1)
    ids = torch.randint(3, 61, (3, 20))
    labels = torch.full_like(ids, IGNORED)
    for row, (first, last) in enumerate([(9, 12), (14, 20), (4, 5)]):
        labels[row, first:last] = ids[row, first:last]
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def _packed() -> dict[str, Any]:
    batch = _unpacked()
    del batch["attention_mask"]
    flat = {key: value.reshape(1, -1) for key, value in batch.items()}
    # The first label of a row that is not the first would be predicted by another row.
    flat["position_ids"] = torch.cat([torch.arange(20)] * 3)[None]
    return flat


def _plain(model: Any, inputs: Any, items: Any, function: Any = None) -> tuple[Any, Any]:
    """As transformers' trainer does (``Trainer.compute_loss``)."""
    more = {} if items is None else {"num_items_in_batch": items}
    if function is None:
        outputs = model(**inputs, **more)
        return outputs["loss"], outputs
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    outputs = model(**inputs, **more)
    return function(outputs, labels, num_items_in_batch=items), outputs


def _gradient(model: Any, loss: Any) -> Any:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _logits_computed(model: Any, compute: Any) -> int:
    """Columns that the output head is given."""
    seen: list[int] = []
    hook = model.lm_head.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1]))
    compute()
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("items", [None, 24])
@pytest.mark.parametrize("batch", [_unpacked, _packed])
@pytest.mark.parametrize("family", _FAMILIES)
def test_loss_and_gradient_are_the_models_own(family: str, batch: Any, items: int | None) -> None:
    model = _model(family)
    own, _ = _plain(model, batch(), items)
    expected = _gradient(model, own)
    found: list[Any] = []

    def compute() -> None:
        found.extend(answer_loss(_plain, model, batch(), items))

    columns = _logits_computed(model, compute)
    loss, _, losses = found
    assert columns == len(supervised_columns(batch()["labels"])) < batch()["labels"].shape[1]
    assert loss.item() == pytest.approx(own.item(), rel=1e-6)
    assert torch.allclose(_gradient(model, loss), expected, rtol=1e-5, atol=1e-6)
    if family != "mixtral":  # its loss is not of tokens alone
        mean = losses.sum() / (items or (batch()["labels"] != IGNORED).sum())
        assert float(mean) == pytest.approx(float(own), rel=1e-5)


def test_a_batch_without_answers_has_a_loss_of_zero() -> None:
    model, batch = _model(), _packed()
    batch["labels"][:] = IGNORED
    loss, _, _ = answer_loss(_plain, model, batch, None)
    assert loss.item() == 0.0
    assert not _gradient(model, loss).any()


def test_a_model_that_cannot_choose_columns_computes_its_own_loss() -> None:
    model = _model()

    class Whole(type(model)):  # type: ignore[misc]
        def forward(self, input_ids: Any, labels: Any = None, **more: Any) -> Any:
            return super().forward(input_ids=input_ids, labels=labels, **more)

    whole = copy.deepcopy(model)
    whole.__class__ = Whole
    own, _ = _plain(model, _packed(), None)
    loss, _, losses = answer_loss(_plain, whole, _packed(), None)
    assert torch.equal(loss, own)
    assert losses.sum() > 0


def test_switched_off_the_batch_is_the_trainers() -> None:
    model = _model()
    batch = _packed() | {module.COLUMNS: torch.tensor([1])}
    loss, outputs, _ = answer_loss(_plain, model, batch, None, enabled=False)
    assert torch.equal(loss, _plain(model, _packed(), None)[0])
    assert outputs["logits"].shape[1] == 60


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Llama with Liger's own forward pass; its Triton kernel is replaced by its definition."""
    from liger_kernel.transformers import functional
    from liger_kernel.transformers.model.llama import lce_forward

    def kernel(hidden: Any, weight: Any, target: Any, **more: Any) -> Any:
        loss = torch.nn.functional.cross_entropy(
            hidden @ weight.T, target, reduction=more["reduction"], ignore_index=IGNORED
        )
        seen.append(len(target))
        return functional.CrossEntropyOutput(loss=loss)

    seen: list[int] = []
    monkeypatch.setattr(functional, "liger_fused_linear_cross_entropy", kernel)
    model = _model()
    monkeypatch.setattr(type(model), "forward", lce_forward)
    model.seen = seen
    return model


@pytest.mark.parametrize("items", [None, 24])
@pytest.mark.parametrize("batch", [_unpacked, _packed])
def test_ligers_fused_loss_is_of_the_supervised_columns(
    liger: Any, monkeypatch: pytest.MonkeyPatch, batch: Any, items: int | None
) -> None:
    """Where logits are few they are made, for the losses of tasks; where many, the kernel is."""
    own, _ = _plain(liger, batch(), items)
    expected = _gradient(liger, own)
    assert liger.seen == [60]
    loss, _, losses = answer_loss(_plain, liger, batch(), items)
    assert liger.seen == [60]
    assert losses is not None
    assert torch.allclose(_gradient(liger, loss), expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(module, "LOGITS_HELD", 100)
    loss, _, losses = answer_loss(_plain, liger, batch(), items)
    labels = batch()["labels"]
    assert liger.seen[1:] == [len(supervised_columns(labels)) * len(labels)]
    assert losses is None
    assert loss.item() == pytest.approx(own.item(), rel=1e-6)
    assert torch.allclose(_gradient(liger, loss), expected, rtol=1e-5, atol=1e-6)
