"""What a method may read: printed before a run, and enforced by the data module."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lit_cvit.encoders import describe


@dataclass(frozen=True)
class DataAccess:
    """What a configured method reads besides the prompt, the image and the current task's training data.

    Attributes:
        task_id_in_training: Which task a training sample belongs to, beyond when stages begin.
        task_id_at_test: Which task a test sample belongs to (an oracle).
        instruction: The instruction separated from the question.
        old_data: Samples of earlier tasks.
        joint_data: All tasks at once.
        encoders: Frozen models besides the backbone, by name.
    """

    task_id_in_training: bool = False
    task_id_at_test: bool = False
    instruction: bool = False
    old_data: bool = False
    joint_data: bool = False
    encoders: tuple[str, ...] = ()

    def also(self, *names: str) -> DataAccess:
        """The same with further attributes true.

        Raises:
            ValueError: there is no such attribute that could be true; lists those there are.
        """
        known = [each.name for each in fields(self) if isinstance(each.default, bool)]
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r} is no field of DataAccess; known: {', '.join(known)}")
        added: dict[str, Any] = dict.fromkeys(names, True)
        return replace(self, **added)

    def hidden(self, *, test: bool) -> frozenset[str]:
        """The fields of a sample that the data module hides from the method.

        An id may name the task, and a question apart from its instruction gives the instruction away.
        """
        hidden = {"answers"} if test else set()
        if not (self.task_id_at_test if test else self.task_id_in_training):
            hidden |= {"task", "id"}
        if not self.instruction:
            hidden |= {"question", "instruction"}
        return frozenset(hidden)

    def encoder_records(self) -> dict[str, dict[str, str]]:
        """Where each encoder was found and the digest of its files, by name: for the run record.

        Raises:
            ValueError: one is nowhere; lists the ways to get it.
        """
        return {name: describe(name) for name in self.encoders}

    def words(self) -> str:
        """One line for people."""
        names = {
            "task_id_in_training": "task id in training",
            "task_id_at_test": "task id at test (oracle)",
            "instruction": "instruction text",
            "old_data": "old data",
            "joint_data": "joint data",
        }
        granted = [words for field, words in names.items() if asdict(self)[field]]
        granted += [f"encoder {name}" for name in self.encoders]
        return ", ".join(granted) or "nothing beyond the prompt and image"
