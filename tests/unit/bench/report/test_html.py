"""The HTML report: self-contained, complete, and proof against hostile names.

In scope: what is in the page. Out of scope: how a browser shows it (integration).
"""

from html.parser import HTMLParser

import pytest
from unit.bench.result_sets import HOSTILE, hostile_result_set, result_set, trial, with_trials

from bench.report.content import Picture
from bench.report.html import page
from bench.report.story import document
from bench.results.record import ResultSet

VOID = {"meta"}
FORBIDDEN = {"script", "iframe", "object", "embed", "link", "img", "base", "form"}


class Reading(HTMLParser):
    """What a browser would find."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it, and that it is open."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it; it has no end to wait for."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        """Nothing may be closed that is not the innermost."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep it; of a table by its cell."""
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def read(result: ResultSet) -> Reading:
    reading = Reading()
    reading.feed(page(result))
    reading.close()
    assert reading.open == []
    return reading


def said(result: ResultSet) -> str:
    return "\n".join(read(result).text)


def test_hostile_names_stay_text() -> None:
    reading = read(hostile_result_set())
    assert FORBIDDEN.isdisjoint(reading.tags)
    assert [name for name, _ in reading.attributes if name.startswith("on")] == []
    assert all("document.title" not in (value or "") for _, value in reading.attributes)
    assert HOSTILE.replace("\x00", " ") in "".join(reading.text)


def test_page_needs_nothing_else_and_forbids_scripts() -> None:
    text = page(result_set())
    policy = dict(read(result_set()).attributes).get("content")
    assert policy is not None
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
    assert "src=" not in text
    assert "url(" not in text
    assert "@import" not in text
    links = [value for name, value in read(result_set()).attributes if name == "href"]
    assert links
    assert all(value is not None and value.startswith("#section-") for value in links)


def test_every_link_leads_somewhere_and_no_id_is_there_twice() -> None:
    attributes = read(result_set()).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {f"#{one}" for one in ids} >= {value for name, value in attributes if name == "href"}


def test_text_comes_before_plots() -> None:
    text = page(result_set())
    first_plot = text.index("<svg")
    for heading in ("Bars", "Where Seawall loses", "Noise", "Method"):
        assert text.index(f">{heading}</h2>") < first_plot


def test_bars_are_told_and_missed_ones_stand_out() -> None:
    rows = read(result_set()).rows
    assert ["all_quick_minutes", "17.50", "<=15", "MISSED"] in rows
    assert ["failover_vs_patroni", "0.045", "<=0.1", "ok"] in rows
    assert page(result_set()).count('class="bad"') == 1


def test_losses_are_told_worst_first() -> None:
    rows = read(result_set()).rows
    (start,) = [at for at, row in enumerate(rows) if "what may be said" in row and "peer" in row]
    losses = [row for row in rows[start + 1 :] if len(row) == 7]
    assert len(losses) == 24  # tps and p99 against stock, and an error against either
    assert losses[0][2] == "errors"
    assert all(row[3] == "seawall-ha / stock" for row in losses if row[2] != "errors")
    assert "The bar all_quick_minutes is missed: 17.50, promised <=15." in said(result_set())


def test_page_without_losses_says_so_and_is_not_empty() -> None:
    result = with_trials([trial("seawall-ha", 0, tps=2.0), trial("stock", 0, tps=1.0)])
    assert "Nowhere in what this result set compares." in said(result)
    assert "Nothing failed." in said(result)
    assert "None was measured." in said(result)


def test_page_of_no_trials_is_a_page() -> None:
    assert "0 trials" in said(with_trials([]))


def test_noisy_comparisons_are_left_out_and_the_hidden_losses_counted() -> None:
    noisy = result_set(others_cores=1.0)
    text = said(noisy)
    assert "40 comparisons are not printed" in text
    assert "24 more comparisons look worse for Seawall" in text
    assert "worse by" not in text
    assert 'id="tps-ratio-tps"' not in page(noisy)


@pytest.mark.parametrize("is_asked_by_command", [True, False])
def test_noisy_comparisons_are_printed_when_asked_for(is_asked_by_command: bool) -> None:
    if is_asked_by_command:
        text = page(result_set(others_cores=1.0, command=["seawall", "bench", "--noisy"]))
    else:
        text = page(result_set(others_cores=1.0), is_noise_allowed=True)
    assert "worse by" in text
    assert "40 comparisons are printed although the machine was too noisy" in text


def test_every_plot_has_its_place() -> None:
    names = [block.name for block in document(result_set()).blocks if isinstance(block, Picture)]
    assert names == [
        "tps-ratio-tps", "tps-ratio-p99-ms", "tps-tpcb-scaling", "tps-select-only-scaling",
        "tps-tpcb-1-time", "tps-tpcb-1-latency", "tps-tpcb-8-time", "tps-tpcb-8-latency",
        "tps-tpcb-32-time", "tps-tpcb-32-latency",
        "tps-select-only-1-time", "tps-select-only-1-latency",
        "tps-select-only-8-time", "tps-select-only-8-latency",
        "tps-select-only-32-time", "tps-select-only-32-latency",
        "failover-ratio-gap-seconds", "failover-gaps",
        "failover-postgres-killed-8-time", "failover-node-killed-8-time",
    ]  # fmt: skip


def test_ratios_of_every_round_are_told() -> None:
    result = with_trials(
        [trial("seawall-ha", at, tps=1.0 + at) for at in range(3)]
        + [trial("stock", at, tps=2.0) for at in range(3)]
    )
    (row,) = [row for row in read(result).rows if row[0] == "seawall-ha / stock"]
    assert row[1] == "tps"
    assert row[-1] == "0.500 1.000 1.500"
