"""State as plain JSON beside tensors: what a run stores never needs pickle.

`pack` splits a tree of plain values and tensors into JSON and a flat dict of tensors; `unpack` joins them
again and gives back equal values of the same types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_TENSOR, _TUPLE, _ITEMS = "__tensor__", "__tuple__", "__items__"
_MARKS = {_TENSOR, _TUPLE, _ITEMS}
_SCALARS = (str, int, float, bool, type(None))


def check_plain(value: object, *, where: str) -> None:
    """Check that `value` survives JSON: dicts with string keys, lists, strings, numbers, booleans, None.

    Tuples are allowed and become lists.

    Raises:
        ValueError: something else is in it; names the place and the type.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(
                    f"{where}: key {key!r} is a {type(key).__name__}; JSON keeps only string keys"
                )
            check_plain(item, where=f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_plain(item, where=f"{where}[{index}]")
    elif not isinstance(value, _SCALARS):
        raise ValueError(
            f"{where} is a {type(value).__name__}; allowed are dict, list, str, int, float, bool and None"
        )


def pack(tree: object, *, where: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """Split a tree of dicts, lists, tuples, scalars and tensors into JSON and tensors.

    Args:
        tree: The tree. Dict keys are scalars; dicts with other keys than strings are kept as pairs.
        where: Name of the tree in error messages, and the first part of the tensors' names.

    Returns:
        The JSON value, and the tensors by their place in the tree (`state.ema.weight`).

    Raises:
        ValueError: the tree holds something else (a numpy array, an object); names the place.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(tree, where, tensors), tensors


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Join what `pack` split.

    Raises:
        ValueError: a tensor that the JSON names is missing.
    """
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        name = value[_TENSOR]
        if name not in tensors:
            raise ValueError(f"the stored state names tensor {name!r}, which its tensor file lacks")
        return tensors[name]
    if value.keys() == {_TUPLE}:
        return tuple(unpack(item, tensors) for item in value[_TUPLE])
    if value.keys() == {_ITEMS}:
        return {unpack(key, tensors): unpack(item, tensors) for key, item in value[_ITEMS]}
    return {key: unpack(item, tensors) for key, item in value.items()}


def _pack(value: object, where: str, tensors: dict[str, Tensor]) -> Any:
    from torch import Tensor as TensorType

    if isinstance(value, TensorType):
        name = where
        while name in tensors:
            name += "_"
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        items = [(key, _pack(item, f"{where}.{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and key not in _MARKS for key, _ in items):
            return dict(items)
        return {_ITEMS: [[_pack(key, f"{where} key {key!r}", tensors), item] for key, item in items]}
    if isinstance(value, tuple):
        return {_TUPLE: [_pack(item, f"{where}.{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [_pack(item, f"{where}.{i}", tensors) for i, item in enumerate(value)]
    check_plain(value, where=where)
    return value
