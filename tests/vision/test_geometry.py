"""Boxes of the input, in the original image."""

from __future__ import annotations

import numpy as np

from vision.geometry import Geometry


def test_a_box_is_moved_scaled_and_clipped() -> None:
    geometry = Geometry(100, 50, scale_x=2.0, scale_y=4.0, offset_x=10.0, offset_y=-8.0)
    boxes = np.array([[30.0, 12.0, 50.0, 32.0], [0.0, -100.0, 1000.0, 1000.0]])
    assert geometry.to_original(boxes).tolist() == [[10, 5, 20, 10], [0, 0, 100, 50]]


def test_an_image_that_is_not_resized_keeps_its_boxes() -> None:
    boxes = np.array([[1.0, 2.0, 3.0, 4.0]])
    assert Geometry(8, 8).to_original(boxes).tolist() == boxes.tolist()


def test_no_boxes_are_no_boxes() -> None:
    assert Geometry(8, 8).to_original(np.zeros((0, 4))).shape == (0, 4)
