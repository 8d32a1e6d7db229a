"""Mean task rank, the post's own figures, and a user's scores."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.errors import InvalidFileError, UsageError
from llamafile_mgr.planner.leaderboard import By, Scores, rank, rank_models
from llamafile_mgr.planner.published import TASKS, load_published, parse_published, published_scores
from llamafile_mgr.planner.scores_csv import columns_of_tasks, parse_scores

POST = load_published()
#: The post's example of why averages over unlike scores mislead: A and B tie by rank, B wins by average.
EXAMPLE = Scores(("Model A", "Model B"), ("STS", "Retrieval"), ((82.58, 41.17), (78.08, 51.99)))


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([], ()),
        ([5.0], (1,)),
        ([3.0, 1.0, 2.0], (1, 3, 2)),
        ([1.0, 1.0], (1.5, 1.5)),
        ([2.0, 1.0, 2.0, 2.0], (2, 4, 2, 2)),
        ([9.0, 7.0, 7.0, 1.0], (1, 2.5, 2.5, 4)),
    ],
)
def test_ranks_share_the_mean_of_tied_places(values: list[float], places: tuple[float, ...]) -> None:
    assert rank(values) == places


@given(st.lists(st.integers(0, 50).map(float), min_size=1, max_size=30))
def test_ranks_always_add_up(values: list[float]) -> None:
    places = rank(values)
    assert sum(places) == len(values) * (len(values) + 1) / 2
    for (a, i), (b, j) in itertools.combinations(zip(values, places, strict=True), 2):
        assert (a > b) == (i < j)
        assert (a == b) == (i == j)
    assert rank([-v for v in values], highest_first=False) == places


@given(st.lists(st.integers(0, 9).map(float), min_size=2, max_size=10), st.floats(0.1, 10), st.floats(-5, 5))
def test_ranks_do_not_depend_on_the_scale(values: list[float], factor: float, shift: float) -> None:
    assert rank([v * factor + shift for v in values]) == rank(values)


def test_the_posts_example_ties_by_rank_and_not_by_mean() -> None:
    board = rank_models(EXAMPLE)
    assert [(row.rank, row.mtr) for row in board.rows] == [(1.5, 1.5), (1.5, 1.5)]
    by_mean = rank_models(EXAMPLE, By.MEAN)
    assert [(row.model, row.rank) for row in by_mean.rows] == [("Model B", 1.0), ("Model A", 2.0)]
    assert [row.mean for row in by_mean.rows] == pytest.approx([65.035, 61.875])


def test_the_posts_top_ten_as_printed() -> None:
    assert [(m.name, m.mtr) for m in POST.top] == [
        ("SFR-Embedding-Mistral", 5.72),
        ("e5-mistral-7b-instruct", 9.92),
        ("voyage-large-2-instruct", 10.23),
        ("GritLM-7B", 11.91),
        ("mxbai-embed-large-v1", 14.08),
        ("GritLM-8x7B", 14.49),
        ("UAE-Large-V1", 14.74),
        ("voyage-lite-02-instruct", 14.87),
        ("google-gecko.text-embedding-preview-0409", 15.12),
        ("GIST-large-Embedding-v0", 15.71),
    ]
    e5 = POST.top[1]
    assert (e5.rag_average, e5.of(TASKS)) == (62.33, (50.26, 60.20, 56.89, 84.63))
    assert [len(POST.tasks[task]) for task in TASKS] == [11, 4, 15, 10]


def test_category_figures_give_the_posts_average_of_the_forty() -> None:
    board = rank_models(published_scores(POST), By.MEAN)
    printed = {model.name: model.rag_average for model in POST.models()}
    assert len(board.rows) == 13
    for row in board.rows:
        assert row.mean == pytest.approx(printed[row.model], abs=0.011)


def test_category_figures_give_the_posts_order_by_average() -> None:
    names = {entry.name for entry in POST.averages}
    table = published_scores(POST)
    rows = [(m, v) for m, v in zip(table.models, table.values, strict=True) if m in names]
    names_of, values = zip(*rows, strict=True)
    board = rank_models(Scores(names_of, table.datasets, values, table.weights), By.MEAN)
    found = [row.model for row in board.rows]
    printed = [entry.name for entry in sorted(POST.averages, key=lambda entry: entry.rag_rank)]
    # GritLM-7B and e5-mistral-7b-instruct print the same average, 62.33, and may stand either way.
    assert {*found[4:6]} == {*printed[4:6]} == {"GritLM-7B", "e5-mistral-7b-instruct"}
    assert found[:4] + found[6:] == printed[:4] + printed[6:]


def test_mtr_over_four_categories_is_another_figure_than_over_forty_data_sets() -> None:
    board = rank_models(published_scores(POST))
    assert board.rows[0].model == "SFR-Embedding-Mistral"
    assert board.rows[0].ranks == (4.0, 1.0, 1.0, 3.0)
    assert board.rows[0].mtr == 2.25
    assert POST.mtr_of("sfr-embedding-mistral") == 5.72
    assert POST.mtr_of("all-MiniLM-L6-v2") is None


def test_a_damaged_table_is_noticed() -> None:
    with pytest.raises((KeyError, TypeError)):
        parse_published({"top": []})


def test_models_without_a_score_are_named_and_not_ranked() -> None:
    scores = parse_scores("model,a,b\nx,1,2\ny,,9\nz,3,1\n", "s.csv")
    board = rank_models(scores)
    assert [row.model for row in board.rows] == ["z", "x"]
    assert board.rows[0].ranks == (1.0, 2.0)
    assert dict(board.incomplete) == {"y": ("a",)}
    assert not rank_models(scores.select(["b"])).incomplete


def test_nothing_to_rank() -> None:
    with pytest.raises(UsageError) as caught:
        rank_models(parse_scores("m,a,b\nx,1,-\ny,,2\n", "s.csv"))
    assert "lacks" in (caught.value.hint or "")
    with pytest.raises(UsageError):
        rank_models(Scores(("x",), (), ((),)))
    with pytest.raises(ValueError, match="rectangular"):
        Scores(("x",), ("a",), ((1.0, 2.0),))
    with pytest.raises(ValueError, match="weight"):
        Scores(("x",), ("a",), ((1.0,),), (1, 2))


@pytest.mark.parametrize(
    "text",
    [
        "model,STS,Retrieval\nModel A,82.58,41.17\nModel B,78.08,51.99\n",
        "\ufeffmodel;STS;Retrieval\r\nModel A;82.58;41.17\r\nModel B;78.08;51.99\r\n",
        "model\tSTS\tRetrieval\n\nModel A\t 82.58 \t41.17\nModel B\t78.08\t51.99\n\n",
        '"model","STS","Retrieval"\n"Model A","82.58","41.17"\n"Model B","78.08","51.99"\n',
    ],
)
def test_forms_of_csv(text: str) -> None:
    assert parse_scores(text, "s.csv") == EXAMPLE


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no columns"),
        ("model\nx\n", "no columns"),
        ("model,a\n", "no models"),
        ("model,a,a\nx,1,2\n", "twice"),
        ("model,a\nx,1\nx,2\n", "twice"),
        ("model,a,\nx,1,2\n", "no name"),
        ("model,a\n,1\n", "no name"),
        ("model,a,b\nx,1\n", "1 scores"),
        ("model,a\nx,1,2\n", "2 scores"),
        ("model,a\nx,good\n", "'good'"),
        ("model,a\nx,inf\n", "'inf'"),
        ("model,a\nx,1.2.3\n", "'1.2.3'"),
        ('model,a\n"x,1\n', "CSV"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(text: str, word: str) -> None:
    with pytest.raises(InvalidFileError) as caught:
        parse_scores(text, "s.csv")
    assert word in caught.value.message
    assert "s.csv" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("cell", ["", "-", "NA", "n/a", "NaN", "null"])
def test_words_for_a_missing_score(cell: str) -> None:
    assert parse_scores(f"m,a,b\nx,{cell},1\n", "s.csv").values == ((None, 1.0),)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidFileError):
        parse_scores(text, "s.csv")


def test_columns_find_their_category() -> None:
    header = "model,STS17 (en-en),stsbenchmark,MSMARCO,sts:mine,Reranking,Banking77"
    scores = parse_scores(f"{header}\nx,1,2,3,4,5,6\n", "s.csv")
    assert columns_of_tasks(scores, ["sts"], POST.tasks) == ("STS17 (en-en)", "stsbenchmark", "sts:mine")
    assert columns_of_tasks(scores, ["retrieval", "reranking"], POST.tasks) == ("MSMARCO", "Reranking")
    with pytest.raises(UsageError) as caught:
        columns_of_tasks(scores, ["sts", "clustering"], POST.tasks)
    assert "clustering" in caught.value.message
