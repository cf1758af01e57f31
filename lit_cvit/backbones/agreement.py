"""Whether the parts of a model folder belong together: model, tokenizer and image processor.

They come in files of their own, and one that was changed, or copied from another model, would show in the
middle of a run: as an index out of range (on a GPU, as a failed assertion of the device), as features that do
not fit their places, or in nothing but bad answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lit_cvit.utils.wording import listed

Facts = Mapping[str, tuple[Any, Any]]
"""What a number is, to its values in the model's config and in its tokenizer or image processor."""


def require(name: str, config: Any, tokenizer: Any, facts: Facts) -> None:
    """Refuse a folder whose config does not fit its tokenizer and image processor; needs no weights.

    Args:
        name: The backbone's name or path.
        config: The model's config.
        tokenizer: Its tokenizer.
        facts: What must be equal; a value that is None says nothing.

    Raises:
        ValueError: a pair differs, or the tokenizer is larger than the embedding; names both values.
    """
    require_embeddings(name, tokenizer, config.get_text_config().vocab_size)
    for what, (of_config, of_processor) in facts.items():
        if None not in (of_config, of_processor) and of_config != of_processor:
            raise ValueError(
                f"backbone name_or_path {name!r}: {what} is {_shown(of_config)} in config.json, but "
                f"{_shown(of_processor)} in the files of its tokenizer and image processor; copy the files "
                "of one model, or write the model's value into both"
            )


def require_embeddings(name: str, tokenizer: Any, rows: int) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings; spare embeddings are usual.

    Args:
        name: The backbone's name or path.
        tokenizer: Its tokenizer.
        rows: Rows of the embedding.

    Raises:
        ValueError: the tokenizer is larger; names both numbers and the tokens.
    """
    known: dict[str, int] = tokenizer.get_vocab()
    number = 1 + max(known.values(), default=-1)
    if number <= rows:
        return
    in_order = sorted(known.items(), key=lambda each: each[1])
    beyond = [repr(token) for token, index in in_order if index >= rows]
    raise ValueError(
        f"backbone name_or_path {name!r}: its tokenizer has {number} tokens, its model {rows} rows of "
        f"embeddings, so that there are none for {listed(beyond)}; resize the embeddings "
        f"(`model.resize_token_embeddings({number})` in transformers, and save the model there), or remove "
        "the tokens from the tokenizer"
    )


def image_token(config: Any, tokenizer: Any, token: str) -> Facts:
    """The number of the image token; a tokenizer without it has none, nor has the config of some families."""
    numbers = (getattr(config, "image_token_id", None), tokenizer.get_vocab().get(token))
    return {f"the number of the image token {token!r}": numbers}


def image_side(image_processor: Any) -> tuple[int, int] | None:
    """Height and width in pixels of what an image processor makes of one tile; None where it varies."""
    size = dict(image_processor.crop_size if image_processor.do_center_crop else image_processor.size)
    return (size["height"], size["width"]) if {"height", "width"} <= size.keys() else None


def pair(value: Any) -> tuple[int, int]:
    """Height and width out of a config, which has one number where they are equal."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def families(attribute: str, kinds: Iterable[type]) -> list[type]:
    """The classes, and those below, that have an attribute of their own; not those that only inherit it."""
    below = [each for kind in kinds for each in (kind, *families(attribute, kind.__subclasses__()))]
    return [kind for kind in below if attribute in vars(kind)]


def other_family(name: str, kind: Any, found: str, known: Iterable[Any]) -> ValueError:
    """The error of a folder whose model is of another type than a backbone takes.

    Args:
        name: The backbone's name or path.
        kind: Class of the backbone.
        found: Type of the model.
        known: Classes of all families.
    """
    takers = [each.__name__ for each in known if found in each.model_types]
    advice = f"use --model.backbone {' or '.join(takers)}" if takers else "no backbone takes it"
    return ValueError(
        f"backbone {kind.__name__} takes models of type {', '.join(kind.model_types)}; name_or_path {name!r} "
        f"is of type {found!r}; {advice}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
