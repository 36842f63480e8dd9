import matplotlib.pyplot as plt
from PIL import Image

from monkeylib.plots.images import ImagePanel, draw_panels


def texts(ax):
    return " ".join(text.get_text() for text in ax.texts).replace("\n", " ")


def test_panels_fill_rows():
    image = Image.new("RGB", (100, 100))
    panels = [
        ImagePanel(image, f"title {n}", (f"a question of some length number {n}?", "label: x"))
        for n in range(5)
    ]
    fig = draw_panels(panels, columns=3)

    assert len(fig.axes) == 6
    assert "number 4?" in texts(fig.axes[4]) and not fig.axes[5].images
    assert not fig.axes[0].patches, "no box given"
    plt.close(fig)
    plt.close(draw_panels([]))
