"""What a person would name of each scene, as bounds of `scene_measures`: where it moves and which way, its colours, its light.

The bounds are wide. They say what must be so, not what tells the scenes apart, which is for `scene_looks` to see.
"""

from math import inf

Bounds = dict[str, tuple[float, float]]

ALWAYS: Bounds = {"change": (-6.75, inf)}  # a logarithm: even stars twinkle, and nothing is frozen

PROPERTIES: dict[str, Bounds] = {
    "waterfall": {"swiftly falling centre": (0.0, inf), "change centre": (0.2, inf)},
    "river": {"swiftly falling bottom": (-0.03, inf), "change height": (0.45, inf)},
    "ocean waves": {"falling bottom": (0.2, inf), "change bottom": (0.35, inf)},  # waves roll towards whoever looks
    "bubbles": {"falling whole": (-inf, -0.2)},
    "drifting clouds": {"slowly passing top": (0.15, inf)},
    "sunrise": {"brightening top": (0.15, inf), "brightening whole": (0.12, inf)},
    "sunset": {"brightening top": (-inf, -0.15), "brightening whole": (-inf, -0.12)},
    "moon rising": {"brightening top": (0.02, 0.25), "dark share": (0.6, inf)},
    "starry night": {"dark share": (0.65, inf), "brightening whole": (-0.1, 0.1)},
    "shooting star": {"dark share": (0.65, inf), "swiftly passing top": (0.25, inf)},
    "aurora": {"dark share": (0.35, inf), "vivid middle 1": (0.1, inf)},
    "rain": {"change spread": (0.2, inf), "vivid middle 2": (-inf, 0.18)},
    "snow": {"swiftly falling whole": (-0.06, inf), "vivid middle 4": (-inf, 0.25)},
    "lightning storm": {"flash top": (0.06, inf), "dark share": (0.5, inf)},
    "falling leaves": {"warmth": (0.28, inf), "swiftly falling whole": (-0.1, inf)},
    "grass in the wind": {"green sides 5": (0.03, inf), "change height": (0.45, inf)},
    "flower opening": {"odd growth": (0.4, inf), "change centre": (0.25, inf)},
    "campfire": {"thing red": (0.75, inf), "warmth middle 4": (0.28, inf), "swiftly falling centre": (-inf, 0.1)},
    "candle": {"warmth": (0.08, inf), "glow light": (0.7, inf), "change centre": (0.22, inf)},
    "smoke from a chimney": {"swiftly falling top": (-inf, 0.0)},
    "fireworks": {"dark share": (0.5, inf), "flash top": (0.015, inf), "flicker top": (-4.8, inf)},
    "volcano": {"change centre": (0.28, inf)},
    "hot-air balloon": {"odd strength": (0.35, inf), "slow change centre": (0.28, inf)},
    "sailing boat": {"slow change middle": (0.42, inf)},
    "bouncing ball": {"odd range y": (0.25, inf), "odd turns y": (0.6, inf)},
    "pendulum": {"thing range x": (0.4, inf), "thing turns x": (0.35, inf)},
    "windmill": {"change centre": (0.25, inf), "change width": (-inf, 0.3)},
    "lighthouse": {"change top": (0.38, inf), "change height": (-inf, 0.56)},
}
