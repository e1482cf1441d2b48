"""Engines that run the same network: what each gives of a prediction, a heatmap and ``--all``.

    python benchmarks/engines.py --data $CRACKCAM_DATA/concrete                 the bundled network; 7 minutes
    python benchmarks/engines.py --data $CRACKCAM_DATA/concrete --agree 1000    agreement on the test split; 8 minutes
    python benchmarks/engines.py --weights resnet18 resnet50                    random weights, random images
    python benchmarks/engines.py --images 2 --all-images 2 --rounds 1 --calibration 2    to try it

Engines take turns, so that other jobs of the machine disturb all alike, and are compared within each round; medians
over the rounds. The first columns are ratios to ``torch, eager``, the plain module: by the clock, and by processor time
over all threads, which other jobs disturb less. ``torch`` is what the scripts do without --engine, batch norm folded;
bf16 is asked for whether or not the processor has it natively, and OpenVINO computes in fp32 where it has not.
A heatmap is prediction and evidence of a batch; ``--all`` decodes files, predicts, and writes the journal. int8 is
calibrated on images of the validation split; there is no flag for it.

Needs, for the engines besides torch: pip install onnx onnxscript onnxruntime openvino nncf
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import crackcam
from crackcam.batch.streaming import Run, stream
from crackcam.batch.tasks import PredictTask
from crackcam.cli.console import keep_freed_memory
from crackcam.data import images
from crackcam.explain.heatmaps import Technique, predict_and_explain
from crackcam.models import engines, graphs
from crackcam.models.engines import EngineModel
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.runtime import ENGINES, ONNX, OPENVINO, TORCH

BATCH = 32
EAGER = "torch, eager"
MEASURES = ("prediction", "heatmap", "--all")


class Fixed(LoadedModel):
    """A network that predicts by a given model."""

    given: nn.Module

    @property
    def inference_model(self) -> nn.Module:
        return self.given


@dataclass
class Contender:
    """A network on its engine, and what was measured of it: seconds by the clock, and of the processor, by measure."""

    network: LoadedModel
    preparation: float
    wall: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in MEASURES})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in MEASURES})

    def time(self, measure: str, work: Callable[[LoadedModel], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work(self.network)
        self.wall[measure].append(time.perf_counter() - wall)
        self.cpu[measure].append(time.process_time() - cpu)


# -- the engines -------------------------------------------------------------------------------------------------------


def fixed(network: crackcam.Classifier, model: nn.Module) -> LoadedModel:
    made = Fixed(network.model, network.card, network.runtime, network.path)
    made.given = model
    return made


def by_flag(name: str) -> Callable[[crackcam.Classifier, torch.Tensor], LoadedModel]:
    def make(network: crackcam.Classifier, calibration: torch.Tensor) -> LoadedModel:
        made = LoadedModel(network.model, network.card, network.runtime, network.path)
        made.use_engine(name)
        return made

    return make


def eager(network: crackcam.Classifier, calibration: torch.Tensor) -> LoadedModel:
    return fixed(network, network.model)


def bf16(network: crackcam.Classifier, calibration: torch.Tensor) -> LoadedModel:
    return LoadedModel(network.model, network.card, replace(network.runtime, dtype=torch.bfloat16), network.path)


def openvino_bf16(network: crackcam.Classifier, calibration: torch.Tensor) -> LoadedModel:
    class Bfloat16(engines.OpenVino):
        PRECISION = "bf16"

    plain = engines.convert(network.model, network.preprocessing.size, OPENVINO)
    return fixed(network, EngineModel(plain.model, plain.graph, plain.side, plain.any_size, Bfloat16))


def compiled(network: crackcam.Classifier, calibration: torch.Tensor) -> LoadedModel:
    import torch._inductor.config as inductor

    inductor.freezing = True
    return fixed(network, torch.compile(network.model))


def onnx_int8(network: crackcam.Classifier, calibration: torch.Tensor) -> LoadedModel:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.parts: Iterator[dict[str, np.ndarray]] = (
                {graphs.INPUT: part.contiguous().numpy()} for part in calibration.split(1)
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.parts, None)

    plain = engines.convert(network.model, network.preprocessing.size, ONNX)
    with tempfile.TemporaryDirectory() as folder:
        before, after = (Path(folder) / name for name in ("fp32.onnx", "int8.onnx"))
        before.write_bytes(plain.graph)
        quantization.quantize_static(before, after, Reader(), per_channel=True)
        graph = after.read_bytes()
    return fixed(network, EngineModel(plain.model, graph, plain.side, False, engines.OnnxRuntime))


def openvino_int8(network: crackcam.Classifier, calibration: torch.Tensor) -> LoadedModel:
    import nncf
    import openvino

    plain = engines.convert(network.model, network.preprocessing.size, OPENVINO)
    parts = [part.contiguous().numpy() for part in calibration.split(1)]
    model = openvino.Core().read_model(plain.graph, b"")
    model.reshape([1, 3, plain.side, plain.side])
    quantised = nncf.quantize(model, nncf.Dataset(parts), subset_size=len(parts))

    class Quantised(engines.OpenVino):
        def model_of(self, core: Any, graph: bytes) -> Any:
            return quantised

    return fixed(network, EngineModel(plain.model, plain.graph, plain.side, False, Quantised))


CONTENDERS = {
    EAGER: eager,
    "torch": by_flag(TORCH),
    ENGINES[ONNX].title: by_flag(ONNX),
    ENGINES[OPENVINO].title: by_flag(OPENVINO),
    f"{ENGINES[OPENVINO].title}, bf16": openvino_bf16,
    f"{ENGINES[ONNX].title}, int8": onnx_int8,
    f"{ENGINES[OPENVINO].title}, int8": openvino_int8,
    "torch, bf16": bf16,
    "torch.compile, inductor, frozen": compiled,
}
DEFAULT = list(CONTENDERS)[:-2]  # compiling takes minutes, and so does bf16 where it is not native


def prepared(network: crackcam.Classifier, names: Sequence[str], calibration: torch.Tensor) -> dict[str, Contender]:
    made = {}
    for name in names:
        start = time.perf_counter()
        on_engine = CONTENDERS[name](network, network.to_inputs(calibration))
        on_engine.probabilities(calibration[:2])
        made[name] = Contender(on_engine, time.perf_counter() - start)
        print(f"{name}: ready after {made[name].preparation:.1f} s", file=sys.stderr, flush=True)
    return made


# -- measuring ---------------------------------------------------------------------------------------------------------


def files_of(folder: Path, limit: int) -> list[Path]:
    """Images of a split, evenly from its class folders."""
    files = [path for each in sorted(folder.iterdir()) for path in sorted(each.iterdir())]
    return files[:: max(1, len(files) // limit)][:limit]


def read(files: Sequence[Path], network: crackcam.Classifier) -> torch.Tensor:
    return network.to_pixels([images.read_image(path) for path in files])


def noise(count: int, network: crackcam.Classifier) -> torch.Tensor:
    size = network.preprocessing.size
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def shows_evidence(network: LoadedModel) -> bool:
    return isinstance(network.inference_model, Multiscale | EngineModel) and isinstance(network.model, Multiscale)


def run_all(files: Sequence[Path], folder: Path) -> Callable[[LoadedModel], None]:
    def work(network: LoadedModel) -> None:
        task = PredictTask(network, None, BATCH)
        run = Run(folder / "table.csv", [("", path) for path in files], BATCH, {}, task.verb)
        stream(run, task.prepare, task.work, resume=False, read=task.read)

    return work


def compare_speed(args: argparse.Namespace, network: crackcam.Classifier, contenders: dict[str, Contender]) -> None:
    files = files_of(args.data / "test", args.all_images) if args.data else []
    pixels = read(files[: args.images], network) if files else noise(args.images, network)
    explained = network.card.class_index(network.card.present[0]) if network.card.present else 0
    with tempfile.TemporaryDirectory() as folder:
        works: dict[str, Callable[[LoadedModel], object]] = {
            "prediction": lambda each: each.probabilities(pixels),
            "heatmap": lambda each: predict_and_explain(each, Technique("evidence"), pixels, explained),
            "--all": run_all(files, Path(folder)),
        }
        for number in range(args.rounds):
            for measure, work in works.items():
                for each in contenders.values():
                    if (measure != "heatmap" or shows_evidence(each.network)) and (measure != "--all" or files):
                        each.time(measure, work)
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    how = f"{network.card.arch}, {network.preprocessing.size} px, {torch.get_num_threads()} threads"
    print(f"\n{how}; {len(pixels)} images in memory, {len(files)} files; {args.rounds} rounds\n")
    print(
        "| engine | rate, of eager | by processor time | images/s | heatmap, of its prediction | "
        "--all, of the bare rate | ready after, s |\n|---|---|---|---|---|---|---|"
    )
    base = contenders[EAGER]
    for name, each in contenders.items():
        bare = each.wall["prediction"]
        heatmap = _ratio(each.wall["heatmap"], bare)
        of_bare = _ratio([seconds * len(files) / len(pixels) for seconds in bare], each.wall["--all"])
        print(
            f"| {name} | {_ratio(base.wall['prediction'], bare)} | "
            f"{_ratio(base.cpu['prediction'], each.cpu['prediction'])} | {len(pixels) / statistics.median(bare):.1f} | "
            f"{heatmap} | {of_bare} | {each.preparation:.0f} |"
        )


def _ratio(some: Sequence[float], others: Sequence[float]) -> str:
    """Median over the rounds, with the range; nothing where one was not measured."""
    if not (some and others):
        return ""
    found = [one / other for one, other in zip(some, others, strict=True)]
    return f"{statistics.median(found):.2f} [{min(found):.2f}-{max(found):.2f}]"


def compare_results(args: argparse.Namespace, network: crackcam.Classifier, contenders: dict[str, Contender]) -> None:
    """How often each engine predicts the class of the plain module, and how far results differ."""
    files = files_of(args.data / "test", args.agree) if args.data else []
    same, largest = dict.fromkeys(contenders, 0), {name: [0.0, 0.0] for name in contenders}
    parts = [files[start : start + BATCH] for start in range(0, len(files), BATCH)] if files else [None]
    for number, part in enumerate(parts):
        pixels = read(part, network) if part else noise(args.agree, network)
        expected = _results(contenders[EAGER].network, pixels)
        for name, each in contenders.items():
            found = expected if name == EAGER else _results(each.network, pixels)
            same[name] += int((found[0].argmax(1) == expected[0].argmax(1)).sum())
            for place, (one, other) in enumerate(zip(found, expected, strict=True)):
                if one is not None and other is not None:
                    largest[name][place] = max(largest[name][place], float((one - other).abs().max()))
        print(f"batch {number + 1} of {len(parts)}", file=sys.stderr, flush=True)
    count = len(files) or args.agree
    print(f"\n{network.card.arch}, {count} images, against {EAGER}\n")
    print("| engine | same class | probabilities differ by | evidence, as a probability, by |\n|---|---|---|---|")
    for name in contenders:
        of_maps = f"{largest[name][1]:.1e}" if isinstance(network.model, Multiscale) else ""
        print(f"| {name} | {same[name]} of {count} ({same[name] / count:.2%}) | {largest[name][0]:.1e} | {of_maps} |")


def _results(network: LoadedModel, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Probabilities, and the evidence of all classes as probabilities, from one forward pass."""
    if not shows_evidence(network):
        return network.probabilities(pixels), None
    evidence = torch.cat([network.evidence(part) for part in network.together(pixels)])
    assert isinstance(network.model, Multiscale)
    with torch.inference_mode():
        return network.model.pool(evidence).softmax(1), evidence.sigmoid()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["weights/crack_efficientnet_lite2.safetensors"])
    parser.add_argument("--data", type=Path, help="with val/ and test/; default: random images, and no --all")
    parser.add_argument("--images", type=int, default=16, help="in memory, in a round (default: %(default)s)")
    parser.add_argument("--all-images", type=int, default=64, help="files of --all (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calibration", type=int, default=64, help="images for int8 (default: %(default)s)")
    parser.add_argument("--agree", type=int, help="compare the results for that many test images, not the speed")
    parser.add_argument("--engines", nargs="+", choices=CONTENDERS, default=DEFAULT, metavar="NAME")
    args = parser.parse_args(argv)
    keep_freed_memory()  # as the scripts do
    names = list(dict.fromkeys([EAGER, *args.engines]))
    for source in args.weights:
        is_file = Path(source).suffix == ".safetensors"
        network = crackcam.load(source, pretrained="auto" if is_file else "none", device="cpu")
        files = files_of(args.data / "val", args.calibration) if args.data else []
        calibration = read(files, network) if files else noise(args.calibration, network)
        contenders = prepared(network, names, calibration)
        (compare_results if args.agree else compare_speed)(args, network, contenders)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
