"""Words for moving shapes: captions in many wordings, and the same words read back."""

from __future__ import annotations

import re
from random import Random

from theseus_core.world.description import Description

Words = dict[str, tuple[str, ...]]

SHAPES: Words = {
    "circle": ("circle", "circle", "disc", "disk", "dot", "round shape"),
    "square": ("square", "square", "box", "block"),
    "triangle": ("triangle", "triangle", "triangular shape"),
    "star": ("star", "star", "five-pointed star"),
    "diamond": ("diamond", "diamond", "rhombus", "lozenge"),
    "ring": ("ring", "ring", "hoop", "donut"),
    "cross": ("cross", "cross", "plus sign", "plus"),
    "heart": ("heart", "heart", "heart shape"),
}
COLOURS: Words = {
    "red": ("red", "red", "red", "crimson", "scarlet", "bright red"),
    "orange": ("orange", "orange", "orange", "tangerine", "bright orange"),
    "yellow": ("yellow", "yellow", "yellow", "golden", "lemon yellow"),
    "green": ("green", "green", "green", "emerald", "bright green"),
    "cyan": ("cyan", "cyan", "cyan", "turquoise", "aqua"),
    "blue": ("blue", "blue", "blue", "royal blue", "cobalt", "deep blue"),
    "purple": ("purple", "purple", "purple", "violet", "deep purple"),
    "pink": ("pink", "pink", "pink", "rose", "light pink"),
    "white": ("white", "white", "white", "pure white"),
    "black": ("black", "black", "black", "jet black"),
}
SPEEDS: Words = {
    "slow": ("slowly", "slowly", "gently", "gradually", "at a slow pace"),
    "fast": ("fast", "quickly", "rapidly", "swiftly", "at high speed"),
}
ADJECTIVES: Words = {"slow": ("slow",), "fast": ("fast", "quick")}
BACKGROUNDS: Words = {
    "white": ("white", "plain white"),
    "black": ("black", "plain black"),
    "grey": ("grey", "gray", "plain grey"),
    "gradient": ("soft gradient", "gradient", "smooth gradient", "coloured gradient", "colored gradient"),
}
RELATIONS: Words = {
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under", "beneath", "underneath"),
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
}
WAYS: Words = {
    "clockwise": ("clockwise",),
    "counter-clockwise": ("counter-clockwise", "counter-clockwise", "counterclockwise", "anticlockwise", "anti-clockwise"),
    "vertically": ("vertically", "up and down"),
    "horizontally": ("horizontally", "from side to side", "sideways"),
}
DIRECTIONS: Words = {
    "left": ("left", "left", "to the left", "leftward", "leftwards", "towards the left", "from right to left"),
    "right": ("right", "right", "to the right", "rightward", "rightwards", "towards the right", "from left to right"),
    "up": ("up", "up", "upward", "upwards", "towards the top", "to the top"),
    "down": ("down", "down", "downward", "downwards", "towards the bottom", "to the bottom"),
}
for vertical, edge in (("up", ("upper", "top")), ("down", ("lower", "bottom"))):
    for side in ("left", "right"):
        corners = tuple(f"{preposition} the {word} {side}" for word in edge for preposition in ("to", "towards"))
        joined = (f"{vertical}-{side}", f"{vertical} and {side}", f"{vertical} and to the {side}")
        DIRECTIONS[f"{vertical}-{side}"] = (*joined, *joined, f"diagonally {joined[0]}", f"diagonally {joined[2]}", *corners)
ROUND = ("circle", "ring")  # what spins must be seen to: a round shape that rotates is one that goes around

