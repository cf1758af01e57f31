"""Conversations as text: where the system prompt, the image and the turns stand, and which part is answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ChatFormat:
    """The strings around the turns of a conversation.

    One turn reads `{user}{image}{text}{assistant}{lead}{answer}{end}`; the image stands in the first turn.
    Lead, answer and end are what the loss counts. `assistant` ends where generation starts, so it must not
    end in a space: a space before the answer belongs to the answer's first token.

    Attributes:
        system: Text before the first turn, with the space that follows it.
        user: Start of the user's turn.
        assistant: Start of the model's turn; the generation prompt ends here.
        lead: What separates that start from the answer.
        end: The token that ends an answer.
        between: What separates a turn's end from the next turn; part of neither answer.
        image: What shows the model that there is an image, with the line break that follows it.
        image_token: The token in `image` that is replaced by the image's features.
    """

    system: str = ""
    user: str = "USER: "
    assistant: str = " ASSISTANT:"
    lead: str = " "
    end: str = "</s>"
    image: str = "<image>\n"
    image_token: str = "<image>"
    between: str = ""

    def render(
        self, turns: Sequence[tuple[str, str | None]], *, has_image: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """Write a conversation.

        Args:
            turns: User text and answer of each turn; None as the last answer leaves a generation prompt.
            has_image: Whether the first turn shows an image.

        Returns:
            The text, and the [start, end) characters of every answer with its end token.
        """
        text = self.system
        spans = []
        for number, (user_text, answer) in enumerate(turns):
            image = self.image if has_image and number == 0 else ""
            text += self.between if number else ""
            text += self.user + image + self._without_image_token(user_text) + self.assistant
            if answer is not None:
                start = len(text)
                text += self.lead + answer + self.end
                spans.append((start, len(text)))
        return text, spans

    def _without_image_token(self, text: str) -> str:
        # The image always comes first, as in LLaVA; a second token would ask for an image that is not there.
        return text.replace(self.image_token, "").strip() if self.image_token in text else text
