"""A loaded small LLaVA and samples of every kind: image, text only, several turns, wide and tall images."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_kit import Noise

from lit_cvit.backbones.llava import Llava
from lit_cvit.data.tasks import Sample


@pytest.fixture(scope="session")
def llava(llava_folder: Path) -> Llava:
    """Loaded in float32; tests that change it load their own."""
    return Llava(str(llava_folder)).load()


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    short = "Answer the question using a single word or phrase."
    return [
        Sample("colour", "VQA", "What colour is the square?", short, ("red",), Noise(0)),
        Sample("long", "QA", "Which of these is a planet? " * 3, short, ("Mars is one.",)),
        Sample("tall", "Caption", "", "Describe the image.", ("a caf\u00e9\nand a sign",), Noise(1, 20, 60)),
        Sample(
            "turns",
            "Chat",
            "And its shape?",
            "",
            ("round",),
            Noise(2),
            history=(("What is this?", "a ball"), ("What colour?", "blue and white")),
        ),
        Sample("talk", "Chat", "Another?", "", ("Venus",), history=(("Name a planet.", "Mars"),)),
    ]
