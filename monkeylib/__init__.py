"""monkeylib: the Monkey large multimodal model, rebuilt as a library with an executable series of notebooks."""

__version__ = "0.1.0"
