"""What `predict --jsonl` reads."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lit_cvit.commands.predict import _read_questions


def test_a_file_of_questions_may_have_a_mark_in_front_and_line_breaks_of_unicode(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('\ufeff{"question": "a\u2028b"}\r\n\r\n{"question": "c", "id": 7}\r\n', encoding="utf-8")
    assert [(each.id, each.question) for each in _read_questions(path)] == [("1", "a\u2028b"), ("7", "c")]


def test_a_linked_image_is_opened_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (2, 3)).save(tmp_path / "images" / "one.png")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "one.png").symlink_to(tmp_path / "images" / "one.png")
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "What is it?", "image": "links/one.png"}')
    image = _read_questions(path)[0].image
    assert image is not None
    assert image.open().size == (2, 3)
