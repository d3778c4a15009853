"""What every other package stands on: errors, registry, records, artefacts, storage, metrics, randomness."""
