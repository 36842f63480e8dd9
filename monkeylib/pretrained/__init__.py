"""A model put together from pretrained parts of transformers, with fresh adapters.

A profile names under `pretrained` where they come from: a local folder, or an id of a model hub. The parts
of the profile `small` are assets too, which need no hub.
"""

from transformers import PreTrainedTokenizerBase

from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration
from monkeylib.pretrained import llava, parts
from monkeylib.profiles.schema import Encoder, Profile

IMAGE_TOKENS = ("<img>", "</img>", "<imgpad>")


def build_tokenizer(profile: Profile) -> PreTrainedTokenizerBase:
    """The tokenizer of the profile's language model, with the image's three tokens at the end; LLaVA-1.5 has
    one of its own.

    Raises:
        FileNotFoundError: it is not to be had.
        ValueError: the profile starts from a whole checkpoint of another kind.
    """
    if not isinstance(profile.vision, Encoder):
        raise ValueError(
            f"The profile {profile.name} starts from {profile.text.pretrained}: convert that checkpoint with "
            "`monkeylib convert`, and name the folder as the profile's base_checkpoint."
        )
    tokenizer = parts.tokenizer(profile.text.pretrained)
    if profile.text.image_ids.start is not None:
        tokenizer.add_tokens(list(IMAGE_TOKENS), special_tokens=True)
    return tokenizer


def build_model(profile: Profile, config: MonkeyConfig) -> MonkeyForConditionalGeneration:
    """The profile's model: its encoder and language model, or its LLaVA-1.5 whole, and all else fresh.

    Raises:
        FileNotFoundError: the weights are not to be had.
        ValueError: they do not fit the configuration.
    """
    if profile.vision.pretrained is None:
        return parts.from_state(config, llava.state_dict(profile.text.pretrained), llava.FRESH)
    encoder = parts.encoder(profile.vision.pretrained, config.vision_config)
    language = parts.language_model(profile.text.pretrained, config.text_config.vocab_size)
    state = {f"vision.trunk.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {f"language_model.{name}": tensor for name, tensor in language.state_dict().items()}
    return parts.from_state(config, state, fresh=("vision.adapters.", "resampler."))
