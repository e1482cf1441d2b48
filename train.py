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
Ctrl-C keeps the best epoch so far; --resume continues after a kill. torchrun starts one process for each GPU:
docs/how-to/train-on-several-gpus.md.
"""

from functools import partial

from crackcam.cli.commands import TRAIN

build_parser = partial(TRAIN.parser, __doc__)
main = TRAIN.main(__doc__)

if __name__ == "__main__":
    raise SystemExit(main())
