"""Train an image classifier by transfer learning on folders of images.

    python train.py                                        data/ -> weights/model.safetensors
    python train.py --sample                               generate data/ first: concrete with and without cracks
    python train.py --data photos --arch resnet50          any class folders, any torchvision classifier
    python train.py --epochs 0                             the linear probe alone: seconds instead of minutes

--data contains train/<class>/, and val/ and test/ likewise where you have them; or plain <class>/ folders, which are
split here. From ImageNet weights, a linear probe on features computed once comes first, then a short fine-tuning from
it; without a network connection, training falls back to random initialisation, takes longer, and warns. The best epoch
is chosen on the validation split; the test split is scored once, at the end.

Writes weights/model.safetensors (model, classes, preprocessing, split, metrics) and, into outputs/, training.csv,
training_curves.png, confusion_matrix.png and reliability.png. Probabilities are calibrated on the validation split.
Ctrl-C keeps the best epoch so far; --resume continues after a kill. torchrun starts one process per GPU:
docs/scaling.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from crackcam.cli import arguments, console
from crackcam.cli import train as command


def build_parser() -> arguments.Parser:
    return command.build_parser(__doc__)


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    return command.run(build_parser().parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
