"""What a method is allowed to know: printed before a run, and enforced by the data module."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Knows:
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

    def hidden(self, *, test: bool) -> frozenset[str]:
        """The fields of a sample that the data module hides from the method.

        An id may name the task, and a question apart from its instruction gives the instruction away.
        """
        fields = {"answers"} if test else set()
        if not (self.task_id_at_test if test else self.task_id_in_training):
            fields |= {"task", "id"}
        if not self.instruction:
            fields |= {"question", "instruction"}
        return frozenset(fields)

    def words(self) -> str:
        """One line for people."""
        names = {
            "task_id_in_training": "task id in training",
            "task_id_at_test": "task id at test (oracle)",
            "instruction": "instruction text",
            "old_data": "old data",
            "joint_data": "joint data",
        }
        said = [words for field, words in names.items() if asdict(self)[field]]
        said += [f"encoder {name}" for name in self.encoders]
        return ", ".join(said) or "nothing beyond the prompt and image"
