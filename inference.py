"""Predict images of a class folder, or any images, and draw them with their probabilities.

    python inference.py                                    nine images of the default class
    python inference.py --type Negative --seed 7           nine others
    python inference.py --image bridge.jpg photos/         images of your own
    python inference.py --all                              every image of the test split, as a table
    python inference.py --image flight/ --all --resume     of a folder tree; continues an interrupted run
    torchrun --nproc_per_node=4 inference.py --image flight/ --all       split among four processes, a GPU each
    python inference.py --image street.jpg --arch fasterrcnn_resnet50_fpn --score-threshold 0.9     boxes of a detector

Everything about the model comes from the checkpoint that train.py wrote. Writes outputs/inference_<type>.png with a
.json beside it; with --all, outputs/predictions_<type>.csv: file, true, predicted, one probability a class, and the
reason why a file cannot be read; or the same as .jsonl, where --output ends so. The boxes of a detector are also
written to outputs/inference_images_coco.json, in COCO's format of results.
"""

from functools import partial

from crackcam.cli.commands import PREDICT

build_parser = partial(PREDICT.parser, __doc__)
main = PREDICT.main(__doc__)

if __name__ == "__main__":
    raise SystemExit(main())
