"""From YAML to typed dataclasses, once."""
