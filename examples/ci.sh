#!/usr/bin/env bash
# crackcam as a gate in a CI job: train, predict and explain; fail if the network is not accurate enough to ship.
#
#     examples/ci.sh                             in a fresh clone, after pip install -r requirements.txt
#     THRESHOLD=0.95 examples/ci.sh              minimum accuracy on the test images (default: 0.8)
#     TRAIN_FLAGS="--data photos" examples/ci.sh train on images of your own; --data is passed on to all three scripts
#
# Runs in the current folder. Exit 0: accurate enough; 1: not accurate enough; 2: usage or input error, see stderr.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
threshold=${THRESHOLD:-0.8}
read -r -a train_flags <<<"${TRAIN_FLAGS:---sample}"

data=()
for i in "${!train_flags[@]}"; do
    case ${train_flags[i]} in
    --data) data=(--data "${train_flags[i + 1]:-}") ;;
    --data=*) data=("${train_flags[i]}") ;;
    esac
done

# Messages and progress go to stderr and so into the job's log; stdout is the JSON alone.
"$python" "$root/train.py" "${train_flags[@]}" --json >training.json
"$python" "$root/inference.py" ${data[@]+"${data[@]}"} --all --json >predictions.json
"$python" "$root/xai.py" ${data[@]+"${data[@]}"} --json >explanations.json

"$python" - "$threshold" <<'PYTHON'
import json, sys

threshold = float(sys.argv[1])
training, predictions, explanations = (
    json.load(open(f"{name}.json")) for name in ("training", "predictions", "explanations")
)
print(f"accuracy {predictions['accuracy']:.4f} on {predictions['pictures']} images, required: {threshold}")
for name, row in training[training["split"]]["per_class"].items():
    print(f"  {name}: precision {row['precision']:.4f}, recall {row['recall']:.4f}")
empty = [row["file"] for row in explanations["pictures"] if not any(entry["max"] for entry in row["maps"].values())]
print(f"heatmaps: {explanations['picture']}" + (f"; no evidence in {', '.join(empty)}" if empty else ""))
sys.exit(predictions["accuracy"] < threshold or predictions["unreadable"] > 0)
PYTHON
