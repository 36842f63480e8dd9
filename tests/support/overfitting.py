"""Eight records, learned by the adapters and the connector of each tiny raised family alone.

    python -m tests.support.overfitting

trains all families, for some minutes, and writes data/results/nano/raised_families.csv, which the table in
docs/raising.md shows; families that are named replace their rows. All records have the same question, so that
answers can be told from images only.

A frozen language model of random weights stands in the way of any learning in front of it. Its logits have
a standard deviation of about 1, with which no answer can be nearly certain: a loss of 0.2 would be the least.
And some families make token embeddings so large that the image hardly changes what the last token says.
Before training, token embeddings and the output layer are therefore scaled to what trained ones are like.

Kosmos-2 multiplies token embeddings by the root of their width and adds a fixed table of positions, so that
the last token's own share was ten times that of other families. With it, not even free image features in the
place of the encoder's were enough (a loss of 6.7 after 200 steps): its text is scaled behind both, and more.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import torch
from torch import nn

from monkeylib import tables
from monkeylib.messages import ImagePart, Message
from monkeylib.raising import Raised, raise_resolution, set_trainable
from monkeylib.raising.adapters import layer_adapters
from monkeylib.raising.conversations import Conversations
from monkeylib.tiling import Grid
from tests.raising.conftest import noise_image
from tests.support import tiny_vlms

TABLE, PROFILE = "raised_families", "nano"
ANSWERS = "abcdefgh"
GRID = Grid(1, 2)
RANK = 4
LOSS = 0.05
EMBEDDINGS_DEVIATION, LOGITS_DEVIATION = 0.1, 4.0
OTHER_DEVIATIONS = {"kosmos2": 0.03}
# Families differ in how far their random weights damp what the tower gives: the first rate that does it.
LEARNING_RATES = (1e-2, 3e-2, 3e-3)
STEPS = 300


class Overfitting(NamedTuple):
    """What training on eight records came to.

    Fields:
        learning_rate: of AdamW.
        losses: of each step, before it.
        adapter_weights, connector_weights: number of those that trained.
    """

    learning_rate: float
    losses: list[float]
    adapter_weights: int
    connector_weights: int


def overfit(family: str, learning_rate: float, steps: int = STEPS) -> Overfitting:
    """Train a tiny raised model on eight records until the loss is low, or the steps are used up."""
    vlm = tiny_vlms.build(family)
    raised = raise_resolution(vlm.model, vlm.processor, GRID, RANK, tile_size=vlm.tile_size)
    batch = make_batch(raised)
    scale_language_model(raised.model, batch, OTHER_DEVIATIONS.get(family, EMBEDDINGS_DEVIATION))
    set_trainable(raised.model)

    trainable = [parameter for parameter in raised.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=0.0)
    losses: list[float] = []
    for _ in range(steps):
        loss = raised.model(**batch).loss
        losses.append(loss.item())
        if losses[-1] < LOSS:
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()

    in_adapters = sum(
        parameter.numel()
        for adapters in layer_adapters(raised.model).values()
        for parameter in adapters.parameters()
        if parameter.requires_grad
    )
    trained = sum(parameter.numel() for parameter in trainable)
    return Overfitting(learning_rate, losses, in_adapters, trained - in_adapters)


@torch.no_grad()
def scale_language_model(model: nn.Module, batch: dict[str, Any], deviation: float) -> None:
    """Scale what a language model reads of a text, and its output layer; both may be one set of weights.

    Args:
        model: raised.
        batch: its inputs.
        deviation: standard deviation of token embeddings, and of positions that a fixed table holds.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    decoder = model.get_decoder()
    head.weight = nn.Parameter(head.weight.clone(), requires_grad=False)

    # Of Kosmos-2, transformers returns the language model with its output layer.
    decoder = getattr(decoder, "model", decoder)
    factor = getattr(decoder, "embed_scale", 1.0)
    embeddings.weight *= deviation / (factor * embeddings(batch["input_ids"]).std())
    table = getattr(getattr(decoder, "embed_positions", None), "weights", None)
    if table is not None:
        table *= deviation / table.std()

    head.weight *= LOGITS_DEVIATION / model(**batch).logits.std()


def make_batch(raised: Raised) -> dict[str, Any]:
    """Return the model's inputs of all records, with labels."""
    conversations = Conversations(raised.model, raised.processor)
    images = [noise_image(number) for number in range(len(ANSWERS))]
    questions = [Message("user", (ImagePart(image), "a")) for image in images]

    # A decoder of its own reads the answer, which is no part of the prompt.
    if conversations.is_encoder_decoder:
        inputs = conversations.prepare([[question] for question in questions])
        ids = conversations.tokenizer.convert_tokens_to_ids(list(ANSWERS))
        labels = torch.tensor([[answer, conversations.end_ids[0]] for answer in ids])
        return {**inputs, "labels": labels}

    rows = [
        conversations.encode([question, Message("assistant", (answer,))], [GRID])
        for question, answer in zip(questions, ANSWERS, strict=True)
    ]
    batch = conversations.pad(rows)
    del batch["turns"]
    return {**batch, **conversations.views_of([[image] for image in images], [[GRID]] * len(images))}


def overfit_by_some_rate(family: str) -> Overfitting:
    """Train with one learning rate after the other until one does it, and return the best training."""
    trainings = []
    for rate in LEARNING_RATES:
        trainings.append(overfit(family, rate))
        if trainings[-1].losses[-1] < LOSS:
            break
    return min(trainings, key=lambda training: training.losses[-1])


def main() -> None:
    """Train the families, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="by default all")
    families = parser.parse_args().families

    for family in families or tiny_vlms.FAMILIES:
        training = overfit_by_some_rate(family)
        row: dict[str, tables.Value] = {
            "family": family,
            "learning rate": training.learning_rate,
            "steps": len(training.losses) - 1,
            "first loss": training.losses[0],
            "loss": training.losses[-1],
            "weights of adapters": training.adapter_weights,
            "weights of the connector": training.connector_weights,
        }
        print(*row.values(), flush=True)
        write_row(row)


def write_row(row: tables.Row) -> None:
    """Put the row of a family into the table, in the order of the families."""
    path = tables.table_path(TABLE, PROFILE)
    rows = {str(earlier["family"]): earlier for earlier in tables.read_csv(path)} if path.exists() else {}
    rows[str(row["family"])] = row
    order = [*tiny_vlms.FAMILIES, *tiny_vlms.NEEDS]
    tables.write_table(sorted(rows.values(), key=lambda row: order.index(str(row["family"]))), TABLE, PROFILE)


if __name__ == "__main__":
    main()
