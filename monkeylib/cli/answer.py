"""`monkeylib answer`: one question about one image."""

from typing import Annotated

import typer

from monkeylib.cli import options


def answer(
    image: options.ImageSource,
    question: Annotated[str, typer.Argument(help="The question; prompts for captions need none.")] = "",
    model: options.Checkpoint = None,
    prompt: Annotated[str, typer.Option(help="Prompt template: vqa, caption, detailed_caption, ...")] = "vqa",
    max_new_tokens: options.MaxNewTokens = 128,
    grid: options.GridOption = "",
    allow_address: options.AllowAddress = False,
) -> None:
    """Answer a question about an image."""
    # Imported here, so that `monkeylib --help` starts at once.
    from monkeylib.images import open_image
    from monkeylib.prompts import build_prompt

    # Before the model is loaded, so that a wrong argument is reported at once.
    opened = open_image(image, allow_address=allow_address)
    build_prompt(prompt, question)
    tiles = options.read_grid(grid)

    monkey = options.load_checkpoint(model)
    options.note_distortion(monkey, opened, tiles)
    print(monkey.answer(opened, question, prompt, max_new_tokens, tiles))
