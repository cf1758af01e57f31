"""Settings that most benchmarks have: sizes, a seed, an order of the tasks."""

from __future__ import annotations

from collections.abc import Mapping

from lit_cvit.utils.suggest import unknown


def check_settings(benchmark: str, *, seed: int, **sizes: int) -> None:
    """Refuse sizes and a seed that are none.

    Raises:
        ValueError: a size or the seed is no whole number, or a size is below 1.
    """
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{benchmark}: {name} must be a whole number of at least 1, got {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"{benchmark}: seed must be a whole number, got {seed!r}")


def order_of(benchmark: str, order: str, orders: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The names of a benchmark's tasks in one of its orders.

    Raises:
        ValueError: there is no such order.
    """
    if order not in orders:
        raise ValueError(f"{benchmark}: {unknown('order', order, orders)}")
    return orders[order]
