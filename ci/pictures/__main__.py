"""Writes every picture."""

from pathlib import Path

from ci.pictures.gallery import FOLDER, PICTURES

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        Path(FOLDER, f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
