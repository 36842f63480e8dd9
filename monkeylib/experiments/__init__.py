"""Experiments: models trained, evaluated and compared under equal conditions."""
