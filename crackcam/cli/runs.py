"""What one call of a script asks for: settings of all its groups, and which of them exclude each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from crackcam.config import (
    AnalysisConfig,
    ExactRuntimeConfig,
    ExplainConfig,
    ExplainOutputConfig,
    ImagesConfig,
    ModelConfig,
    OutputConfig,
    PredictConfig,
    RuntimeConfig,
    SizesConfig,
)
from crackcam.errors import UserError
from crackcam.methods import BEST


@dataclass(frozen=True, kw_only=True)
class PredictRun:
    """Everything that ``inference.py`` is asked for."""

    model: ModelConfig = field(default_factory=ModelConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    runtime: RuntimeConfig = field(default_factory=ExactRuntimeConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class ExplainRun:
    """Everything that ``xai.py`` is asked for.

    Raises:
        UserError: two settings exclude each other.
    """

    explain: ExplainConfig = field(default_factory=ExplainConfig)
    sizes: SizesConfig = field(default_factory=SizesConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    runtime: RuntimeConfig = field(default_factory=ExactRuntimeConfig)
    output: ExplainOutputConfig = field(default_factory=ExplainOutputConfig)
    command: str = ""

    def __post_init__(self) -> None:
        explain, analysis, output = self.explain, self.analysis, self.output
        if analysis.anatomy:
            self._check_anatomy()
        if explain.refine and (analysis.anatomy or analysis.verify):
            raise UserError("--anatomy and --verify are about heatmaps as the method makes them: leave --refine out")
        if analysis.verify and explain.given("aug_smooth", "eigen_smooth", "scales", "fuse"):
            raise UserError(
                "--verify compares plain heatmaps: leave --aug-smooth, --eigen-smooth, --scales, --fuse out"
            )
        if explain.threshold is not None and (explain.several or (explain.style != "mask" and not analysis.masks)):
            raise UserError("--threshold is for the heatmaps of one --method, with --style mask or --masks")
        given = self.sizes.given("mm_per_pixel", "distance", "sensor_width", "width_limits")
        if given and explain.style != "mask":
            raise UserError(f"{given[0]} is for the sizes of regions: add --style mask")
        if output.all and (explain.several or analysis.given("masks", "metrics", "verify", "anatomy")):
            flags = "--masks, --metrics, --verify and --anatomy"
            raise UserError(f"--all draws image after image, by one --method: leave {flags} out")
        self._check_handover()

    def _check_handover(self) -> None:
        findings = self.output.all and self.explain.style == "mask"
        if self.output.all and self.output.report and not findings:
            raise UserError("--report with --all is about regions: add --style mask, or leave --report out")
        for flag in self.output.given("title", "verdicts") if not findings else ():
            raise UserError(f"{flag} is for the findings of --all --style mask")

    def _check_anatomy(self) -> None:
        explain = self.explain
        more = (
            explain.given("scales", "fuse")
            or self.analysis.given("masks", "metrics")
            or self.output.report
            or explain.style == "mask"
        )
        if more or explain.method not in ((BEST,), ("gradcam",)):
            flags = "--method, --masks, --metrics, --scales, --fuse, --report and --style mask"
            raise UserError(f"--anatomy shows the steps of Grad-CAM: leave {flags} out")
