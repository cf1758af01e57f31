from __future__ import annotations

import pytest

from lit_cvit.data.instructions import cvit_instructions

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
CAPTION = "What is happening in the presented picture?\nPlease describe it in one complete sentence."
TASKS = (
    "ScienceQA",
    "TextVQA",
    "Flickr30k",
    "ImageNet",
    "GQA",
    "VQAv2",
    "VizWiz",
    "TextCaps",
    "OCR-VQA",
    "Places365",
)


def test_single_type_strings_are_the_published_ones() -> None:
    assert {task: cvit_instructions(task, "single") for task in TASKS} == {
        "ScienceQA": (LETTER,),
        "TextVQA": (SHORT,),
        "Flickr30k": (CAPTION,),
        "ImageNet": (f"What is the object in the image?\n{SHORT}",),
        "GQA": (SHORT,),
        "VQAv2": (SHORT,),
        "VizWiz": (SHORT,),
        "TextCaps": (CAPTION,),
        "OCR-VQA": (SHORT,),
        "Places365": (f"What is the background of the image?\n{SHORT}",),
    }


def test_multi_type_has_five_different_strings_per_task_in_five_families() -> None:
    lists = {task: cvit_instructions(task, "multi") for task in TASKS}
    assert {len(set(strings)) for strings in lists.values()} == {5}
    assert {strings[0] for strings in lists.values()} == {
        LETTER,
        "Answer using only one word or a short, descriptive phrase.",
        "What is depicted in the displayed picture? Summarize it using a single, concise sentence.",
        "What is the main object present in the image? Provide your answer using a word or brief phrase.",
        "What is the background of the image? Answer the question using a single word or phrase.",
    }
    assert len({lists[task] for task in ("TextVQA", "GQA", "VQAv2", "VizWiz", "OCR-VQA")}) == 1
    assert lists["Flickr30k"] == lists["TextCaps"]


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    known = "ScienceQA, TextVQA, Flickr30k, ImageNet, GQA, VQAv2, VizWiz, TextCaps, OCR-VQA, Places365"
    with pytest.raises(ValueError, match="unknown CVIT task") as caught:
        cvit_instructions("OCRVQA", "single")
    assert str(caught.value) == f"unknown CVIT task 'OCRVQA'. Did you mean 'OCR-VQA'? Known: {known}"


def test_an_unknown_style_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'multi'. Known: single, multi") as caught:
        cvit_instructions("GQA", "Multi-type")  # type: ignore[arg-type]
    assert str(caught.value).startswith("unknown instruction style 'Multi-type'. ")
