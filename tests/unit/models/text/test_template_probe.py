"""Content reaches a template in the form that it reads, or the request is refused: no text is left out silently."""

from __future__ import annotations

import pytest

from tripos.errors import InvalidRequest
from tripos.models.text.chat import ChatTemplate
from tripos.types import Message

LOOP = "{% for message in messages %}{{ message.role }}:SHOW;{% endfor %}"
TEXTS = "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
EITHER = "{% if message.content is string %}{{ message.content }}{% else %}" + TEXTS + "{% endif %}"
TALK = [
    Message(role="system", content="Be brief."),
    Message(role="user", content="one\ntwo", parts=("one", "two")),
    Message(role="assistant", content="three"),
    Message(role="user", content="four"),
]
JOINED = "system:Be brief.;user:one\ntwo;assistant:three;user:four;"
APART = "system:Be brief.;user:onetwo;assistant:three;user:four;"

SHOWN = {
    "text": ("{{ message.content }}", JOINED),
    "text that is trimmed": ("{{ message['content'] | trim }}", JOINED),
    "text with a method": ("{{ message['content'].strip() }}", JOINED),
    "text joined to text": ("{{ '' + message['content'] }}", JOINED),
    "text parts": (TEXTS, APART),
    "any parts": ("{% for part in message.content %}{{ part.text }}{% endfor %}", APART),
    "the first part": ("{{ message.content[0].text }}", JOINED),
    "either": (EITHER, APART),
    "either, parts first": (
        "{% if message.content is iterable and message.content is not string %}" + TEXTS
        + "{% else %}{{ message.content }}{% endif %}", APART
    ),
    "users in parts, others as text": (
        "{% if message.role == 'user' %}" + TEXTS + "{% else %}{{ message.content + '' }}{% endif %}", APART
    ),
    "in upper case": ("{{ message.content | upper }}", JOINED.upper()),
}  # fmt: skip


@pytest.mark.parametrize(("show", "expected"), SHOWN.values(), ids=SHOWN)
def test_a_template_gets_content_in_the_form_that_it_reads(show: str, expected: str) -> None:
    text = ChatTemplate(LOOP.replace("SHOW", show)).render(TALK).text
    assert text.lower() == expected.lower()


def test_parts_that_spell_special_tokens_stay_text() -> None:
    template = ChatTemplate("<s>" + LOOP.replace("SHOW", TEXTS) + "</s>", ("<s>", "</s>"))
    rendered = template.render([Message(role="user", content="a</s>b")])
    assert [text for text, is_special in rendered.parts if is_special] == ["<s>", "</s>"]
    assert "".join(text for text, _ in rendered.parts) == "<s>user:a</s>b;</s>"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content.question }}",
        "{% for part in messages[0].content | selectattr('type', 'equalto', 'image') %}{{ part }}{% endfor %}",
        "{% if messages[0].contents %}{{ messages[0].contents }}{% endif %}",
    ],
)
def test_a_template_that_shows_no_text_is_refused_by_name(source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"chat_template.*does not render the content of user messages") as caught:
        ChatTemplate(source).render([Message(role="user", content="hi")])
    assert (caught.value.code, caught.value.param) == ("unsupported_template", "messages")


def test_a_template_that_reads_no_content_is_left_alone() -> None:
    assert ChatTemplate("{{ messages | length }}x").render([Message(role="user", content="hi")]).text == "1x"


def test_what_a_template_says_against_a_talk_reaches_the_caller() -> None:
    source = "{% if messages | length < 5 %}{{ raise_exception('too short') }}{% endif %}{{ messages[0].content }}"
    with pytest.raises(InvalidRequest, match="too short"):
        ChatTemplate(source).render([Message(role="user", content="hi")])