# Verbs as (moving, moves), then what follows them.
MOVE = (("moving", "moves"),) * 4 + (
    ("drifting", "drifts"),
    ("gliding", "glides"),
    ("sliding", "slides"),
    ("travelling", "travels"),
    ("traveling", "travels"),
    ("floating", "floats"),
    ("going", "goes"),
    ("heading", "heads"),
)
MOVE_AT = {
    "slow": (("creeping", "creeps"), ("crawling", "crawls")),
    "fast": (("racing", "races"), ("rushing", "rushes"), ("darting", "darts")),
}
TURN = (("spinning", "spins"), ("spinning", "spins"), ("rotating", "rotates"), ("turning", "turns"))
VERBS = {
    "up": (("rising", "rises", ""), ("ascending", "ascends", "")),
    "down": (("falling", "falls", ""), ("descending", "descends", ""), ("sinking", "sinks", "")),
    "bouncing": (("bouncing", "bounces", ""), ("bouncing", "bounces", ""), ("hopping", "hops", "")),
    "zigzag": (
        ("zigzagging", "zigzags", ""),
        ("moving", "moves", "in a zigzag"),
        ("going", "goes", "in zigzags"),
        ("moving", "moves", "along a zigzag path"),
    ),
    "circling": (
        ("moving", "moves", "in a circle"),
        ("going", "goes", "in circles"),
        ("circling", "circles", ""),
        ("going", "goes", "round and round"),
        ("travelling", "travels", "on a circular path"),
    ),
    "growing": (
        ("growing", "grows", ""),
        ("growing", "grows", "larger"),
        ("getting", "gets", "bigger"),
        ("expanding", "expands", ""),
        ("becoming", "becomes", "larger"),
    ),
    "shrinking": (
        ("shrinking", "shrinks", ""),
        ("getting", "gets", "smaller"),
        ("contracting", "contracts", ""),
        ("becoming", "becomes", "smaller"),
    ),
}
OPENINGS = ("a video of ", "an animation of ", "a clip of ", "a short video showing ")


# --- to words ---


def caption(clip: Description, random: Random) -> str:
    """A sentence about a clip, from two words to twenty; not everything is said every time."""
    a = clip.attributes
    terse = random.random() < 0.3
    article = "" if terse else random.choice(("a ", "a ", "a ", "one ", "the "))
    opening = random.choice(OPENINGS) if not terse and random.random() < 0.1 else ""
    said_speed = "" if random.random() < 0.5 else a["speed"]
    moves = random.random() < (0.95 if "relation" in a else 0.92)
    as_adjective = bool(said_speed) and random.random() < 0.15
    adjective = random.choice(ADJECTIVES[said_speed]) if as_adjective else ""
    subject = article + _noun(a["shape"], a["colour"], random, adjective)
    verb = _motion(clip, "" if as_adjective else said_speed, terse, bool(opening), random) if moves else ""
    sentence = f"{subject} {verb}".strip()
    if "relation" in a:
        other = article + _noun(a["other_shape"], a["other_colour"], random)
        sentence = _with_other(subject, verb, a["relation"], other, random)
    if random.random() < 0.45:
        sentence = _with_background(sentence, a["background"], terse, random)
    return _with_articles(opening + sentence)


def _with_other(subject: str, verb: str, relation: str, other: str, random: Random) -> str:
    related = random.choice(RELATIONS[relation])
    if not verb or random.random() < 0.25:
        return f"{subject} {related} {other} {verb}".strip()
    if relation.endswith(" of"):  # "moving up left of" would be another direction
        return f"{subject} {verb}, {random.choice(('to', 'on'))} the {relation} {other}"
    return f"{subject} {verb} {related} {other}"


def _noun(shape: str, colour: str, random: Random, adjective: str = "") -> str:
    coloured = random.choice(COLOURS[colour]) if random.random() < 0.85 else ""
    return " ".join(word for word in (adjective, coloured, random.choice(SHAPES[shape])) if word)


def _motion(clip: Description, speed: str, terse: bool, as_noun: bool, random: Random) -> str:
    """ "moving slowly left", "is moving left slowly", "slowly moves left"; after "a video of" only what has no full verb."""
    a = clip.attributes
    ing, present, tail = _verb(a["motion"], a["shape"], speed, random)
    way = a.get("way", "")
    if way and (a["motion"] == "spinning" or way == "horizontally" or ing == "rotating" or random.random() < 0.5):
        tail = " ".join(word for word in (tail, random.choice(WAYS[way])) if word)
    forms = [ing, ing, ing, f"that is {ing}"] + ([] if as_noun else [f"is {ing}", present, present])
    verb = ing if terse else random.choice(forms)
    if not speed or (ing, present) in MOVE_AT[speed]:
        return f"{verb} {tail}".strip()
    adverb = random.choice(SPEEDS[speed])
    places = [(verb, tail, adverb), (verb, adverb, tail)]
    if adverb.endswith("ly") and verb in (ing, present):
        places.append((adverb, verb, tail))
    return " ".join(word for word in random.choice(places) if word)


