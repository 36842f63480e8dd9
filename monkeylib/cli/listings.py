"""`monkeylib models`, `profiles`, `prompts` and `experts`: what has a name that options take."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from monkeylib import resources
from monkeylib.cli import options

if TYPE_CHECKING:
    from monkeylib.tables import Row

JsonRows = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each.")]


def models(json: JsonRows = False) -> None:
    """List the models that monkeylib brings. `--model` and `--base` take their names."""
    from monkeylib.settings_files import read_json

    rows: list[Row] = []
    for folder in resources.shipped_models():
        config = read_json(folder / "config.json")
        rows.append(
            {
                "name": folder.name,
                "tiles": ", ".join("x".join(map(str, grid)) for grid in config["grids"]) or "none",
                "tile_size": config["tile_size"],
                "lora": config["lora_mode"],
                "megabytes": round((folder / "model.safetensors").stat().st_size / 1e6, 1),
                "card": resources.display_path(folder / "README.md"),
            }
        )

    _print_rows(rows, "models that monkeylib brings", json)
    if not json:
        print("Any other model is named by its folder, or by its name on a hub, such as echo840/Monkey.")


def profiles(json: JsonRows = False) -> None:
    """List the profiles: presets of all sizes and settings, from a smoke test to the paper."""
    from monkeylib.profiles import load_profile, profile_names

    rows: list[Row] = []
    for name in profile_names():
        profile = load_profile(name)
        rows.append(
            {
                "name": name,
                "tiles": f"{profile.rows}x{profile.cols}",
                "tile_size": profile.tile_size,
                "tokens_per_view": profile.tokens_per_view,
                "steps": profile.training.steps,
                "base": profile.base_checkpoint or profile.language_model.pretrained or "none",
            }
        )

    _print_rows(rows, "profiles", json)
    if not json:
        print("`--set FIELD=VALUE` changes a field, and a YAML file that `extends:` a profile several.")


def prompts(json: JsonRows = False) -> None:
    """List the prompt templates: what each is for, its text, and where the question stands in it."""
    from monkeylib.prompts import PROMPTS

    rows: list[Row] = [
        {"name": name, "text": repr(template.text), "purpose": template.purpose}
        for name, template in PROMPTS.items()
    ]
    _print_rows(rows, "prompts", json)


def experts(json: JsonRows = False) -> None:
    """List the experts of the caption pipeline, their sets, and whether their weights are here."""
    from monkeylib.captions.registry import COMPOSERS, EXPERTS, MATCHERS, missing_assets

    rows: list[Row] = []
    all_missing: list[str] = []
    for name, entry in EXPERTS.entries.items():
        state = entry.weights_from
        if entry.assets is not None:
            missing = missing_assets(name)
            state = "downloaded when needed" if missing else "here"
            all_missing += missing
        rows.append({"name": name, "sets": ", ".join(entry.sets), "weights": state})

    _print_rows(rows, "experts", json)
    if not json:
        if all_missing:
            command = f"`monkeylib assets fetch {' '.join(dict.fromkeys(all_missing))}`"
            print(resources.as_typed(f"what is downloaded when needed is fetched now by {command}"))
        print(f"matchers: {', '.join(MATCHERS.entries)}")
        print(f"composers: {', '.join(COMPOSERS.entries)}")


def _print_rows(rows: "Sequence[Row]", title: str, json: bool) -> None:
    from rich.console import Console

    from monkeylib.tables import print_table

    if json:
        for row in rows:
            options.print_json(dict(row))
    else:
        print_table(rows, title, Console())
