"""The paper's printed figures, taken apart: counts, truncation, and the one odd cell."""

import pytest

from landmarking.evaluation.metrics import percent_half_up
from landmarking.evaluation.paper import ODD_CELL, TABLE_1, published, truncated_percent


@pytest.mark.parametrize("row", TABLE_1, ids=lambda row: f"{row.model}-{row.group}")
def test_printed_rates_are_truncated_counts_but_for_one_cell(row):
    for radius, (printed, hits) in enumerate(zip(row.sdr_percent, row.hits, strict=True), start=1):
        if printed is None:
            continue
        truncated = truncated_percent(hits, row.n)
        if (row.model, row.group, radius) == ODD_CELL:
            assert (printed, truncated, percent_half_up(hits, row.n)) == ("62.22", "62.21", "62.21")
            # No other count gives the printed cell either, truncated or rounded.
            assert all(
                "62.22" not in (truncated_percent(h, row.n), percent_half_up(h, row.n))
                for h in range(row.n + 1)
            )
        else:
            assert printed == truncated


def test_pooled_rows_are_the_sums_and_weighted_means_of_their_groups():
    for model in ("ML", "SL"):
        ds, hs, pooled = (published(model, group) for group in ("DS", "HS", "all"))
        assert pooled.n == ds.n + hs.n == 8 * pooled.people
        assert pooled.hits == tuple(a + b for a, b in zip(ds.hits, hs.hits, strict=True))
        mean = (ds.n * ds.mean_mm + hs.n * hs.mean_mm) / pooled.n
        assert mean == pytest.approx(pooled.mean_mm, abs=0.01)


def test_a_model_that_the_paper_does_not_have_has_no_row():
    assert published("heatmap", "HS") is None
