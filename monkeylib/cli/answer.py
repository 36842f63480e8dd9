"""`monkeylib answer`: one question about one image, or several."""

from typing import Annotated

import typer

from monkeylib.cli import options


def answer(
    image: options.ImageSource,
    question: Annotated[str, typer.Argument(help="The question; prompts for captions need none.")] = "",
    more_images: Annotated[
        list[str] | None,
        typer.Option("--image", help="Another image, which follows the first one. May be repeated."),
    ] = None,
    model: options.Checkpoint = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="Prompt template: vqa, caption, detailed_caption, ... Default: vqa; of a raised chat model, "
            "the question as it is."
        ),
    ] = "",
    max_new_tokens: options.MaxNewTokens = 128,
    grid: options.GridOption = "",
    samples: Annotated[
        int,
        typer.Option(
            help="Number of answers to sample, one per line. For more than one, give a --temperature."
        ),
    ] = 1,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    json: options.Json = False,
    allow_address: options.AllowAddress = False,
) -> None:
    """Answer a question about an image; - reads it from standard input."""
    # Imported here, so that `monkeylib --help` starts at once.
    from monkeylib.model.generation_options import check_options
    from monkeylib.prompts import build_prompt

    # Before the model is loaded, so that a wrong argument is reported at once.
    generation = options.sampling_options(temperature, seed)
    if samples < 1:
        raise ValueError(f"--samples is {samples}: expected at least 1")
    if samples > 1:
        if temperature is None:
            raise ValueError(
                f"--samples is {samples}: greedy answers are all the same, so give a --temperature, such as "
                "0.7"
            )
        generation["num_return_sequences"] = samples
    check_options(max_new_tokens, generation)
    build_prompt(prompt or "vqa", question)
    tiles = options.read_grid(grid)
    images = [options.open_source(source, allow_address) for source in [image, *(more_images or [])]]

    monkey = options.load_checkpoint(model, tiles)
    for opened in images:
        options.note_distortion(monkey, opened, tiles)
    result = monkey.answer(images, question, prompt or None, max_new_tokens, tiles, **generation)

    if json:
        options.print_json(result.to_dict())
    else:
        for sample in result.samples or [result]:
            print(sample.text)
    options.report_cut(result.samples or [result], max_new_tokens)
