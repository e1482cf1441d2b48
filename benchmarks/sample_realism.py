"""How realistic is the generated sample? Train on it alone, then test on held-out photographs.

    CRACKCAM_DATA=folder python benchmarks/sample_realism.py
    CRACKCAM_DATA=folder python benchmarks/sample_realism.py --arch squeezenet1_0 --epochs 0

CRACKCAM_DATA holds concrete/test/{Positive,Negative}; further flags are those of train.py. Prints the accuracy
on generated test images and on photographs.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import inference
import train


def result_of(main, flags):
    """The JSON result that a script prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*flags, "--json"])
    if code:
        sys.exit(code)
    return json.loads(out.getvalue())


def main(flags):
    real = Path(os.environ["CRACKCAM_DATA"]).resolve() / "concrete"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        trained = result_of(train.main, ["--sample", *flags])
        scored = result_of(inference.main, ["--data", str(real), "--split", "test", "--all"])
        os.chdir("/")
    print(f"network: {trained['pretrained']}")
    print(f"generated test images: {trained['test']['accuracy']:.4f}")
    print(f"real photographs ({scored['pictures']}): {scored['accuracy']:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
