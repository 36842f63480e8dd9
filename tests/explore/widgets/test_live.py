"""Widgets whose values are set as a reader would set them, without a browser."""

import pytest

pytest.importorskip("ipywidgets", reason="`make test-browser` has it")


def controls(widget, kind):
    """Return the controls of a kind in a form, in their order."""
    found = [widget] if type(widget).__name__ == kind else []
    for child in getattr(widget, "children", ()):
        found += controls(child, kind)
    return found


def test_every_explorer_is_a_live_form(explorers):
    for name, explorer in explorers.items():
        bundle = explorer._repr_mimebundle_()
        assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= bundle.keys(), name


def test_grid_moves(explorers):
    explorer = explorers["tiles"]
    (grid,) = controls(explorer.widget, "SelectionSlider")
    image, views = controls(explorer.widget, "Image")
    (facts,) = controls(explorer.widget, "HTML")
    before = image.value, views.value

    grid.value = "1x3"
    assert explorer.grid == "1x3" and "1x3 tiles" in facts.value
    assert image.value != before[0] and views.value != before[1]


def test_question_is_answered_by_all(explorers):
    explorer = explorers["answers"]
    (question,) = controls(explorer.widget, "Text")
    columns = controls(explorer.widget, "HTML")
    assert len(columns) == len(explorer.answers) == 4

    question.value = "<i>y</i>"
    assert explorer.question == "<i>y</i>"
    assert all(title in column.value for title, column in zip(explorer.answers, columns, strict=True))


def test_attention_of_a_token(explorers):
    explorer = explorers["attention"]
    token, _ = controls(explorer.widget, "SelectionSlider")
    image, views = controls(explorer.widget, "Image")
    before = image.value, views.value
    token.value = 1
    assert explorer.token == 1 and image.value != before[0] and views.value == before[1]

    (question,) = controls(explorer.widget, "Text")
    question.value = "and y?"
    assert explorer.question == "and y?" and explorer.token is None and token.index == 0


def test_queries_of_the_resampler_look_at_each_view(explorers):
    explorer = explorers["attention"]
    _, query = controls(explorer.widget, "SelectionSlider")
    image, views = controls(explorer.widget, "Image")
    before = image.value, views.value
    query.value = 1
    assert explorer.query == 1 and views.value != before[1] and image.value == before[0]
    assert len(query.options) == 1 + explorer.maps.resampler.weights.shape[1]


def test_query_in_a_view(explorers):
    explorer = explorers["queries"]
    (view,) = controls(explorer.widget, "Dropdown")
    (query,) = controls(explorer.widget, "IntSlider")
    (image,) = controls(explorer.widget, "Image")
    (facts,) = controls(explorer.widget, "HTML")
    assert view.options == ("tile 0", "tile 1", "tile 2", "tile 3", "global view")

    before = image.value
    query.value, view.value = 1, "tile 2"
    assert (explorer.query, explorer.view) == (1, "tile 2") and image.value != before
    assert "query 1" in facts.value and "mean of all queries" in facts.value


def test_loras_of_a_block(explorers):
    explorer = explorers["loras"]
    (block,) = controls(explorer.widget, "SelectionSlider")
    (image,) = controls(explorer.widget, "Image")
    before = image.value
    block.value = explorer.blocks[-1]
    assert explorer.block == explorer.blocks[-1] > 0 and image.value != before


def test_thresholds_move(explorers):
    explorer = explorers["captions"]
    sliders = controls(explorer.widget, "FloatSlider")
    image, caption = controls(explorer.widget, "HTML")
    for slider in sliders:
        slider.value = 1.0
    assert set(explorer.thresholds.values()) == {1.0} and not explorer.filtered().regions

    (stage,) = controls(explorer.widget, "ToggleButtons")
    stage.value = stage.options[0]
    assert "a red image" in caption.value


def test_errors_follow_one_another(explorers):
    explorer = explorers["errors"]
    (number,) = controls(explorer.widget, "IntSlider")
    (facts,) = controls(explorer.widget, "HTML")
    assert number.max == 2 and "fine-0" == explorer.answer.prediction.id
    number.value = 2
    assert explorer.answer.prediction.id == "fine-1" and "wrong" in facts.value


def test_costs_follow_grid_and_text(explorers):
    explorer = explorers["costs"]
    (grid,), (text,) = controls(explorer.widget, "SelectionSlider"), controls(explorer.widget, "IntSlider")
    (facts,) = controls(explorer.widget, "HTML")
    before = facts.value

    grid.value = "1x3"
    assert explorer.grid == "1x3" and "1x3: 3 tiles" in facts.value and facts.value != before
    before = facts.value
    text.value = 64
    assert explorer.text_tokens == 64 and facts.value != before
