"""Hardware backends. They implement the Protocols of ``portable`` and are found by entry point; nobody
imports them."""
