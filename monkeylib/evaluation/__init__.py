"""Evaluation: benchmarks, predictions, metrics, and scores computed from the predictions.

`benchmarks` names them (the paper's scores stand in `paper_scores.yaml`), `predict` answers them,
`prefix_sharing` encodes an image once for all its questions, `metrics` score, `results` makes tables.
"""
