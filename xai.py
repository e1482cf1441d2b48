"""Show where in an image the decision came from: heatmaps of images of a class folder, or of any images.

    python xai.py                                          nine images of the default class, the best method
    python xai.py --type Negative --method eigencam        the tutorials' call
    python xai.py --image bridge.jpg --target Positive     evidence for Positive in an image of your own
    python xai.py --image shark.jpg --arch vgg16           an ImageNet model, without any training
    python xai.py --method gradcam,layercam,eigencam       several methods, side by side; all: every quick one
    python xai.py --image street.jpg --arch fasterrcnn_resnet50_fpn --method eigencam --score-threshold 0.9
                                                           the boxes of a detector, and the evidence for them
    python xai.py --method layercam --verify               the same heatmaps by the package grad-cam: differences, times
    python xai.py --type Positive --masks data/masks --num 60 --method all      how well each method finds the cracks
    python xai.py --image bridge.jpg --stride 8 --scales 1,own          sharper heatmaps, of a large photograph
    python xai.py --type Positive --metrics                how faithful each heatmap is to the model
    python xai.py --type Positive --style mask             regions: fraction of the image, length, width in pixels
    python xai.py --image crack.jpg --anatomy              the steps of Grad-CAM on that image
    python xai.py --image flight/ --all                    a heatmap of every image of a folder tree; see inference.py
    python xai.py --num 200 --report                       also a self-contained HTML report
    python xai.py --list-layers                            the layers that --layer takes: --layer layer3

The images are those that inference.py draws for the same flags. Writes outputs/xai_<type>_<method>.png with a .json
beside it; several methods share outputs/xai_<type>_compared.png, a row for each image. --save-maps DIR also writes each
heatmap as <stem>.npy (several methods: <stem>_<method>.npy): float32 (H, W) at the image's own size, >= 0, in the
method's own unit, so that images can be compared. --masks DIR (<stem>.png, white on what is to be detected) scores the
heatmaps, beside model-free baselines: a table, outputs/xai_<type>_scores.csv, and a figure of the first nine images;
--metrics scores them against the model: a table, and ..._metrics.csv. --style mask outlines the regions above the
checkpoint's threshold, and writes fraction, length and width into the .json and ..._found.csv. --all writes overlays
and saved heatmaps in folders of 1,000 images, outputs/xai_<type>_<method>/00000/, and a table of them beside.
"""

from functools import partial

from crackcam.cli.commands import EXPLAIN

build_parser = partial(EXPLAIN.parser, __doc__)
main = EXPLAIN.main(__doc__)

if __name__ == "__main__":
    raise SystemExit(main())
