"""What views of bytes change (`exact=False`): in the pixels of photographs, and in the scores of nano-monkey.

    python benchmarks/byte_views.py --questions 300

Pixels are those of the sample photographs, as JPEG files of three sizes. Scores are those of the shipped
model on the first test questions of each split, whose images are drawn in the size of the tiles: there only
the global view differs. It writes results/byte_views.csv.
"""

import argparse
from pathlib import Path

import torch
from preprocessing import FILES, TILE, make_jpeg

from monkeylib import profiles, resources, tables
from monkeylib.experiments.scoring import load_questions, score_questions
from monkeylib.image_processor import MonkeyImageProcessor
from monkeylib.inference import load_model
from monkeylib.model.normalisation import CLIP_STD, normalise_bytes

SPLITS = ("fine", "large", "general")
TARGET = Path(__file__).parent / "results" / "byte_views.csv"


def pixel_rows() -> list[tables.Row]:
    """Return the difference of the views of each file: mean and largest, of 255."""
    rows = []
    for size, ((width, height), grid) in FILES.items():
        content = make_jpeg(width, height)
        exact, views = (
            MonkeyImageProcessor(TILE, *grid, exact=is_exact)(content) for is_exact in (True, False)
        )
        std = 255 * torch.tensor(CLIP_STD)[:, None, None]
        difference = normalise_bytes(views["pixel_values"], "monkey_vision") - exact["pixel_values"]
        difference = (difference * std).abs()
        for name, part in (("tiles", difference[:-1]), ("global view", difference[-1])):
            mean, largest = part.mean().item(), part.max().item()
            rows.append(
                {
                    "what": f"pixels of the {name}",
                    "of": size,
                    "mean": round(mean, 3),
                    "largest": round(largest, 1),
                }
            )
    return rows


def score_rows(questions: int) -> list[tables.Row]:
    """Return the scores of nano-monkey with exact views and with views of bytes, by split."""
    monkey = load_model(resources.REPOSITORY / "data" / "models" / "nano-monkey")
    by_split = load_questions(profiles.load_profile("nano"), dict.fromkeys(SPLITS, questions))

    scores = {}
    for exact in (True, False):
        monkey.processor.image_processor.exact = exact
        scores[exact] = score_questions(monkey, by_split)

    rows = []
    for split in SPLITS:
        exact, views = scores[True][split], scores[False][split]
        rows.append(
            {
                "what": "questions answered exactly, %",
                "of": split,
                "questions": len(exact.exact),
                "exact views": round(100 * float(exact.exact.mean()), 2),
                "views of bytes": round(100 * float(views.exact.mean()), 2),
                "answers that became right": int((views.exact & ~exact.exact).sum()),
                "answers that became wrong": int((~views.exact & exact.exact).sum()),
                "mean": round(float(abs(views.log_likelihood - exact.log_likelihood).mean()), 5),
                "largest": round(float(abs(views.log_likelihood - exact.log_likelihood).max()), 4),
            }
        )
    return rows


def main() -> None:
    """Measure, print, and write results/byte_views.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=300, help="of each split")
    options = parser.parse_args()

    torch.set_num_threads(1)
    rows = [*pixel_rows(), *score_rows(options.questions)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    rows = [{name: row.get(name, "") for name in columns} for row in rows]
    for row in rows:
        print(", ".join(f"{name}: {value}" for name, value in row.items() if value != ""))
    tables.write_csv(rows, TARGET)
    print(f"wrote {resources.display_path(TARGET)}")


if __name__ == "__main__":
    main()
