"""Data: records and mixtures, public datasets, and synthetic images with their ground truth.

`records` has the schema, `readers` the formats, `mixture` the order of training; a card in `dataset_cards`
describes a public dataset for training and evaluation, with the scores that the paper reports on it.
"""
