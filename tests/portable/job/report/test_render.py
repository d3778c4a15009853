"""The page: whole, self-contained, safe, and without what was not run."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from portable.job.report.build import build_report
from portable.job.report.render import render

Run = tuple[Path, dict[str, Any]]
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks nesting and collects ids, links, headings and text."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.fetched: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.targets += [(given["href"] or "")[1:]] if tag == "a" else []
        self.fetched += [
            value or "" for key, value in attrs if key in {"src", "srcset", "action"} or tag == "link"
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text += data


def page_of(run: Run) -> Page:
    return Page(render(build_report(*run)))


def drop(manifest: dict[str, Any], *verbs: str) -> None:
    manifest["stages"] = [row for row in manifest["stages"] if row["verb"] not in verbs]


def test_page_has_every_section_in_order(run: Run):
    assert page_of(run).headings == [
        "The chain",
        "Data",
        "Pretraining",
        "Synthesis",
        "Fine-tuning",
        "Reinforcement learning",
        "Evaluation",
        "Use the model",
        "Run it again",
    ]


def test_links_lead_somewhere_and_ids_are_unique(run: Run):
    page = page_of(run)
    assert set(page.targets) <= set(page.ids)
    assert len(page.targets) == 6
    assert len(page.ids) == len(set(page.ids))


def test_page_fetches_nothing(run: Run):
    html = render(build_report(*run))
    assert Page(html).fetched == []
    assert "@import" not in html
    assert "url(" not in html
    assert not re.search(r"https?://", html)


def test_page_answers_day_night_narrow_and_paper(run: Run):
    html = render(build_report(*run))
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert 'name="viewport"' in html


def test_header_says_what_where_and_when(run: Run):
    text = page_of(run).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "24 November 2026, 14:06 UTC" in text
    assert "cpu, avx2, 2 cores, 16.0 GiB" in text
    assert "391cf13a9be1+" in text
    assert "From raw text to an RL-tuned model in 6 min 44 s, with at most 1.6 GiB of memory." in text


def test_stage_costs_and_reuse_are_shown(run: Run):
    text = page_of(run).text
    assert "2 min 18 s" in text
    assert "869.8 MiB" in text
    assert text.count("reused") == 1


def test_texts_of_the_run_are_escaped(run: Run):
    html = render(build_report(*run))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    page = Page(html)
    assert "<b>Cebgmc</b> & gur erfg" in page.text
    assert "What is a <generator>?" in page.text


def test_numbers_of_each_section_are_there(run: Run):
    text = page_of(run).text
    for words in (
        "18,204 documents came in and 12,841 were left",
        "1 line could not be read and lies in quarantine.jsonl",
        "too short 2,766",
        "samples of what it changed",
        "it is still the better compressor, by 11%",
        "rules, no language model",
        "All 3 seeds are shown",
        "0.676 – 0.844",
        "n = 642",
        "3.1e-06",
        "portable chat model_path=",
        "Files differed from that revision",
        "stages: [data, pretrain",
        "2.13.0",
    ):
        assert words in text, words


def test_model_measured_only_once_is_still_compared(run: Run):
    metrics = Path(run[1]["stages"][1]["artefact"]) / "metrics.jsonl"
    lines = [line for line in metrics.read_text().splitlines() if "heldout_bits" not in line]
    metrics.write_text("\n".join(lines))
    page = page_of(run)
    assert "bits per byte of held-out text · lower is better" in page.text
    assert "4.713" in page.text


def test_first_samples_are_open_and_the_rest_one_click_away(run: Run):
    text = page_of(run).text
    assert "3 more: Sums of two digits" in text
    assert "3+1=" in text


def test_empty_answer_is_shown_as_nothing(run: Run):
    assert "(nothing)" in page_of(run).text


@pytest.mark.parametrize("verb", ["data", "pretrain", "synth", "sft", "rl", "eval", "export"])
def test_any_one_stage_may_be_missing(verb: str, run: Run):
    drop(run[1], verb)
    page = page_of(run)
    assert verb not in page.ids
    assert set(page.targets) <= set(page.ids)


def test_recipe_of_one_stage_has_a_page(run: Run):
    drop(run[1], "pretrain", "synth", "sft", "rl", "eval", "export")
    assert page_of(run).headings == ["The chain", "Data", "Run it again"]


def test_stage_that_kept_nothing_but_its_seal_stands_in_the_chain_only(run: Run):
    for row in run[1]["stages"]:
        for path in Path(row["artefact"]).glob("*.json*"):
            if path.name != "artefact.json":
                path.unlink()
    page = page_of(run)
    assert page.text.count("Pretraining") == 1
    assert "pretrain" not in page.ids


def test_unknown_verb_stands_in_the_chain(run: Run):
    run[1]["stages"][2] |= {"verb": "distil", "name": "distil"}
    assert "distil" in page_of(run).text


def test_run_outside_a_checkout_has_no_revision_to_go_to(run: Run):
    run[1]["git_revision"] = None
    text = page_of(run).text
    assert "git checkout" not in text
    assert "not from a checkout" in text


def test_same_report_gives_the_same_page(run: Run):
    report = build_report(*run)
    assert render(report) == render(report)
