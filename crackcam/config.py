"""All settings of crackcam: the one list of names, defaults, limits, help texts and conflicts.

Each class is a group of settings that belong together. The command line of a script is built from the groups in
:mod:`crackcam.cli.commands`; :mod:`crackcam.settings` describes how.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from crackcam.errors import UserError
from crackcam.limits import (
    DISTANCE,
    FRACTION,
    HELD_OUT_FRACTION,
    IMAGE_SIZE,
    LIMITS,
    METHODS,
    NOT_NEGATIVE,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    SCALE_MM,
    SCALES,
    SEED,
    SENSOR,
    WHOLE_NUMBER,
    WORKERS,
)
from crackcam.methods import BEST, NAMED, REFINEMENTS, STYLES
from crackcam.settings import (
    HTML_PATH,
    NAMES,
    PATH,
    PATHS,
    PATTERN,
    SWITCH,
    TEXT,
    Settings,
    choice,
    number,
    setting,
)

DATA, WEIGHTS, OUTPUTS = Path("data"), Path("weights/model.safetensors"), Path("outputs")
REPORT = OUTPUTS / "report.html"


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig(Settings):
    """Where and how a model computes."""

    device: str = setting(
        "auto", TEXT, "auto: cuda, then mps, then cpu", metavar="auto|cpu|cuda|mps", affects_result=False
    )
    precision: str = setting(
        "auto", choice("auto", "fp32", "bf16"), "auto: bf16 where the processor has it natively (default: auto)"
    )
    batch_size: int = setting(32, POSITIVE_INT, "default: 32", metavar="N")
    offline: bool = setting(False, SWITCH, "use cached weights only: download nothing", affects_result=False)

    @property
    def may_download(self) -> bool:
        """Whether weights may be downloaded: not with ``offline``, nor with HF_HUB_OFFLINE, Hugging Face's variable."""
        return not (self.offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"})

    @property
    def engine(self) -> str:
        """What computes: training can only in torch."""
        return "torch"


@dataclass(frozen=True, kw_only=True)
class ExactRuntimeConfig(RuntimeConfig):
    """As :class:`RuntimeConfig`; exact by default: an image has one probability, and heatmaps are compared by value."""

    precision: str = setting(
        "fp32", choice("auto", "fp32", "bf16"), "auto: bf16 where the processor has it natively (default: fp32)"
    )
    engine: str = setting(
        "torch",
        choice("auto", "torch", "onnx", "openvino"),
        "of predictions and evidence on CPUs; other methods stay in torch. onnx, openvino: faster after some seconds "
        "for the export, equal but for rounding; auto: onnx, else openvino, where installed (default: torch)",
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Which model to load."""

    weights: Path | None = setting(
        None, PATH, f"checkpoint (default: {WEIGHTS}, else the bundled crack network)", metavar="FILE"
    )
    arch: str | None = setting(
        None, TEXT, "the ImageNet network or detector of that name; with --weights FILE.pth, its architecture"
    )
    pretrained: str = setting("auto", choice("auto", "none"), "none: --arch with random weights")
    classes: tuple[str, ...] | None = setting(None, NAMES, "class names in index order, for a .pth", metavar="A,B")


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(Settings):
    """Which images to look at."""

    type: str | None = setting(None, TEXT, "class folder (default: Positive, else the first)", metavar="CLASS")
    data: Path = setting(DATA, PATH, "class folders (default: data)", metavar="DIR")
    split: str | None = setting(None, choice("train", "val", "test"), "default: test, else val")
    image: tuple[Path, ...] | None = setting(None, PATHS, "these images, folders, globs instead", metavar="PATH")
    num: int = setting(9, POSITIVE_INT, "images to draw (default: 9)", metavar="N")
    seed: int = setting(0, SEED, "chooses the images (default: 0)")
    resize: bool = setting(
        False,
        SWITCH,
        "resize large images as a whole; default: a network whose map is local reads those of more than twice its size "
        "in tiles",
    )

    def check(self) -> None:
        if self.image and (self.type is not None or self.split is not None):
            raise UserError("--image names images itself: leave --type and --split out")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Settings):
    """What is reported of a prediction."""

    top_k: int | None = setting(None, POSITIVE_INT, "classes shown (default: 3; of 1,000, 5)", metavar="K")
    score_threshold: float = setting(0.5, FRACTION, "lowest score of a detector's boxes (default: 0.5)", metavar="S")


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Settings):
    """How heatmaps are made, and how they are shown.

    Examples:
        >>> import crackcam
        >>> crackcam.ExplainConfig(method="gradcam,layercam", scales="1,2").method
        ('gradcam', 'layercam')
    """

    method: tuple[str, ...] = setting(
        (BEST,),
        METHODS,
        "best (default): evidence where the network has it, else layercam on a dilated model; all: each that costs at "
        f"most ten forward passes; or of these: {', '.join(NAMED)}",
        metavar="best|NAME[,NAME]|all",
    )
    target: str | None = setting(
        None,
        TEXT,
        "class, or its index, to explain (default: --type; of --image, predicted)",
        metavar="predicted|CLASS",
    )
    layer: tuple[str, ...] | None = setting(
        None, NAMES, "target layers (default: the last grid before the head)", metavar="NAME[,NAME]"
    )
    stride: int | None = setting(None, choice(4, 8, 16), "output stride of the heatmap in pixels, by dilation")
    scales: tuple[float | str, ...] = setting(
        (1.0,),
        SCALES,
        "mean over images in X times the network's size; own: at native resolution, in tiles (default: 1)",
        metavar="X[,X]",
    )
    fuse: str | None = setting(
        None, choice("mean", "product"), "of heatmaps of several layers: --layer, else one a grid size, of three"
    )
    aug_smooth: bool = setting(False, SWITCH, "average over mirrored and scaled variants: 7 times the work")
    eigen_smooth: bool = setting(False, SWITCH, "first principal component instead of the sum of channels")
    style: str = setting(
        "overlay", choice(*STYLES), "default: overlay; mask: regions above the threshold, and their sizes"
    )
    threshold: float | None = setting(
        None, NOT_NEGATIVE, "detection threshold (default: the checkpoint's)", metavar="X"
    )
    refine: str | None = setting(None, choice(*REFINEMENTS), "lines: heatmaps follow thin lines")
    colormap: str | None = setting(
        None, TEXT, "of matplotlib (default: inferno; with --style edges coolwarm)", metavar="NAME"
    )

    @property
    def single_scale(self) -> bool:
        """Whether images are seen at the network's own size alone."""
        return self.scales == (1.0,)

    @property
    def as_calibrated(self) -> bool:
        """Whether heatmaps have the unit that a checkpoint's thresholds were calibrated in."""
        return not (self.layer or self.stride or self.fuse or self.aug_smooth or self.eigen_smooth)

    @property
    def smoothing(self) -> dict[str, bool]:
        """The arguments of that name of :class:`pytorch_grad_cam.BaseCAM`."""
        return {"aug_smooth": self.aug_smooth, "eigen_smooth": self.eigen_smooth}

    @property
    def several(self) -> bool:
        """Whether several methods are compared."""
        return len(self.method) > 1


@dataclass(frozen=True, kw_only=True)
class SizesConfig(Settings):
    """How the sizes of cracks become millimetres, and how they are sorted; with ``--style mask``."""

    mm_per_pixel: float | None = setting(
        None, SCALE_MM, "millimetres of a pixel on the surface: sizes in mm too", metavar="X"
    )
    distance: float | None = setting(
        None,
        DISTANCE,
        "metres from camera to surface: with --sensor-width and the focal length from EXIF, sizes in mm too",
        metavar="M",
    )
    sensor_width: float | None = setting(
        None, SENSOR, "millimetres of the camera's sensor, along its longer side", metavar="MM"
    )
    width_limits: tuple[float, ...] | None = setting(
        None,
        LIMITS,
        "millimetres, ascending: sort cracks into classes by width (95th percentile along the crack)",
        metavar="MM[,MM]",
    )

    def check(self) -> None:
        if self.mm_per_pixel is not None and self.given("distance", "sensor_width"):
            raise UserError("--mm-per-pixel is the scale: leave --distance and --sensor-width out")
        if (self.distance is None) != (self.sensor_width is None):
            raise UserError("a scale needs --distance and --sensor-width, and the focal length from EXIF")

    @property
    def lacks_scale(self) -> bool:
        """Whether there are limits in millimetres and no scale; orthomosaics bring their own."""
        return bool(self.width_limits) and self.mm_per_pixel is None and self.distance is None

    @property
    def limits(self) -> tuple[float, ...]:
        """Limits of the width classes in mm; empty where there are none."""
        return self.width_limits or ()


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig(Settings):
    """What else is done with heatmaps than drawing them."""

    list_layers: bool = setting(False, SWITCH, "print the layers that --layer takes, with their types and shapes")
    anatomy: bool = setting(False, SWITCH, "one figure of the steps of Grad-CAM on one image")
    verify: bool = setting(False, SWITCH, "compare with the heatmaps of the installed package grad-cam")
    masks: Path | None = setting(
        None, PATH, "score the heatmaps against masks that are named like the images", metavar="DIR"
    )
    metrics: bool = setting(False, SWITCH, "score the heatmaps against the model itself: no masks needed")
    save_maps: Path | None = setting(None, PATH, "also write each heatmap as a .npy file", metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Settings):
    """What is written where."""

    all: bool = setting(False, SWITCH, "every image (of --type, else of all classes): a table of predictions")
    resume: bool = setting(False, SWITCH, "with --all, or of an orthomosaic: continue an interrupted run")
    output: Path | None = setting(
        None, PATH, "the .png; with --all the .csv or .jsonl (default: in outputs/)", metavar="FILE"
    )
    report: Path | None = setting(
        None, HTML_PATH, f"also a self-contained HTML report (default: {REPORT})", metavar="FILE", implied=REPORT
    )
    json: bool = setting(False, SWITCH, "print the result as JSON")

    def check(self) -> None:
        suffixes = (".csv", ".jsonl") if self.all else (".png",)
        if self.output and self.output.suffix.lower() not in suffixes:
            raise UserError(f"--output {self.output} must end in {' or '.join(suffixes)}")


@dataclass(frozen=True, kw_only=True)
class ExplainOutputConfig(OutputConfig):
    """As :class:`OutputConfig`, of ``xai.py``."""

    all: bool = setting(
        False,
        SWITCH,
        "every image (of --type, else of all classes): overlays in folders of 1,000, and a table of them",
    )
    title: str | None = setting(None, TEXT, "with --all --style mask: what was inspected, for the report")
    verdicts: Path | None = setting(
        None, PATH, "with --all --style mask: leave out the regions that this CSV of a report rejects", metavar="FILE"
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RuntimeConfig):
    """Everything that training is asked for.

    Examples:
        >>> from crackcam import TrainConfig
        >>> TrainConfig(data="photos", arch="resnet50", epochs=3).lr is None
        True
    """

    data: Path = setting(DATA, PATH, "class folders (default: data)", metavar="DIR", affects_result=False)
    sample: bool = setting(
        False, SWITCH, "generate synthetic images into --data where it has none", affects_result=False
    )
    val_fraction: float = setting(
        0.15,
        HELD_OUT_FRACTION,
        "fraction held out for validation where there is no val folder (default: 0.15)",
        metavar="F",
    )
    group_by: str | None = setting(
        None,
        PATTERN,
        "files whose names match alike, or its first (group), are held out together (default: neighbours)",
        metavar="REGEX",
    )
    arch: str = setting("resnet18", TEXT, "of torchvision, or timm/NAME (default: resnet18)")
    pretrained: str = setting(
        "auto",
        TEXT,
        "auto: ImageNet weights where available, else random initialisation; PATH: a checkpoint or .pth",
        metavar="auto|imagenet|none|PATH",
    )
    image_size: int | None = setting(
        None, IMAGE_SIZE, "default: that of the architecture's ImageNet weights", metavar="PX"
    )
    head: str = setting(
        "linear",
        choice("linear", "multiscale"),
        "multiscale: the logit is the sum of a map, which xai.py shows (default: linear)",
    )
    half: bool = setting(False, SWITCH, "write weights in half precision: half the size")
    export: str | None = setting(
        None, choice("onnx"), "also as weights/model.onnx, for other runtimes", affects_result=False
    )
    epochs: int | None = setting(
        None, WHOLE_NUMBER, "after the linear probe (default: 2; from random weights 3 to 30)", metavar="N"
    )
    lr: float | None = setting(None, POSITIVE_FLOAT, "peak learning rate (default: 1e-4; from random weights 1e-3)")
    patience: int = setting(0, WHOLE_NUMBER, "stop after N epochs without improvement (0: never)", metavar="N")
    mix_sample: float | None = setting(
        None,
        FRACTION,
        "fraction of synthetic cracks in each epoch (default: 0.5 with --head multiscale, Negative and Positive)",
        metavar="FRACTION",
    )
    mask_weight: float = setting(
        8.0,
        number(float, 0, 1e6, "a number from 0 up"),
        "loss weight of the masks of synthetic cracks, with --head multiscale (default: 8; 0: labels alone)",
        metavar="W",
    )
    verdicts: Path | None = setting(
        None,
        PATH,
        "also learn from the regions that this CSV of a report accepts and rejects",
        metavar="FILE",
        affects_result=False,
    )
    verdict_images: Path | None = setting(
        None, PATH, "the images that --verdicts is about", metavar="DIR", affects_result=False
    )
    seed: int = setting(0, SEED, "default: 0")
    resume: bool = setting(False, SWITCH, "continue an interrupted run", affects_result=False)
    workers: int = setting(
        min(4, (os.cpu_count() or 1) // 2),
        WORKERS,
        "processes that augment (default: half the processors, at most 4)",
        metavar="N",
        affects_result=False,
    )
    output: Path = setting(WEIGHTS, PATH, f"default: {WEIGHTS}", metavar="FILE", affects_result=False)
    report: Path | None = setting(
        None,
        HTML_PATH,
        f"also a self-contained HTML report (default: {REPORT})",
        metavar="FILE",
        implied=REPORT,
        affects_result=False,
    )
    json: bool = setting(False, SWITCH, "print the result as JSON", affects_result=False)
    command: str = ""

    def check(self) -> None:
        if self.output.suffix != ".safetensors":
            raise UserError(f"--output {self.output} must end in .safetensors")
        if (self.verdicts is None) != (self.verdict_images is None):
            raise UserError(
                "--verdicts and --verdict-images belong together: the verdicts, and the images they are about"
            )

    @property
    def multiscale(self) -> bool:
        """Whether the head is one that sums maps of several stages."""
        return self.head == "multiscale"
