import torch
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from monkeylib.raising.encodings import join_encodings


def test_encodings_of_several_images_stand_one_after_the_other():
    tensors = join_encodings(
        [
            BaseModelOutputWithPooling(pooler_output=torch.full((2, 1), 0.0)),
            BaseModelOutputWithPooling(pooler_output=torch.ones(1, 1)),
        ]
    )
    assert tensors.pooler_output.tolist() == [[0], [0], [1]]
    lists = [BaseModelOutputWithPooling(pooler_output=list(features)) for features in ("ab", "c")]
    assert join_encodings(lists).pooler_output == list("abc")


def test_joined_encodings_hold_what_is_the_same_for_every_image():
    outputs = [
        BaseModelOutput(last_hidden_state=torch.full((1, 1), float(number)), attentions=torch.ones(1))
        for number in range(2)
    ]
    for output in outputs:
        output.pooler_output = torch.ones(1, 1)
    joined = join_encodings(outputs)
    assert joined.attentions.tolist() == [1] and joined.last_hidden_state is None
    assert joined.pooler_output.shape == (2, 1)
