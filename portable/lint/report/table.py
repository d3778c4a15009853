"""Rules and counts as tables, and one rule explained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from portable.lint.finding import Finding
from portable.lint.rule import Catalogue, Rule


def statistics(findings: Iterable[Finding], catalogue: Catalogue) -> str:
    """Return a line for each rule that was broken, the most frequent first."""
    counts = Counter(finding.rule for finding in findings)
    width = max((len(str(number)) for number in counts.values()), default=1)
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return "\n".join(f"{counts[name]:>{width}}  {name}  {catalogue[name].title}" for name in ordered)


def rules_as_markdown(catalogue: Catalogue) -> str:
    """Return the table of ``docs/lint.md``."""
    lines = ["| rule | severity | what | instead | fix |", "|---|---|---|---|---|"]
    for rule in catalogue.values():
        fix = "yes" if any(check.fix for check in rule.checks) else ""
        cells = [rule.id, rule.severity, rule.title, rule.remedy, fix]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def explain(rule: Rule) -> str:
    """Return all that is known of one rule."""
    parts = [f"{rule.id}: {rule.title} ({rule.severity})", rule.consequence, f"Instead: {rule.remedy}"]
    parts += [f"With Portable: {rule.portable}"] if rule.portable else []
    parts += _examples("Found:", rule.bad) + _examples("Not found:", rule.good)
    return "\n\n".join(parts)


def _examples(title: str, texts: Iterable[str]) -> list[str]:
    blocks = ["\n".join(f"    {line}" for line in text.rstrip().splitlines()) for text in texts]
    return ["\n\n".join([title, *blocks])] if blocks else []
