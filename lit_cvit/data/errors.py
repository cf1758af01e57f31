"""The error of one record or image: what is wrong, where and what to do, in fields of their own."""

from __future__ import annotations

import re
from typing import Self

_POSITION = re.compile(r"\[\d+\]")


class RecordError(ValueError):
    """A record of a data set, or its image, that cannot be used.

    It is raised where the fault is found. A report groups and places faults by these fields; nobody reads
    the message but the user. It pickles whole, so that a loader worker's error has its fields too.

    Attributes:
        place: File and line or index, with the id where that is known; empty where the record is not known.
        field: The field at fault, such as `conversations[3].value`; empty where it is not one field.
        cause: What is wrong, in words that are the same for all faults of one kind.
        fix: What to do about it; may be empty.
        words: What the message says after the place.
    """

    place: str = ""
    field: str = ""
    cause: str = ""
    fix: str = ""
    words: str = ""

    @classmethod
    def of(cls, what: str, *, place: str = "", field: str = "", cause: str = "", fix: str = "") -> Self:
        """Compose an error; its message is `place: field 'f': what; fix`, without the parts that are empty.

        Args:
            what: What was found, with the value got.
            place: See the class.
            field: See the class.
            cause: See the class; by default the field, without positions.
            fix: See the class.
        """
        named = f"field {field!r}" if field else ""
        words = ": ".join(part for part in (named, what) if part)
        words = f"{words}; {fix}" if fix else words
        error = cls(f"{place}: {words}" if place else words)
        error.place, error.field, error.fix, error.words = place, field, fix, words
        error.cause = cause or _POSITION.sub("[]", named)
        return error
