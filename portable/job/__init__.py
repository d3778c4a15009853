"""One job is one stage; a recipe is jobs joined by artefacts."""
