"""What training says about itself besides the loss."""

import torch
from torch import Tensor
from torch.nn.functional import pad


@torch.no_grad()
def exact_match(logits: Tensor, labels: Tensor, turns: Tensor) -> Tensor:
    """Share of answers that greedy decoding would get right, told from one teacher-forced pass.

    Greedy decoding repeats an answer exactly when each of its tokens, end of text included, is the most
    likely one after the right tokens before it.

    Args:
        logits: `[supervised positions, vocabulary]`, as the model gives them with labels.
        labels: `[B, T]`, -100 where nothing is supervised.
        turns: `[B, T]`, the number of the answer that a label belongs to.
    """
    targets, numbers = pad(labels, (0, 1), value=-100)[:, 1:], pad(turns, (0, 1), value=-1)[:, 1:]
    keep = targets != -100
    row = torch.arange(len(targets), device=labels.device)[:, None].expand_as(targets)[keep]
    _, answer = torch.unique(torch.stack([row, numbers[keep]]), dim=1, return_inverse=True)
    wrong = (logits.argmax(-1) != targets[keep]).float()
    return (wrong.new_zeros(int(answer.max()) + 1).index_add_(0, answer, wrong) == 0).float().mean()
