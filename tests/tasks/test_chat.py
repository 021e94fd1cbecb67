"""Conversations as text: any template's answers are found, and the plain template is kept with the tokenizer."""

from __future__ import annotations

import pytest
import transformers

from tasks.writers import make_causal, make_tokenizer
from tunesmith.errors import ModelProblem
from tunesmith.tasks.chat import end_of_turn, ensure_template, learnable, render

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
FORGETFUL = (  # shows what was thought in the last answer only
    "{% for m in messages %}{% if m['role'] == 'assistant' and not loop.last %}"
    "{{ 'A:' + m['content'].split('</think>')[-1] + '</s>' }}"
    "{% else %}{{ m['role'][0]|upper + ':' + m['content'] + ('</s>' if m['role'] == 'assistant' else '\\n') }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
TALK = [
    {"role": "user", "content": "where?"},
    {"role": "assistant", "content": "here"},
    {"role": "user", "content": "什么时候"},
    {"role": "assistant", "content": "现在"},
]
SYSTEM = {"role": "system", "content": "be kind"}


@pytest.fixture
def tokenizer():
    return make_tokenizer(["abcdefghijklmnopqrstuvwxyz", "什么时候现在"])


def said(tokenizer, messages):
    return [[one.text[first:last] for first, last in one.spans] for one in learnable(tokenizer, messages)]


def test_a_tokenizer_without_template_gets_the_plain_one_and_keeps_it(tokenizer, tmp_path):
    ensure_template(tokenizer)
    assert render(tokenizer, TALK[:1], is_asked=True) == "user:\nwhere?<end>\nassistant:\n"
    tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    plain = again.apply_chat_template(TALK, tokenize=False)
    assert plain == render(tokenizer, TALK, is_asked=False)
    assert plain == "user:\nwhere?<end>\nassistant:\nhere<end>\nuser:\n什么时候<end>\nassistant:\n现在<end>\n"


def test_a_template_that_is_there_stays(tokenizer):
    tokenizer.chat_template = CHATML
    ensure_template(tokenizer)
    assert tokenizer.chat_template == CHATML


@pytest.mark.parametrize(
    ("template", "answers", "ending"),
    [
        (None, ["here<end>", "现在<end>"], "<end>"),
        (CHATML, ["here<|im_end|>", "现在<|im_end|>"], "<|im_end|>"),
        (LLAMA2, [" here <end>", " 现在 <end>"], "<end>"),
    ],
)
def test_the_answers_with_their_ends_are_found_in_any_template(tokenizer, template, answers, ending):
    tokenizer.chat_template = template
    ensure_template(tokenizer)
    assert said(tokenizer, TALK) == [answers]
    assert end_of_turn(tokenizer) == ending


def test_templates_that_change_past_answers_give_a_text_for_each(tokenizer):
    tokenizer.chat_template = FORGETFUL
    thinking = [TALK[0], {"role": "assistant", "content": "<think>hm</think>here"}, *TALK[2:]]
    assert said(tokenizer, thinking) == [["<think>hm</think>here</s>"], ["现在</s>"]]


def test_a_system_message_goes_before_the_question_where_the_template_knows_none(tokenizer):
    tokenizer.chat_template = LLAMA2
    assert render(tokenizer, [SYSTEM, TALK[0]], is_asked=True) == "[INST] be kind\n\nwhere? [/INST]"
    assert said(tokenizer, [SYSTEM, *TALK]) == [[" here <end>", " 现在 <end>"]]


def test_a_greeting_before_any_question_is_learnt_where_the_template_allows_it(tokenizer):
    greeting = {"role": "assistant", "content": "hello"}
    ensure_template(tokenizer)
    assert said(tokenizer, [greeting, *TALK]) == [["hello<end>", "here<end>", "现在<end>"]]
    tokenizer.chat_template = LLAMA2
    assert said(tokenizer, [greeting, *TALK]) == [[" here <end>", " 现在 <end>"]]


def test_a_template_that_refuses_says_why(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(ModelProblem, match="refuses a conversation: never"):
        render(tokenizer, TALK, is_asked=True)


def test_templates_cannot_reach_out_of_the_sandbox(tokenizer):
    tokenizer.chat_template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ModelProblem, match="refuses a conversation"):
        render(tokenizer, TALK, is_asked=True)


def test_a_tokenizer_that_ends_nothing_is_refused(tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(make_causal(tmp_path, ["abc"]))
    tokenizer.eos_token = None
    with pytest.raises(ModelProblem, match="no end-of-text token"):
        ensure_template(tokenizer)
