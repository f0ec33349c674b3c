"""Chat formats: the strings around the texts of a conversation, and the template they make."""

from dataclasses import dataclass
from typing import Literal

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Markers:
    """The strings before and after a system prompt and a question, and those of an answer.

    The model writes from behind `reply` on: it learns `blank`, the answer, and the special token
    `end`.  `gap` stands between an answer and the next question.
    """

    system: tuple[str, str]
    question: tuple[str, str]
    reply: str
    blank: str
    end: str
    gap: str


FormatName = Literal["vicuna_v1", "chatml"]
MARKERS: dict[FormatName, Markers] = {
    # `conv_vicuna_v1` in LLaVA's `conversation.py`, as LLaVA-1.5 trains and asks.
    "vicuna_v1": Markers(
        system=("", " "),
        question=("USER: ", " "),
        reply="ASSISTANT:",
        blank=" ",
        end="</s>",
        gap="",
    ),
    # `chat_template` in the `tokenizer_config.json` of SmolLM2-Instruct and Qwen2.5-Instruct.
    "chatml": Markers(
        system=("<|im_start|>system\n", "<|im_end|>\n"),
        question=("<|im_start|>user\n", "<|im_end|>\n"),
        reply="<|im_start|>assistant\n",
        blank="",
        end="<|im_end|>",
        gap="\n",
    ),
}

_TEMPLATE = """\
{{%- if messages[0].role == 'system' -%}}{{{{ {before!r} + messages[0].content + {after!r} }}}}
{{%- set messages = messages[1:] -%}}{{%- else -%}}{{{{ {opening!r} }}}}{{%- endif -%}}
{{%- for message in messages -%}}
{{%- set parts = message.content if message.content is not string
   else [{{'type': 'text', 'text': message.content}}] -%}}
{{%- if message.role == 'user' -%}}
{{{{- {question[0]!r} -}}}}
{{%- for part in parts if part.type == 'image' -%}}{{{{- '<image>\\n' -}}}}{{%- endfor -%}}
{{%- for part in parts if part.type == 'text' -%}}{{{{- part.text -}}}}{{%- endfor -%}}
{{{{- {question[1]!r} -}}}}
{{%- else -%}}
{{{{- {reply!r} -}}}}
{{%- generation -%}}{{{{- {blank!r} -}}}}
{{%- for part in parts -%}}{{{{- part.text -}}}}{{%- endfor -%}}
{{{{- {end!r} -}}}}{{%- endgeneration -%}}{{{{- {gap!r} -}}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- {reply!r} -}}}}{{%- endif -%}}
"""


@dataclass(frozen=True)
class ChatFormat:
    """How a model is talked to: the name of its markers, and a system prompt, empty for none."""

    name: FormatName = "vicuna_v1"
    system: str = VICUNA_SYSTEM

    @property
    def markers(self) -> Markers:
        """The strings of this format."""
        return MARKERS[self.name]

    @property
    def around_system(self) -> tuple[str, str]:
        """The strings around the system prompt; empty where there is none."""
        return self.markers.system if self.system else ("", "")


def chat_template(chat: ChatFormat) -> str:
    """Return the Jinja template of a format, for a checkpoint's tokenizer and processor.

    A chat that begins with a system message has that one, any other the format's.  Its generation
    block holds what training supervises (`tuning.chat.pieces`): the blank, the answer, its end.
    """
    marks = chat.markers
    before, after = marks.system
    return _TEMPLATE.format(
        before=before,
        after=after,
        opening=chat.system.join(chat.around_system),
        question=marks.question,
        reply=marks.reply,
        blank=marks.blank,
        end=marks.end,
        gap=marks.gap,
    )
