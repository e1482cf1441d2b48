"""Engines that run the same network: torch, torch with batch norm folded, torch.compile, ONNX Runtime, OpenVINO, int8.

    python benchmarks/engines.py --data $CRACKCAM_DATA/concrete                 the bundled network; 20 minutes
    python benchmarks/engines.py --weights resnet18 resnet50 --rounds 3         random weights, random images
    python benchmarks/engines.py --images 2 --rounds 1 --agree 4                to try it

Each engine computes the same batch in memory, as many images at a time as it likes best; they take turns, so that other
jobs of the machine disturb all alike. Ratios are medians over the rounds of the time of eager torch over that of the
engine in the same round: of the wall clock, and of processor time over all threads, which other jobs disturb less. The
int8 networks are calibrated on images of the validation split, and agreement is measured on those of the test split.

Needs, for the engines besides torch: pip install onnx onnxscript onnxruntime openvino nncf
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import crackcam
from crackcam.data import images
from crackcam.models import onnx
from crackcam.models.inference import folded

Function = Callable[[torch.Tensor], torch.Tensor]  # normalised (N, 3, H, W) -> logits
EAGER = "torch, eager"


@dataclass
class Engine:
    """One engine and what was measured of it."""

    run: Function
    together: int  # images
    preparation: float  # seconds
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([self.run(part).clone() for part in inputs.split(self.together)])


# -- the engines -------------------------------------------------------------------------------------------------------


def eager(network: crackcam.Classifier, calibration: torch.Tensor, file: Path) -> Function:
    return network.model


def without_batch_norm(network: crackcam.Classifier, calibration: torch.Tensor, file: Path) -> Function:
    return folded(network.model, network.preprocessing.size) or network.model


def compiled(network: crackcam.Classifier, calibration: torch.Tensor, file: Path) -> Function:
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(network.model)


def onnxruntime(network: crackcam.Classifier, calibration: torch.Tensor, file: Path) -> Function:
    return onnx.OnnxModel(file, torch.device("cpu"))


def onnxruntime_int8(network: crackcam.Classifier, calibration: torch.Tensor, file: Path) -> Function:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.parts: Iterator[dict[str, np.ndarray]] = (
                {onnx.INPUT: part.contiguous().numpy()} for part in calibration.split(1)
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.parts, None)

    made = file.with_name(f"{file.stem}_int8.onnx")
    quantization.quantize_static(file, made, Reader(), per_channel=True)
    return onnx.OnnxModel(made, torch.device("cpu"))


def openvino(network: crackcam.Classifier, calibration: torch.Tensor, file: Path) -> Function:
    import openvino as ov

    return _on_openvino(ov.Core().read_model(file))


def openvino_int8(network: crackcam.Classifier, calibration: torch.Tensor, file: Path) -> Function:
    import nncf
    import openvino as ov

    parts = [part.contiguous().numpy() for part in calibration.split(1)]
    return _on_openvino(nncf.quantize(ov.Core().read_model(file), nncf.Dataset(parts), subset_size=len(parts)))


def _on_openvino(model: Any) -> Function:
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    ready = ov.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", **settings})
    return lambda inputs: torch.from_numpy(ready(inputs.contiguous().numpy())[0])


ENGINES = {
    EAGER: eager,
    "torch, batch norm folded": without_batch_norm,
    "torch.compile, inductor, frozen": compiled,
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
    "ONNX Runtime, int8": onnxruntime_int8,
    "OpenVINO, int8": openvino_int8,
}


# -- measuring ---------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor over all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def prepared(network: crackcam.Classifier, names: Sequence[str], inputs: torch.Tensor, file: Path) -> dict[str, Engine]:
    """The engines, each with the number of images at a time at which it is fastest of three."""
    made = {}
    for name in names:
        start = time.perf_counter()
        run = ENGINES[name](network, inputs, file)
        engine = Engine(run, 1, 0.0)
        engine.logits(inputs[:1])
        engine.preparation = time.perf_counter() - start
        costs = {}
        for count in (1, 2, 8):
            if count <= len(inputs):
                engine.together = count
                engine.logits(inputs[:count])
                costs[count] = min(timed(lambda e=engine: e.logits(inputs[:8]))[1] for _ in range(2))
        engine.together = min(costs, key=costs.__getitem__)
        print(f"{name}: ready after {engine.preparation:.1f} s", file=sys.stderr, flush=True)
        made[name] = engine
    return made


def read(folder: Path, network: crackcam.Classifier, limit: int) -> torch.Tensor:
    """Network inputs of images of a split, evenly from its class folders."""
    files = [path for each in sorted(folder.iterdir()) for path in sorted(each.iterdir())]
    step = max(1, len(files) // limit)
    return network.to_pixels([images.read_image(path) for path in files[::step][:limit]])


def measure(args: argparse.Namespace, source: str, folder: Path) -> None:
    is_file = Path(source).suffix == ".safetensors"
    network = crackcam.load(source, pretrained="auto" if is_file else "none")
    size = network.preprocessing.size
    noise = torch.randint(0, 256, (max(8, args.images), 3, size, size), dtype=torch.uint8)
    calibration = read(args.data / "val", network, args.calibration) if args.data else noise
    file = folder / "network.onnx"
    network.export(file)
    engines = prepared(network, args.engines, network.to_inputs(calibration), file)
    inputs = network.to_inputs(calibration[: args.images])
    for _ in range(args.rounds):
        for engine in engines.values():
            wall, cpu = timed(lambda e=engine: e.logits(inputs))
            engine.wall.append(wall)
            engine.cpu.append(cpu)
    test = read(args.data / "test", network, args.agree) if args.data else noise
    expected = network.all_probabilities(test, 32)
    print(
        f"\n{network.card.arch}, {size} px, {len(inputs)} images, {torch.get_num_threads()} threads, n = {len(test)}\n"
    )
    print(
        "| engine | rate, of eager | by processor time | images/s | at a time | ready after, s | same class | max dp |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, engine in engines.items():
        found = torch.cat([engine.logits(network.to_inputs(part)).softmax(1) for part in test.split(32)]).numpy()
        ratios = [
            statistics.median(base / own for base, own in zip(of_eager, own_times, strict=True))
            for of_eager, own_times in ((engines[EAGER].wall, engine.wall), (engines[EAGER].cpu, engine.cpu))
        ]
        same = float((found.argmax(1) == expected.argmax(1)).mean())
        print(
            f"| {name} | {ratios[0]:.2f} | {ratios[1]:.2f} | {len(inputs) / statistics.median(engine.wall):.1f} | "
            f"{engine.together} | {engine.preparation:.0f} | {100 * same:.2f} % | {abs(found - expected).max():.1e} |",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["weights/crack_efficientnet_lite2.safetensors"])
    parser.add_argument("--data", type=Path, help="with val/ and test/; default: random images")
    parser.add_argument("--images", type=int, default=16, help="in a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calibration", type=int, default=200, help="images for int8 (default: %(default)s)")
    parser.add_argument("--agree", type=int, default=1000, help="test images at most (default: %(default)s)")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="NAME")
    args = parser.parse_args(argv)
    if EAGER not in args.engines:
        args.engines.insert(0, EAGER)
    for source in args.weights:
        with tempfile.TemporaryDirectory() as folder:
            measure(args, source, Path(folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
