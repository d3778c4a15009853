"""The engine behind an HTTP server that speaks OpenAI's language."""
