"""The pictures of docs/parallelism.md: ``python -m ci.pictures`` writes them into docs/img/parallel."""
