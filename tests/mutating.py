"""A seeded mutator of checkpoints: what an attacker, a broken disk or a failed download makes of them."""

import json
import random
import struct

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
NASTY = [
    None, True, False, 0, -1, 1, 3, 10**9, 2**63, -(2**63), 0.0, -0.5, 1e308, float("nan"), float("inf"), "", "a", ESCAPE,
    "../../../etc/passwd", "/etc/passwd", "a\nb", "\u202egpj.exe", "\0", [], [None], [[]], [0, 0, 0], [-1], [10**12], {}, {"": 0},
    {"features.0": 64}, {"..": ["../../x"]}, {"test": ["../../../../etc/passwd"]}, "multiscale", "fasterrcnn_resnet50_fpn",
    "timm/hf_hub:timm/resnet18", "timm/local-dir:/", "timm/resnet18.nonsense", "vit_h_14", "regnet_y_400mf", "bicubic",
    ["a", "a"], ["a", "b", ESCAPE], ["../x", "b"], [str(i) for i in range(5000)], "F64", "I8", "BOOL", "F8_E4M3", "C64",
]  # fmt: skip


def split_file(content):
    """Header and tensors of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join_file(header, tensors):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def with_card(content, **changes):
    """The checkpoint with other fields in its model card."""
    header, tensors = split_file(content)
    card = json.loads(header["__metadata__"]["crackcam"])
    header["__metadata__"]["crackcam"] = json.dumps({**card, **changes})
    return join_file(header, tensors)


def mutated(content, rng: random.Random):
    """A checkpoint after one of six kinds of mutation."""
    kind = rng.randrange(6)
    if kind == 0:  # bits, in the header mostly
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 3, 20])):
            changed[rng.randrange(rng.choice([9, 2000, len(changed)]))] = rng.randrange(256)
        return bytes(changed)
    if kind == 1:  # truncated, or with trailing bytes
        return rng.choice([content[: rng.randrange(len(content))], content + rng.randbytes(rng.choice([1, 8, 4096]))])
    header, tensors = split_file(content)
    if kind in (2, 3):
        card = json.loads(header["__metadata__"]["crackcam"])
        for field in rng.sample(sorted(card), rng.choice([1, 1, 2])):
            if rng.random() < 0.2:
                del card[field]
            else:
                card[field] = rng.choice(NASTY)
        return join_file({**header, "__metadata__": {"crackcam": json.dumps(card)}}, tensors)
    name = rng.choice([name for name in header if name != "__metadata__"])
    if kind == 4:  # a false header entry of a tensor
        what = rng.choice(["dtype", "shape", "data_offsets", "name"])
        if what == "name":
            header[rng.choice([ESCAPE, "", "..", name + "x"])] = header.pop(name)
        elif what == "dtype":
            header[name]["dtype"] = rng.choice(["F64", "F16", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X"])
        else:
            numbers = header[name][what]
            numbers[rng.randrange(len(numbers))] = rng.choice([0, 1, -1, 2**31, 2**60, 2**64, 10**30, 0.5, None])
        return join_file(header, tensors)
    begin, end = header[name]["data_offsets"]  # NaN, infinite or extreme weights
    at = rng.randrange(begin, end - 3) // 4 * 4
    bad = struct.pack("<f", rng.choice([float("nan"), float("inf"), 3e38, -3e38, 1e-45]))
    return join_file(header, tensors[:at] + bad + tensors[at + 4 :])
