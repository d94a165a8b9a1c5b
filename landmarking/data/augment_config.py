"""What augmentation can do to training slices, as settings."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from landmarking.data.painting import PaintSettings
from landmarking.data.template_people import PeopleSettings
from landmarking.errors import ConfigError

KINDS = ("none", "random", "synth")
SOURCES = ("people", "cohort", "both")


@dataclass
class AugmentConfig:
    """What happens to a training slice; a size of zero leaves that change out.

    Attributes:
        kind: `none`; `random` changes the slice; `synth` puts a newly drawn and painted person in
            its place.
        turn_deg: SD of the in-plane turn.
        scale: SD of the logarithm of the size, by axis.
        shift_px: SD of the shift, by axis.
        warp_px: SD of a smooth displacement.
        warp_knot_px: Its knot distance.
        contrast: Largest bend of the intensities towards or away from the middle, below 1.
        gamma: SD of the logarithm of gamma.
        bias: Largest SD of the logarithm of a smooth bias field.
        blur_px: Largest SD of a Gaussian blur, by axis.
        noise: Largest SD of noise, as a share of the range of intensities.
        occlusion: Probability that a rectangle is covered.
        share: Share of slices that `synth` replaces; the rest keeps the cohort's own and is changed
            as `random` does.
        source: Whom `synth` paints: `people`, newly drawn from the template; `cohort`, each slice's
            own person from the tissue maps of the scan, turned, scaled, shifted and warped as
            `random` does; `both`, one or the other by chance. Slices without tissue maps are drawn
            from the template under `both` and stay the cohort's own under `cohort`.
        people: How the people of `synth` differ.
        paint: How they are painted.
    """

    kind: str = "none"
    turn_deg: float = 0.0
    scale: float = 0.0
    shift_px: float = 0.0
    warp_px: float = 0.0
    warp_knot_px: float = 30.0
    contrast: float = 0.0
    gamma: float = 0.0
    bias: float = 0.0
    blur_px: float = 0.0
    noise: float = 0.0
    occlusion: float = 0.0
    share: float = 1.0
    source: str = "people"
    people: PeopleSettings = field(default_factory=PeopleSettings)
    paint: PaintSettings = field(default_factory=PaintSettings)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        if self.kind not in KINDS:
            raise ConfigError(f"augment.kind is one of {', '.join(KINDS)}, found {self.kind!r}")
        if self.source not in SOURCES:
            raise ConfigError(
                f"augment.source is one of {', '.join(SOURCES)}, found {self.source!r}"
            )
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and value < 0.0:
                raise ConfigError(f"augment.{item.name} is not negative, found {value}")
        if self.contrast >= 1.0 or self.share > 1.0 or self.occlusion > 1.0:
            raise ConfigError(
                "augment.contrast lies below 1, augment.share and augment.occlusion are at most 1, "
                f"found {self.contrast}, {self.share} and {self.occlusion}"
            )
        if self.warp_knot_px < 6.0 * self.warp_px or self.warp_knot_px <= 0.0:
            raise ConfigError(
                f"augment.warp_knot_px is at least six times augment.warp_px, or slices would "
                f"fold, found {self.warp_knot_px} and {self.warp_px}"
            )
