"""Who answers: rules, or any OpenAI-compatible endpoint."""
