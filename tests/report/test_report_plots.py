"""What all figures share: one heat map, and figures of a CKA analysis that are made of it."""

from __future__ import annotations

import math

import torch
from matplotlib.axes import Axes

from lit_cvit.report.cka_plots import stages_figure, tasks_figure
from lit_cvit.report.plots import heat_map, new_figure


def drawn(cells: list[list[float | None]], **settings: object) -> Axes:
    axes: Axes = new_figure(3, 2, "t").subplots()
    heat_map(axes, cells, **settings)  # type: ignore[arg-type]
    return axes


def test_a_cell_without_a_value_is_empty_and_has_no_number() -> None:
    axes = drawn([[0.0, None], [math.nan, 1.0]], number="{:.1f}".format)
    empty = axes.images[0].get_array().mask  # type: ignore[union-attr]
    assert empty.tolist() == [[False, True], [True, False]]
    assert [(text.get_text(), text.get_position()) for text in axes.texts] == [
        ("0.0", (0, 0)),
        ("1.0", (1, 1)),
    ]


def test_numbers_are_dark_on_light_cells_and_white_on_dark_ones() -> None:
    axes = drawn([[0.0, 5.0, 10.0]], top=10.0, number="{:.0f}".format)
    assert [text.get_color() for text in axes.texts] == ["#222222", "#222222", "white"]


def test_without_a_format_there_are_no_numbers() -> None:
    assert list(drawn([[0.5]]).texts) == []


def test_maps_of_two_palettes_stand_side_by_side() -> None:
    axes: Axes = new_figure(3, 2, "t").subplots()
    for column, palette in enumerate(("Blues", "Oranges")):
        heat_map(axes, [[1.0], [0.5]], palette=palette, column=column)
    assert [image.get_extent() for image in axes.images] == [[-0.5, 0.5, 1.5, -0.5], [0.5, 1.5, 1.5, -0.5]]
    assert axes.images[0].to_rgba(1.0) != axes.images[1].to_rgba(1.0)


def test_the_tasks_of_a_cka_analysis_are_a_map_for_each_layer() -> None:
    cka = torch.tensor([[[1.0, 0.25], [0.25, 1.0]], [[1.0, 0.75], [0.75, 1.0]]], dtype=torch.float64)
    maps = [axes for axes in tasks_figure(cka, ["A", "B"], title="t").axes if axes.images]
    assert [axes.get_title(loc="left") for axes in maps] == ["layer 0", "layer 1"]
    assert [axes.images[0].get_array().tolist() for axes in maps] == cka.tolist()  # type: ignore[union-attr]
    assert [text.get_text() for text in maps[1].texts] == ["1.00", "0.75", "0.75", "1.00"]


def test_the_stages_of_a_cka_analysis_are_compared_with_the_first_of_each_task() -> None:
    matrices = torch.rand(3, 2, 2, dtype=torch.float64)
    figure = stages_figure({"A": ([1, 2], matrices), "B": ([2, 3], matrices)}, title="t")
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["stage, against 1", "stage, against 2"]
    assert figure.axes[0].images[0].get_array().tolist() == matrices[:, 0].tolist()  # type: ignore[union-attr]
    assert len(figure.axes) == 3
