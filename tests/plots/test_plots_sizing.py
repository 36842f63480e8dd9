import matplotlib.pyplot as plt

from monkeylib.plots.sizing import draw_parts


def test_each_bar_is_divided_by_shares_and_says_its_total():
    fig = draw_parts({"a": {"x": 1_000, "y": 3_000}, "b": {"x": 30, "y": 970}})
    (ax,) = fig.axes
    bars = [(bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert bars == [(0, 0.25), (0.25, 0.75), (0, 0.03), (0.03, 0.97)]
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["25%", "75%", "4.00 k", "97%", "1.00 k"]  # 3 % has no room for its number
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["x", "y"]
    plt.close(fig)
