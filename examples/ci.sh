#!/usr/bin/env bash
# crackcam as a gate in a CI job: train, predict and explain; fail where the network is too bad to ship.
#
#     examples/ci.sh                             in a fresh clone, after pip install -r requirements.txt
#     THRESHOLD=0.95 examples/ci.sh              demand more (default: 0.8 of the test pictures right)
#     TRAIN_FLAGS="--data photos" examples/ci.sh train on something else than generated pictures
#
# Works in the current folder. Exit 0: good enough; 1: too bad; 2: something to mend, one line on stderr says what.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
threshold=${THRESHOLD:-0.8}
read -r -a train_flags <<<"${TRAIN_FLAGS:---sample}"

# Notes and progress go to stderr and into the job's log; stdout is the JSON alone.
"$python" "$root/train.py" "${train_flags[@]}" --json >training.json
"$python" "$root/inference.py" --all --json >predictions.json
"$python" "$root/xai.py" --json >explanations.json

"$python" - "$threshold" <<'PYTHON'
import json, sys

threshold = float(sys.argv[1])
training, predictions, explanations = (
    json.load(open(f"{name}.json")) for name in ("training", "predictions", "explanations")
)
print(f"accuracy {predictions['accuracy']:.4f} on {predictions['pictures']} pictures, {threshold} wanted")
for name, row in training[training["split"]]["per_class"].items():
    print(f"  {name}: precision {row['precision']:.4f}, recall {row['recall']:.4f}")
empty = [row["file"] for row in explanations["pictures"] if not any(heat["max"] for heat in row["maps"].values())]
print(f"heat maps: {explanations['picture']}" + (f"; nothing found in {', '.join(empty)}" if empty else ""))
sys.exit(predictions["accuracy"] < threshold or predictions["unreadable"] > 0)
PYTHON
