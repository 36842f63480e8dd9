"""One question, two models: the figure with which the README begins, and the answers that it shows.

    python -m monkeylib.reproduce.two_answers

asks nano-base and nano-monkey, the shipped models, about a shipped image, writes their answers into the table
`two_answers`, and draws the figure from that table.
"""

from monkeylib import resources, tables
from monkeylib.data.synthetic.sample_files import synthetic_sample
from monkeylib.data.synthetic.samples import Question
from monkeylib.images import open_image
from monkeylib.inference import load_model
from monkeylib.plots.examples import draw_two_answers
from monkeylib.plots.style import use_style
from monkeylib.reproduce import figures
from monkeylib.tables import Row
from monkeylib.tiling import Grid

NAME = "two_answers"
SOURCE = "monkeylib.reproduce.two_answers"

IMAGE, QUESTION = "receipt.png", "what is the total?"
MODELS = (resources.SHIPPED_BASE, resources.SHIPPED_MONKEY)


def predict_answers() -> list[Row]:
    """Return a row for each model: its tiles, its answer, and whether that is the image's."""
    ground_truth = _question().answer

    rows: list[Row] = []
    for name in MODELS:
        monkey = load_model(resources.models() / name)
        answer = monkey.answer(resources.samples() / IMAGE, QUESTION).text
        images = monkey.processor.image_processor
        has_tiles = images.views != "global"
        rows.append(
            {
                "model": name,
                "rows": images.grid.rows if has_tiles else 1,
                "cols": images.grid.cols if has_tiles else 1,
                "tile_size": images.tile_size,
                "image": IMAGE,
                "question": QUESTION,
                "ground_truth": ground_truth,
                "answer": answer,
                "exact_match": float(answer == ground_truth),
            }
        )
    return rows


def draw(rows: list[Row]) -> None:
    """Draw the figure from the rows of the table, and save it."""
    use_style()
    side = int(rows[0]["tile_size"])

    answers = {}
    for row in rows:
        grid = Grid(int(row["rows"]), int(row["cols"]))
        views = f"{grid.tiles} tiles of {side} x {side} pixels, and a global view"
        if grid.tiles == 1:
            views = f"one view of {side} x {side} pixels"
        answers[f"{row['model']}\n{views}"] = (grid, str(row["answer"]), row["exact_match"] == 1)

    image = open_image(resources.samples() / IMAGE)
    fig = draw_two_answers(image, _question().answer_box, QUESTION, answers, side)

    profile = resources.COMMITTED_PROFILE
    figures.save(fig, NAME, data=tables.table_path(NAME, profile), profile=profile, source=SOURCE)


def _question() -> Question:
    questions = synthetic_sample(IMAGE).questions
    return next(question for question in questions if question.question == QUESTION)


def main() -> None:
    """Predict the answers, write the table, and draw the figure."""
    path = tables.write_table(predict_answers(), NAME, resources.COMMITTED_PROFILE)
    draw(tables.read_csv(path))


if __name__ == "__main__":
    main()
