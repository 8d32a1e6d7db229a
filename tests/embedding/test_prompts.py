"""Prompts: to the byte as the model cards have them, around every text exactly once."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafile_mgr.catalog import Model, load_catalog
from llamafile_mgr.embedding.prompts import end_text, make_prompt
from llamafile_mgr.embedding.requests import InputType
from llamafile_mgr.errors import RequestError
from tests.embedding.stub_pool import make_plan

CATALOG = load_catalog()
E5_TASK = "Given a web search query, retrieve relevant passages that answer the query"
MISTRALS = ("e5-mistral-7b-instruct", "sfr-embedding-mistral")
NOMIC = dataclasses.replace(
    CATALOG.models["all-minilm-l6-v2"],
    query_prompt="search_query: {text}",
    document_prompt="search_document: {text}",
)
WRAPPED = dataclasses.replace(NOMIC, document_prompt="title: none | text: {text} [end]")


@pytest.mark.parametrize(
    ("model", "kind", "text", "whole"),
    [
        (
            "mxbai-embed-large-v1",
            InputType.QUERY,
            "A man is eating",
            "Represent this sentence for searching relevant passages: A man is eating",
        ),
        ("mxbai-embed-large-v1", InputType.DOCUMENT, "A man is eating", "A man is eating"),
        ("mxbai-embed-large-v1", InputType.NONE, "A man is eating", "A man is eating"),
        *[(name, InputType.QUERY, "x", f"Instruct: {E5_TASK}\nQuery: x") for name in MISTRALS],
        *[(name, InputType.DOCUMENT, "x", "x") for name in MISTRALS],
        ("all-minilm-l6-v2", InputType.QUERY, "x", "x"),
        (NOMIC, InputType.QUERY, "x", "search_query: x"),
        (NOMIC, InputType.DOCUMENT, "x", "search_document: x"),
        (WRAPPED, InputType.DOCUMENT, "x", "title: none | text: x [end]"),
        (None, InputType.QUERY, "x", "x"),
    ],
)
def test_templates_are_those_of_the_model_cards(
    model: object, kind: InputType, text: str, whole: str
) -> None:
    entry = CATALOG.models[model] if isinstance(model, str) else model
    assert make_prompt(entry, kind, None).apply(text).text == whole  # type: ignore[arg-type]


def test_the_task_can_be_set() -> None:
    prompt = make_prompt(CATALOG.models["e5-mistral-7b-instruct"], InputType.QUERY, "Find {text} in laws")
    assert prompt.apply("x").text == "Instruct: Find {text} in laws\nQuery: x"


@pytest.mark.parametrize("task", ["", "  ", "two\nlines"])
def test_a_task_that_is_none(task: str) -> None:
    with pytest.raises(RequestError, match="one line"):
        make_prompt(CATALOG.models["e5-mistral-7b-instruct"], InputType.QUERY, task)


@settings(deadline=None)
@given(
    st.text(),
    st.sampled_from([*MISTRALS, "mxbai-embed-large-v1", NOMIC, WRAPPED]),
    st.sampled_from(list(InputType)),
    st.sampled_from(["", "</s>"]),
)
def test_never_added_twice(text: str, model: object, kind: InputType, end: str) -> None:
    entry = CATALOG.models[model] if isinstance(model, str) else model
    prompt = make_prompt(entry, kind, None, end)  # type: ignore[arg-type]
    once = prompt.apply(text).text
    again = prompt.apply(once.removesuffix(end)).text
    assert again == once
    while isinstance(entry, Model) and entry.append_eos and text.endswith("</s>"):
        text = text.removesuffix("</s>")
    assert text in once


def test_a_prompt_with_another_task_is_left_alone() -> None:
    prompt = make_prompt(CATALOG.models["e5-mistral-7b-instruct"], InputType.QUERY, None)
    own = "Instruct: Classify the mood\nQuery: fine"
    assert prompt.apply(own).text == own
    assert prompt.apply(own).body == "fine"


def test_braces_in_texts_are_text() -> None:
    prompt = make_prompt(CATALOG.models["mxbai-embed-large-v1"], InputType.QUERY, None)
    assert prompt.apply("{text} {task} {0} {").text.endswith("passages: {text} {task} {0} {")


def test_the_plan_says_who_puts_the_end_of_sequence() -> None:
    plan = make_plan("e5-mistral-7b-instruct")
    assert end_text(replace(plan, append_eos=True)) == "</s>"
    assert end_text(replace(plan, append_eos=False)) == ""


def test_the_end_stands_last_and_once() -> None:
    prompt = make_prompt(CATALOG.models["e5-mistral-7b-instruct"], InputType.DOCUMENT, None, "</s>")
    for text in ("x", "x</s>", "x</s></s>"):
        assert prompt.apply(text).text == "x</s>"
    assert prompt.apply("</s>").text == "</s>"
    assert prompt.apply("a</s>b").text == "a</s>b</s>"


def test_an_engine_that_puts_the_end_itself_is_not_given_another() -> None:
    prompt = make_prompt(CATALOG.models["e5-mistral-7b-instruct"], InputType.QUERY, None)
    assert prompt.apply("x</s>") == prompt.apply("x")
    assert not prompt.apply("x</s>").text.endswith("</s>")


def test_a_text_with_the_whole_prompt_and_the_end_is_left_as_it_is() -> None:
    wrapped = replace(WRAPPED, append_eos=True)
    prompt = make_prompt(wrapped, InputType.QUERY, None, "</s>")
    whole = prompt.apply("x").text
    assert prompt.apply(whole).text == whole


def test_models_without_an_end_of_sequence_keep_the_characters() -> None:
    prompt = make_prompt(CATALOG.models["mxbai-embed-large-v1"], InputType.DOCUMENT, None)
    assert prompt.apply("x</s>").text == "x</s>"
