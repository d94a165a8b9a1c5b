"""Published figures that stand beside ours: the paper's Table 1, and two raters against each other.

The paper is Male et al., "Single-Landmark vs. Multi-Landmark Deep Learning Approaches to Brain MRI
Landmarking" (Table 1 and section 3.4). Its SDR cells are hits of n points, truncated to two
decimals; the hits below are the only whole numbers that give the printed cells.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "the paper"
RATERS = "two raters"


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        source: Who says it.
        model: Model of the row, or who placed the landmarks.
        group: Test group, or the data set.
        people: Persons scored, where published.
        n: Landmarks scored, persons times landmarks, where published.
        mean_mm: Mean in-plane error.
        sd_mm: Its standard deviation over the n landmarks; None where not published.
        sdr_percent: SDR at 1 to 5 mm as printed; None where not published.
        hits: Landmarks within 1 to 5 mm, recovered from the cells; empty where not known.
    """

    source: str
    model: str
    group: str
    people: int | None
    n: int | None
    mean_mm: float
    sd_mm: float | None
    sdr_percent: tuple[str | None, ...]
    hits: tuple[int, ...] = ()


TABLE_1: tuple[PublishedRow, ...] = (
    PublishedRow(
        PAPER, "ML", "DS", 54, 432, 3.26, 2.15,
        ("10.64", "31.25", "53.47", "71.29", "84.95"), (46, 135, 231, 308, 367),
    ),
    PublishedRow(
        PAPER, "ML", "HS", 87, 696, 2.89, 2.11,
        ("13.36", "39.79", "62.22", "78.59", "88.36"), (93, 277, 433, 547, 615),
    ),
    PublishedRow(
        PAPER, "ML", "all", 141, 1128, 3.03, 2.13,
        (None, None, "58.86", None, None), (139, 412, 664, 855, 982),
    ),
    PublishedRow(
        PAPER, "SL", "DS", 54, 432, 2.25, 2.35,
        ("25.92", "62.73", "80.32", "87.96", "90.97"), (112, 271, 347, 380, 393),
    ),
    PublishedRow(
        PAPER, "SL", "HS", 87, 696, 1.84, 1.63,
        ("31.75", "68.53", "86.06", "92.09", "96.12"), (221, 477, 599, 641, 669),
    ),
    PublishedRow(
        PAPER, "SL", "all", 141, 1128, 1.99, 1.94,
        (None, None, "83.86", None, None), (333, 748, 946, 1021, 1062),
    ),
)  # fmt: skip
"""Table 1, and the pooled figures of section 3.4, as printed."""

ODD_CELL = ("ML", "HS", 3)
"""Model, group and radius of the one printed cell that no whole number of hits gives."""

FLOOR: tuple[PublishedRow, ...] = (
    PublishedRow(
        RATERS, "raters", "HCP", None, None, 0.74, None, ("76", "96", "99", None, None)
    ),
    PublishedRow(
        RATERS, "raters", "OASIS", None, None, 1.06, None, ("62", "86", "95", None, None)
    ),
)  # fmt: skip
"""One rater's in-plane distance from another over the ten midline AFIDs (rater files of AFIDs-HCP,
3 T at 0.7 mm, and AFIDs-OASIS at 1 mm; Taha et al. 2023)."""

FLOOR_BY_LANDMARK_MM: dict[str, tuple[float, float]] = {
    "AC": (0.34, 0.47),
    "PC": (0.46, 0.42),
    "PMJ": (0.83, 1.33),
    "ICS": (0.67, 1.29),
    "CUL": (0.68, 1.10),
    "IMS": (0.55, 0.96),
    "GENU": (1.00, 1.25),
    "SPLE": (0.69, 0.69),
}
"""The same for each landmark: mean distance in mm on HCP and on OASIS."""

FLOOR_NOTE = (
    "one rater against another over ten midline landmarks, from the public rater files of "
    "AFIDs-HCP and AFIDs-OASIS."
)

TRUNCATION_NOTE = (
    "SDR cells of this study are hits of n, rounded half up from the exact ratio; a radius is "
    "inclusive. The paper's cells stand as printed: they are hits of n truncated to two decimals "
    "(46 of 432 is printed 10.64 and rounds to 10.65). One of them fits no count: ML, HS, 3 mm is "
    "printed 62.22, and 433 of 696 is 62.21 either way."
)


def published(model: str, group: str) -> PublishedRow | None:
    """The paper's row for a model and group, or None where it has none."""
    for row in TABLE_1:
        if (row.model, row.group) == (model, group):
            return row
    return None


def truncated_percent(hits: int, n: int) -> str:
    """A percentage truncated to two decimals, as the paper prints its SDR: 46 of 432 is 10.64."""
    hundredths = hits * 10_000 // n
    return f"{hundredths // 100}.{hundredths % 100:02d}"
