"""Colours of the report: one colour per class everywhere, and one perceptually uniform heat scale."""

from __future__ import annotations

import math

import numpy as np

Rgb = tuple[int, int, int]


def _colours(text: str) -> tuple[Rgb, ...]:
    values = bytes.fromhex(text)
    return tuple(zip(values[::3], values[1::3], values[2::3], strict=True))


# Chosen by hand to stay apart on photos, on white and on near-black; further classes are computed.
_FIRST = _colours("2f80ed f28b24 27a66b e25696 8a69ee e0b514 14adb7 e24448 a8764e 8ab828 5cb6f0 b858ce")
BACKGROUND: Rgb = (139, 141, 150)

# Every eighth of the inferno scale (equal steps in lightness, readable in grey and by the colour-blind).
_HEAT = _colours("000004 1f0c48 550f6d 88226a ba3655 e35933 f98c0a f9c932 fcffa4")


def class_colour(index: int) -> Rgb:
    """Return the sRGB colour (0..255 each) of the 0-based class `index`; the same on every page and chart."""
    if index < len(_FIRST):
        return _FIRST[index]
    turn = (index - len(_FIRST)) * 0.618034  # golden ratio: neighbours in the list are far apart in hue
    lightness = (0.62, 0.76, 0.69)[index % 3]
    return _oklch(lightness, 0.14, 2 * math.pi * (turn % 1.0))


def hex_colour(colour: Rgb) -> str:
    """Return "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def heat_table() -> np.ndarray:
    """Return the heat scale as (256, 3) uint8, dark for 0 and pale yellow for 1."""
    anchors = np.array(_HEAT, dtype=np.float64)
    positions = np.linspace(0, 255, len(anchors))
    channels = [np.interp(np.arange(256), positions, anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def heat_gradient() -> str:
    """Return the heat scale as a CSS gradient from left (0) to right (1)."""
    stops = ", ".join(hex_colour(colour) for colour in _HEAT)
    return f"linear-gradient(90deg, {stops})"


def _oklch(lightness: float, chroma: float, hue: float) -> Rgb:
    """Convert OKLCH (lightness 0..1, chroma, hue in radians) to sRGB, clipped (Ottosson 2020)."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
    red, green, blue = (_gamma(value) for value in linear)
    return red, green, blue


def _gamma(value: float) -> int:
    value = min(max(value, 0.0), 1.0)
    encoded = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return round(255 * encoded)
