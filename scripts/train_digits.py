"""Where does the model that ships come from?

Trains a CNN of 25,730 parameters on scikit-learn's `load_digits` (1,797 real handwritten digits,
8 x 8, from UCI's "Optical Recognition of Handwritten Digits") in ten seconds, and converts it
with `vision.convert` to FP32, FP16 and INT8:

    python -m scripts.train_digits [--models DIR] [--held-out FILE.npz]

An image of the data set counts ink from 0 to 16. As a PNG it is 8-bit grey, white ink on black:
`round(ink * 255 / 16)`. The model takes these values divided by 255, which is what the service's
preprocessing makes of such a PNG, and was trained on exactly these.

450 digits, drawn with a fixed seed, are held out: neither trained on nor used to calibrate, and
written to a file for the tests. (Augmentation and weight decay were chosen among four settings,
all within a digit of each other there.) Needs torch, onnxscript and scikit-learn; equal libraries
on equal processors give equal files.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from vision.config import Batching, Classification, ModelConfig, Preprocessing, Resize, Tensor
from vision.convert.options import Options, PlanOptions, Precision
from vision.convert.output import to_yaml
from vision.convert.pipeline import convert
from vision.convert.progress import Silent

ROOT = Path(__file__).parents[1]
SEED = 0
HELD_OUT = 450
EPOCHS = 60
BATCH = 32
PEAK_LEARNING_RATE = 4e-3
FOLDERS = {
    Precision.FP32: "digits",
    Precision.FP16: "digits-fp16",
    Precision.INT8: "digits-int8",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT / "vision/models")
    parser.add_argument("--held-out", type=Path, default=ROOT / "tests/data/digits-held-out.npz")
    args = parser.parse_args()
    models, held_out = args.models.resolve(), args.held_out.resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, (pixels, labels) in zip(("training", "held-out"), split(), strict=True):
            # The names stand in the report.
            np.savez_compressed(f"digits-{name}.npz", images=pixels, labels=labels)
        for precision, name in FOLDERS.items():
            Path("config.yaml").write_text(to_yaml(config(precision)), encoding="utf-8")
            Path("labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
            done = convert(options(precision, models / name), Silent())
            accuracy = done.report.validation["accuracy"]["converted"]
            size = done.report.files["model.onnx"]["bytes"]
            sys.stderr.write(f"{name}: {accuracy:.2%} of {HELD_OUT} right, {size} bytes\n")
        held_out.write_bytes(Path("digits-held-out.npz").read_bytes())
    return 0


def options(precision: Precision, output: Path) -> Options:
    """How each precision is made; calibrated on samples that it was trained on."""
    return Options(
        model="scripts.train_digits:trained",
        output=output,
        precision=precision,
        calibration="digits-training.npz",
        held_out="digits-held-out.npz",
        # The file is run by whatever CPU is there, also by others' code: see WEIGHT_BITS.
        weight_bits=7,
        version=1,
        force=True,
        config=Path("config.yaml"),
        plan=PlanOptions(build=False),
    )


def config(precision: Precision) -> ModelConfig:
    """What the repository says of the model."""
    return ModelConfig(
        description=(
            "Handwritten digits, white on black, 8 x 8 pixels; other sizes are averaged down. "
            f"In {precision.upper()}. Trained on scikit-learn's load_digits by "
            "scripts/train_digits.py."
        ),
        preprocessing=Preprocessing(color="gray", resize=Resize(size=(8, 8), filter="box")),
        outputs=(Tensor(name="logits", shape=(10,)),),
        postprocessing=Classification(kind="classification", top_k=3, labels="labels.txt"),
        batching=Batching(max_delay_ms=1),
    )


def split() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Grey values [n, 8, 8] from 0 to 255 and digits [n]: to train on, and held out."""
    digits = load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    order = np.random.default_rng(SEED).permutation(len(pixels))
    held, rest = order[:HELD_OUT], order[HELD_OUT:]
    return (pixels[rest], labels[rest]), (pixels[held], labels[held])


@functools.cache
def trained() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The trained model, and an example of its input. Named in `options`, run by the converter."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    (pixels, labels), _ = split()
    images = torch.from_numpy(pixels.astype(np.float32) / 255)[:, None]
    digits = torch.from_numpy(labels.astype(np.int64))
    model = Digits()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for chosen in order.split(BATCH):
            loss = nn.functional.cross_entropy(model(moved(images[chosen])), digits[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval(), {"image": images[:2]}


class Digits(nn.Module):
    """Two convolutions, halved, and two dense layers: [n, 1, 8, 8] to [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(512, 40),
            nn.ReLU(),
            nn.Linear(40, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


def moved(images: torch.Tensor) -> torch.Tensor:
    """Shift by up to half a pixel, turn by up to 9 degrees, scale by up to 10 %."""
    count = len(images)
    shift = (torch.rand(count, 2) - 0.5) / 4
    angle = (torch.rand(count) - 0.5) * 0.3
    scale = 1 + (torch.rand(count) - 0.5) * 0.2
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


if __name__ == "__main__":
    sys.exit(main())