def _verb(motion: str, shape: str, speed: str, random: Random) -> tuple[str, str, str]:
    choices = VERBS.get(motion, ())
    if motion == "spinning":
        return (*random.choice(TURN), "")
    if motion == "circling" and shape in ROUND:
        choices = (*choices, ("rotating", "rotates", ""))
    if motion in DIRECTIONS and (not choices or random.random() < 0.8):
        hurried = bool(speed) and random.random() < 0.2
        return (*random.choice(MOVE_AT[speed] if hurried else MOVE), random.choice(DIRECTIONS[motion]))
    return random.choice(choices)


def _with_background(sentence: str, background: str, terse: bool, random: Random) -> str:
    word = random.choice(BACKGROUNDS[background])
    if terse:
        return random.choice((f"{sentence} on {word}", f"{sentence}, {word} background"))
    ends = ("on a {} background", "on a {} background", "against a {} background", "against a {} backdrop", "in front of a {} wall")
    if random.random() < 0.12:
        return f"{sentence}, {word} background"
    return f"{sentence} {random.choice(ends).format(word)}"


def _with_articles(sentence: str) -> str:
    """ "a orange circle" -> "an orange circle"."""
    return re.sub(r"\ba(?= [aeio])", "an", sentence)


# --- from words ---


def _phrases() -> dict[str, tuple[str, str]]:
    """Every phrase with what it says; a phrase that holds a shorter one of another meaning stands for itself ("in a circle")."""
    found: dict[str, tuple[str, str]] = {}
    tables = {"shape": SHAPES, "colour": COLOURS, "speed": SPEEDS, "motion": DIRECTIONS, "relation": RELATIONS, "way": WAYS}
    for key, table in [*tables.items(), ("speed", ADJECTIVES)]:
        found |= {phrase: (key, value) for value, phrases in table.items() for phrase in phrases}
    for motion, verbs in VERBS.items():
        for ing, present, tail in verbs:
            found |= dict.fromkeys([tail] if tail else [ing, present], ("motion", motion))
    for ing, present in TURN:
        found |= dict.fromkeys((ing, present), ("motion", "spinning"))
    for speed, pairs in MOVE_AT.items():
        found |= {word: ("speed", speed) for pair in pairs for word in pair}
    for corner in (key for key in DIRECTIONS if "-" in key):
        vertical, side = corner.split("-")
        edges = ("upper", "top") if vertical == "up" else ("lower", "bottom")
        apart = (vertical, f"{vertical}wards"), (side, f"{side}wards")
        pairs_of = [f"{one} and {other}" for one in apart[0] for other in apart[1]]
        pairs_of += [f"{other} and {one}" for one in apart[0] for other in apart[1]]
        more = (f"{vertical} {side}", *(f"{edge}{joint}{side}" for edge in edges for joint in " -"), *pairs_of)
        found |= dict.fromkeys(more, ("motion", corner))
    for background, words in BACKGROUNDS.items():
        for word in words:
            ends = (f"{word} background", f"{word} backdrop", f"{word} wall", f"on {word}", f"on a {word}")
            found |= dict.fromkeys(ends, ("background", background))
    found |= {"gradient": ("background", "gradient"), "zigzag": ("motion", "zigzag"), "on top of": ("relation", "above")}
    return found


PHRASES = _phrases()
PATTERN = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(PHRASES, key=len, reverse=True)))})(?![\w-])")


def parse(text: str) -> Description | None:
    """What a text asks for; None where it names no shape. Of two shapes the first is the one that moves."""
    found: dict[str, str] = {}
    prefix = ""
    for phrase in PATTERN.findall(" ".join(re.findall(r"[\w-]+", text.lower()))):
        key, value = PHRASES[phrase]
        if key == "relation":
            prefix = "other_"
        key = f"{prefix}{key}" if key in ("shape", "colour") else key
        found.setdefault(key, value)  # what is said first holds: "falling down", "bouncing to the left"
    if "shape" not in found:
        return None
    return Description("shapes", _settled(found))


def _settled(found: dict[str, str]) -> dict[str, str]:
    if found.get("motion") == "spinning":
        if "way" not in found:
            del found["motion"]  # which way is left open, and so is what would be seen
        elif found["shape"] in ROUND:
            found["motion"] = "circling"
    if found.get("motion") not in ("spinning", "circling", "bouncing", "zigzag"):
        found.pop("way", None)
    if "relation" in found and "other_shape" not in found:
        del found["relation"]
    return found
