"""Which row of a data file each row of Axolotl's tokenised dataset is.

Axolotl keeps only tokens. It shuffles a file with a seed, drops rows that are too long, and keeps
the order otherwise; all three are done again here on row numbers, and checked on a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multitask.callbacks.rows import IGNORED, RowFile, Tokenize
from multitask.data.render import Row
from multitask.errors import MultitaskError
from multitask.scoring.encode import Encoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CHECKED = 16
_SHORTEST = 2


def axolotl_tokenizer(cfg: Any, dataset: Any, tokenizer: Any) -> Tokenize:
    """Axolotl's own way from a row to tokens and labels; ``dataset`` is the row's entry in cfg."""
    from axolotl.prompt_strategies import load

    strategy = load(dataset["type"], tokenizer, cfg, dataset)

    def tokenize(row: Row) -> tuple[list[int], list[int]]:
        out = strategy.tokenize_prompt(row)
        return list(out["input_ids"]), list(out["labels"])

    return tokenize


def align_dataset(
    file: RowFile, dataset: Any, tokenize: Tokenize, cfg: Any, *, longest: int
) -> NDArray[np.int64]:
    """:func:`align`, with what Axolotl's configuration says of shuffling and cutting."""
    shuffles = cfg.shuffle_merged_datasets and not cfg.curriculum_sampling
    return align(
        file,
        dataset,
        tokenize,
        longest=longest,
        shuffle_seed=int(cfg.seed) if shuffles else None,
        truncated=cfg.excess_length_strategy == "truncate",
    )


def align(
    file: RowFile,
    dataset: Any,
    tokenize: Tokenize,
    *,
    longest: int,
    shuffle_seed: int | None,
    truncated: bool = False,
) -> NDArray[np.int64]:
    """Find the file's row of each row of a tokenised dataset.

    Args:
        file: What Axolotl was given.
        dataset: What it made of it.
        tokenize: How it did.
        longest: Most tokens of a row.
        shuffle_seed: The seed it shuffled with; None where it did not.
        truncated: Whether rows above ``longest`` were cut instead of dropped.

    Returns:
        For each row of ``dataset``, its number in the file.

    Raises:
        MultitaskError: The dataset was not made from this file in the way that Axolotl does it.
    """
    import numpy as np

    order = np.arange(len(file), dtype=np.int64)
    if shuffle_seed is not None:
        order = order[_permutation(len(file), shuffle_seed)]
    missing = len(file) - len(dataset)
    if missing:
        order = order[~np.isin(order, _dropped(file, tokenize, missing, longest))]
    if len(order) != len(dataset):
        raise _misaligned(file, f"{len(dataset)} rows came of {len(file)}")
    for place in _sample(len(dataset)):
        ids, labels = tokenize(file.row(order[place]))
        if truncated:
            ids, labels = ids[:longest], labels[:longest]
        found = dataset[int(place)]
        if list(found["input_ids"]) != ids or list(found["labels"]) != labels:
            raise _misaligned(file, f"row {place} has other tokens")
    return order


def check_turn(row: Row, tokenize: Tokenize, tokenizer: Any) -> str:
    """Check that what scoring counts of an answer is what training learns.

    Args:
        row: A row of the run's data.
        tokenize: Axolotl's way from a row to tokens and labels.
        tokenizer: The training's tokenizer.

    Returns:
        What is learned of the row, as text.

    Raises:
        MultitaskError: A token that scoring counts is not trained, such as the end of the turn,
            or the chat template cannot be scored.
    """
    ids, labels = tokenize(row)
    prompt, answer = (message["content"] for message in row["messages"][-2:])
    encoded = Encoder(tokenizer).encode(prompt, [answer])
    scored = list(encoded.answers[0])
    begin = len(encoded.prompt)
    if ids[begin : begin + len(scored)] != scored:
        raise MultitaskError(
            "training renders a row otherwise than scoring: its answer would be "
            f"{tokenizer.decode(ids[begin : begin + len(scored)])!r}, and "
            f"{tokenizer.decode(scored)!r} is scored",
            where=f"row {row['id']}",
            fix="remove keys under `axolotl` that change the chat template",
        )
    learned = [token for token, label in zip(ids, labels, strict=True) if label != IGNORED]
    for token, label in zip(scored, labels[begin:], strict=False):
        if label == IGNORED:
            raise MultitaskError(
                f"{tokenizer.decode([token])!r} of the answer {tokenizer.decode(scored)!r} is not "
                f"trained (what is: {tokenizer.decode(learned)!r}), and scoring counts it",
                where="axolotl.yaml: eot_tokens",
                fix="name the token that ends an answer in the chat template as `eot_tokens`",
            )
    return str(tokenizer.decode(learned))


def _permutation(count: int, seed: int) -> NDArray[np.int64]:
    """The order into which ``datasets`` shuffles that many rows."""
    import numpy as np
    from datasets import Dataset

    numbers = Dataset.from_dict({"row": np.arange(count)}).shuffle(seed=seed)["row"]
    return np.asarray(numbers, dtype=np.int64)


def _dropped(file: RowFile, tokenize: Tokenize, missing: int, longest: int) -> list[int]:
    """The rows that are too long, or too short; the longest in bytes are looked at first."""
    import numpy as np

    found: list[int] = []
    sizes = np.diff(file.offsets)
    for number in np.argsort(-sizes, kind="stable"):
        # A token is a byte at least, and a line holds more than the conversation.
        if sizes[number] < longest // 2:
            break
        length = len(tokenize(file.row(int(number)))[0])
        if not _SHORTEST <= length <= longest:
            found.append(int(number))
            if len(found) == missing:
                break
    return found


def _sample(count: int) -> list[int]:
    import numpy as np

    if count == 0:
        return []
    drawn = np.random.default_rng(0).integers(0, count, _CHECKED)
    return sorted({0, count - 1, *map(int, drawn)})


def _misaligned(file: RowFile, what: str) -> MultitaskError:
    return MultitaskError(
        f"Axolotl's tokenised dataset does not follow the file: {what}",
        where=file.path,
        fix="remove `dataset_prepared_path` of the run, and keys under `axolotl` that change rows",
    )
