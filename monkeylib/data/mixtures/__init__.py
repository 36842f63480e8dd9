"""The mixtures that the library ships, one YAML each, and the records of `samples`."""
