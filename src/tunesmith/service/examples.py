"""Example requests for the OpenAPI document: one for each task, by the fields that the task reads."""

from __future__ import annotations

from typing import Any

_INPUTS: dict[str, Any] = {
    "text-classification": ["Battery lasts two days.", "屏幕碎了，客服不理我。"],
    "multi-label-classification": ["The delivery was late but the staff were kind."],
    "token-classification": ["Ada Lovelace lived in London."],
    "relation-extraction": [{"text": "Ada Lovelace lived in London.", "head": "Ada Lovelace", "tail": "London"}],
    "text-pair": [{"text_a": "A man plays a guitar.", "text_b": "Somebody makes music."}],
    "text-similarity": [{"text_a": "A man plays a guitar.", "text_b": "Somebody makes music."}],
    "question-answering": [{"question": "Who wrote it?", "context": "Ada Lovelace wrote the first program."}],
    "multiple-choice": [{"question": "What do people use to cut paper?", "choices": ["scissors", "a pillow"]}],
    "translation": ["Where is the station?"],
    "summarisation": ["The council met on Monday. It agreed to build a bridge. Work begins in May."],
    "text-generation": ["Once upon a time"],
    "code-generation": ["Write a function that adds two numbers."],
    "dialogue": [{"messages": [{"role": "user", "content": "Where is my parcel?"}]}],
}
_WRITING = {"translation", "summarisation", "text-generation", "code-generation", "dialogue"}

PREDICT: dict[str, Any] = {
    task: {
        "summary": f"A model for {task}",
        "value": {"inputs": inputs, **({"options": {"max_new_tokens": 40}} if task in _WRITING else {})},
    }
    for task, inputs in _INPUTS.items()
}
"""Name of the task -> an example as OpenAPI has it."""

CHAT: dict[str, Any] = {
    "dialogue": {
        "summary": "A conversation",
        "value": {
            "model": "helpdesk",
            "messages": [{"role": "user", "content": "Where is my parcel?"}],
            "max_tokens": 60,
        },
    }
}
COMPLETION: dict[str, Any] = {
    "text-generation": {
        "summary": "A text to go on with",
        "value": {"model": "stories", "prompt": "Once upon a time", "max_tokens": 40, "temperature": 0},
    }
}
FEEDBACK: dict[str, Any] = {
    "wrong": {
        "summary": "It was wrong",
        "value": {"prediction": "0" * 32, "is_correct": False, "corrected": "delivery", "comment": "about the courier"},
    },
    "right": {"summary": "It was right", "value": {"prediction": "0" * 32, "is_correct": True}},
}
