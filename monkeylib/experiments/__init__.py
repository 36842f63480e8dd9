"""Experiments: models trained, evaluated and compared under equal conditions, and what the results say."""
