"""Words for scenes: captions in many wordings, short and long, and the same words read back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random

from theseus_core.world.description import Description
from theseus_core.world.grammar import COLOURS

Words = Mapping[str, tuple[str, ...]]

# Clauses with slots that a word may fill or leave empty. The first ones are the plainest and are said most often.
CLAUSES: Words = {
    "waterfall": (
        "a {nice} {strength} waterfall",
        "a {nice} {strength} waterfall",
        "a {strength} waterfall flowing over rocks",
        "a {strength} waterfall plunging into a pool",
        "water falling down a cliff",
        "water cascading over a cliff",
        "a {strength} cascade tumbling down the rocks",
        "a {strength} waterfall crashing down",
    ),
    "river": (
        "a {nice} {strength} river",
        "a {strength} river flowing",
        "a {strength} river winding through the land",
        "water flowing in a {strength} river",
        "a {nice} {strength} stream",
        "a {strength} stream meandering",
    ),
    "ocean waves": (
        "{strength} ocean waves",
        "{strength} ocean waves",
        "{strength} waves rolling on the sea",
        "{strength} waves on the ocean",
        "the ocean with {strength} waves",
        "the sea with {strength} waves",
        "a {nice} sea with {strength} waves",
        "{strength} waves rolling in",
    ),
    "bubbles": (
        "{strength} bubbles rising in {colour} water",
        "{strength} bubbles",
        "{strength} bubbles floating up",
        "{strength} air bubbles rising underwater",
        "{strength} bubbles drifting up through {colour} water",
        "{strength} soap-like bubbles rising",
    ),
    "drifting clouds": (
        "{strength} clouds drifting {direction}",
        "{strength} drifting clouds",
        "{strength} clouds moving {direction}",
        "{strength} clouds floating {direction} in the sky",
        "{strength} white clouds passing by",
        "a sky with {strength} clouds moving {direction}",
    ),
    "sunrise": (
        "a {nice} sunrise",
        "a {nice} sunrise",
        "the sun rising",
        "the sun coming up",
        "the rising sun",
        "the sun rises",
        "a new day begins as the sun comes up",
        "daybreak with a rising sun",
    ),
    "sunset": (
        "a {nice} sunset",
        "a {nice} sunset",
        "the sun setting",
        "the sun going down",
        "the setting sun",
        "the sun sets",
        "the sun sinking below the horizon",
    ),
    "moon rising": (
        "the moon rising",
        "a full moon rising",
        "the {nice} moon rising",
        "a {nice} moonrise",
        "the rising moon",
        "the moon coming up",
        "a full moon climbs into the sky",
    ),
    "starry night": (
        "a {nice} starry night",
        "a starry night with {strength} stars",
        "{strength} stars twinkling in the sky",
        "a night sky full of stars",
        "{strength} twinkling stars",
        "a starry sky",
        "{strength} stars shining",
    ),
    "shooting star": (
        "a shooting star",
        "a {nice} shooting star",
        "a shooting star flying {direction}",
        "a shooting star crossing the sky {direction}",
        "a meteor streaking {direction}",
        "a falling star in the sky",
        "a meteor",
    ),
    "aurora": (
        "a {nice} {strength} {colour} aurora",
        "{strength} {colour} northern lights",
        "{strength} {colour} northern lights dancing in the sky",
        "an aurora with {colour} curtains of light",
        "a {strength} {colour} aurora shimmering",
        "the {nice} {colour} aurora borealis",
        "{colour} polar lights",
    ),
    "rain": (
        "{strength} rain",
        "{strength} rain falling",
        "{strength} rain falling",
        "{strength} rain coming down",
        "{strength} raindrops falling from a grey sky",
        "it is raining",
        "a rainy scene with {strength} rain",
    ),
    "snow": (
        "{strength} snow",
        "{strength} snow falling",
        "{strength} snow falling",
        "{strength} snowfall",
        "snowflakes falling",
        "it is snowing",
        "{strength} snow coming down",
        "white snowflakes drifting down",
    ),
    "lightning storm": (
        "a lightning storm",
        "a lightning storm",
        "a thunderstorm",
        "lightning",
        "lightning striking",
        "a bolt of lightning",
        "flashes of lightning in dark clouds",
        "lightning flashing in the sky",
        "a {nice} thunderstorm with lightning",
    ),
    "falling leaves": (
        "{strength} falling leaves",
        "{strength} leaves falling",
        "{strength} autumn leaves falling",
        "{strength} leaves falling from the trees",
        "{strength} orange leaves drifting down",
        "autumn with {strength} falling leaves",
        "{strength} leaves tumbling to the ground in autumn",
    ),
    "grass in the wind": (
        "grass in the wind",
        "grass swaying {strength} in the wind",
        "grass moving {strength} in the wind",
        "grass waving {strength}",
        "tall grass swaying {strength}",
        "blades of grass bending {strength} in the wind",
        "a field of grass blowing {strength} in the wind",
    ),
    "flower opening": (
        "a {nice} {colour} flower opening",
        "a {colour} flower opening",
        "a {colour} flower blooming",
        "a {colour} flower opening its petals",
        "a {colour} blossom unfolding",
        "a {colour} bud opening into a flower",
        "a {nice} {colour} flower in bloom",
    ),
    "campfire": (
        "a {strength} campfire",
        "a {nice} {strength} campfire",
        "a {strength} campfire burning",
        "a {strength} bonfire",
        "the flames of a {strength} campfire",
        "a {strength} fire burning on logs",
        "a {strength} fire with sparks flying up",
    ),
    "candle": (
        "a {colour} candle",
        "a {colour} candle burning",
        "a burning {colour} candle",
        "the flame of a {colour} candle",
        "a {nice} {colour} candle flickering in the dark",
        "candlelight from a {colour} candle",
    ),
    "smoke from a chimney": (
        "{strength} smoke from a chimney",
        "{strength} smoke rising from a chimney",
        "{strength} smoke coming out of a chimney",
        "a house with {strength} smoke rising from its chimney",
        "a smoking chimney",
        "a {nice} cottage with {strength} smoke rising from the chimney",
    ),
    "fireworks": (
        "{strength} {colour} fireworks",
        "{colour} fireworks",
        "{nice} {colour} fireworks",
        "{strength} {colour} fireworks exploding",
        "{strength} {colour} fireworks in the sky",
        "a display of {colour} fireworks",
        "{colour} fireworks bursting",
    ),
    "volcano": (
        "a volcano erupting",
        "an erupting volcano",
        "a {strength} volcanic eruption",
        "a volcano",
        "a {strength} volcano spewing lava",
        "lava shooting out of a {strength} volcano",
    ),
    "hot-air balloon": (
        "a {colour} hot-air balloon",
        "a {colour} hot air balloon rising",
        "a {nice} {colour} hot-air balloon floating",
        "a {colour} hot air balloon in the sky",
        "a {colour} hot-air balloon flying",
        "a {colour} striped balloon rising into the sky",
    ),
    "sailing boat": (
        "a {nice} sailing boat",
        "a boat with a {colour} sail sailing {direction}",
        "a sailing boat with a {colour} sail moving {direction}",
        "a {colour} sailboat gliding {direction} over the water",
        "a {colour} sailboat",
        "a sailing boat on the sea",
        "a {colour} yacht sailing {direction} on the water",
    ),
    "bouncing ball": (
        "a {colour} bouncing ball",
        "a {colour} ball bouncing",
        "a {colour} ball bouncing on the floor",
        "a {colour} ball hopping up and down",
        "a {colour} ball that bounces",
        "a bouncing {colour} rubber ball",
    ),
    "pendulum": (
        "a {colour} pendulum",
        "a {colour} pendulum swinging",
        "a swinging {colour} pendulum",
        "a pendulum with a {colour} bob swinging from side to side",
        "a {colour} pendulum moving back and forth",
    ),
    "windmill": (
        "a {nice} windmill",
        "a windmill turning {strength}",
        "a windmill with blades turning {strength}",
        "an old windmill turning {strength}",
        "the sails of a windmill spinning {strength}",
        "a windmill rotating {strength} in the wind",
    ),
    "lighthouse": (
        "a {nice} lighthouse",
        "a lighthouse with a beam turning {strength}",
        "a lighthouse shining",
        "the light of a lighthouse turning {strength}",
        "a lighthouse sweeping its beam {strength} over the sea",
        "a lighthouse by the sea",
    ),
}
FEW_MANY: Words = {"few": ("a few", "few", "some"), "many": ("many", "lots of", "countless", "a lot of")}
TURNING: Words = {"slow": ("slowly", "slowly", "gently"), "fast": ("fast", "quickly", "rapidly")}
STRENGTHS: Mapping[str, Words] = {
    "waterfall": {"weak": ("small", "thin", "narrow", "gentle"), "strong": ("powerful", "wide", "mighty", "big", "roaring")},
    "river": {"narrow": ("narrow", "small", "little"), "wide": ("wide", "broad", "big", "large")},
    "ocean waves": {"weak": ("small", "gentle", "calm"), "strong": ("big", "rough", "foaming", "huge", "strong")},
    "drifting clouds": {"few": ("a few", "scattered", "few"), "many": ("many", "thick", "lots of", "dense")},
    "starry night": {"few": ("a few", "few", "some"), "many": ("countless", "thousands of", "many", "a million")},
    "aurora": {"weak": ("faint", "pale", "soft"), "strong": ("bright", "vivid", "strong", "brilliant")},
    "rain": {"weak": ("light", "gentle", "soft"), "strong": ("heavy", "heavy", "pouring", "hard", "strong")},
    "snow": {"weak": ("light", "gentle", "soft"), "strong": ("heavy", "heavy", "thick", "dense")},
    "grass in the wind": {"weak": ("gently", "softly", "slightly"), "strong": ("strongly", "wildly", "violently")},
    "campfire": {"small": ("small", "small", "little"), "big": ("big", "large", "blazing", "roaring")},
    "smoke from a chimney": {"thin": ("thin", "light", "a wisp of"), "thick": ("thick", "dense", "heavy")},
    "volcano": {"weak": ("small", "weak"), "strong": ("powerful", "violent", "huge", "strong")},
    "windmill": TURNING,
    "lighthouse": TURNING,
    **dict.fromkeys(("bubbles", "falling leaves", "fireworks"), FEW_MANY),
}
LIGHTS: Words = {
    **{colour: tuple(word for word in words if "bright" not in word) for colour, words in COLOURS.items()},  # bright: how strong
    "gold": ("gold", "golden"),
    "colourful": ("colourful", "colorful", "multicoloured", "multicolored"),
    "green and purple": ("green and purple", "purple and green", "green and violet"),
}
NICE = ("beautiful", "beautiful", "lovely", "pretty", "peaceful", "wonderful", "picturesque")
PLACES: Words = {
    "forest": ("in a forest", "in the forest", "in the woods", "among trees", "surrounded by trees", "in a green woodland"),
    "mountains": ("in the mountains", "in the mountains", "in front of mountains", "among high mountains", "below snowy peaks"),
    "desert": ("in the desert", "in a desert", "in a sandy desert", "among sand dunes", "in a dry land of dunes"),
    "city": ("in a city", "in the city", "in front of a city skyline", "in town", "by tall buildings"),
    "beach": ("at the beach", "on a beach", "by the sea", "at the seaside", "at the seashore"),
}
SKYWARD: Words = {
    "forest": ("over a forest", "over the forest", "above the trees", "over the woods"),
    "mountains": ("over the mountains", "over mountains", "above the mountains", "over snowy peaks"),
    "desert": ("over the desert", "over a desert", "over sand dunes", "above the dunes"),
    "city": ("over a city", "over the city", "above the skyline", "over a city skyline", "over tall buildings"),
    "beach": ("over the sea", "over a beach", "over the beach", "above the sea", "at the seaside"),
}
SKY_SCENES = {
    *("drifting clouds", "sunrise", "sunset", "moon rising", "starry night", "shooting star", "aurora"),
    *("lightning storm", "fireworks", "hot-air balloon"),
}
HOURS: Words = {
    "day": ("by day", "during the day", "in daylight", "in the daytime", "at noon"),
    "dusk": ("at dusk", "at dusk", "in the evening", "at twilight", "at nightfall"),
    "night": ("at night", "at night", "by night", "after dark", "in the dark of night"),
}
DIRECTIONS: Words = {
    "left": ("left", "to the left", "leftwards", "from right to left"),
    "right": ("right", "to the right", "rightwards", "from left to right"),
}
MOVES: Words = {
    "still": ("the camera stands still", "static camera", "fixed shot"),
    "pan left": ("the camera pans left", "the camera pans to the left", "pan left", "camera panning left"),
    "pan right": ("the camera pans right", "the camera pans to the right", "pan right", "camera panning right"),
    "zoom in": ("the camera zooms in", "zoom in", "slow zoom in", "camera zooming in", "the camera moves closer"),
    "zoom out": ("the camera zooms out", "zoom out", "slow zoom out", "camera zooming out", "the camera moves away"),
}
OPENINGS = ("a video of", "a clip of", "footage of", "a view of", "a short clip showing")

# --- to words ---


def caption(clip: Description, random: Random) -> str:
    """A sentence about a clip, from a word to a score; not everything is said every time."""
    a = clip.attributes
    talkative = random.choice((0.15, 0.5, 0.5, 0.85))

    def said(key: str, words: str) -> str:
        return words if key in a and random.random() < talkative else ""

    table = {
        "nice": random.choice(NICE) if random.random() < 0.3 * talkative + 0.05 else "",
        "strength": said("strength", _word(STRENGTHS.get(clip.kind, {}), a.get("strength"), random)),
        "colour": said("colour", _word(LIGHTS, a.get("colour"), random)),
        "direction": said("direction", _word(DIRECTIONS, a.get("direction"), random)),
    }
    clause = random.choice(CLAUSES[clip.kind]).format(**table)
    place = said("setting", _word(SKYWARD if clip.kind in SKY_SCENES else PLACES, a.get("setting"), random))
    tails = [place, said("time", _word(HOURS, a.get("time"), random))]
    if random.random() < 0.25:
        tails.reverse()
    sentence = " ".join([clause, *tails])
    if random.random() < 0.1:
        sentence = (
            f"{random.choice(OPENINGS)} {sentence}" if not re.search(r"\b(is|rises|sets|begins|climbs)\b", sentence) else sentence
        )
    if random.random() < (0.06 if a["camera"] == "still" else 0.6) * talkative:
        sentence += f", {_word(MOVES, a['camera'], random)}"
    return _tidy(sentence)


def _word(table: Words, value: str | None, random: Random) -> str:
    return random.choice(table[value]) if value is not None and value in table else ""


def _tidy(sentence: str) -> str:
    """One space between words, and "a orange flower" made "an orange flower"; also "an red" made "a red"."""
    sentence = re.sub(r"\s+,", ",", " ".join(sentence.split()))
    sentence = re.sub(r"\ba(?= [aeio])", "an", sentence)
    return re.sub(r"\ban(?= [^aeiou])", "a", sentence)


# --- from words ---

# What names a scene, the more telling ones first: a sunset over the sea is a sunset, a boat on the waves is a boat.
NAMES: tuple[tuple[str, str], ...] = (
    ("fireworks", r"fireworks?|pyrotechnics?"),
    ("campfire", r"camp ?fires?|bonfires?|fire"),
    ("candle", r"candles?|candlelight"),
    ("volcano", r"volcano(?:es)?|volcanic|lava|eruption"),
    ("smoke from a chimney", r"smoke|chimneys?|smoking"),
    ("hot-air balloon", r"balloons?"),
    ("sailing boat", r"(?:sail(?:ing)? ?)?boats?|sailboats?|yachts?|sailing|ships?"),
    ("lighthouse", r"lighthouses?"),
    ("windmill", r"(?:wind)?mills?"),
    ("pendulum", r"pendulums?"),
    ("bouncing ball", r"balls?"),
    ("aurora", r"aurora(?: borealis)?|(?:northern|polar) lights?"),
    ("shooting star", r"shooting stars?|falling star|meteors?"),
    ("lightning storm", r"lightning|thunder|thunderstorms?|storm"),
    ("sunrise", r"sunrise|sun (?:is )?(?:rising|rises|coming up|comes up)|rising sun|daybreak|dawn"),
    ("sunset", r"sunset|sun (?:is )?(?:setting|sets|going down|goes down|sinking|sinks)|(?:setting|sinking) sun|sundown"),
    ("moon rising", r"moon|moonrise"),
    ("starry night", r"stars|starry|milky way|starlit"),
    ("waterfall", r"waterfalls?|cascades?|water (?:falling|cascading|plunging|pouring|tumbling)"),
    ("falling leaves", r"leaves|leaf"),
    ("snow", r"snow|snowing|snowfall|snowflakes?|blizzard"),
    ("rain", r"rain|rainy|raining|rainfall|raindrops|downpour|drizzle"),
    ("flower opening", r"flowers?|blossoms?|blooming|bloom|bud|petals"),
    ("grass in the wind", r"grass|grassland"),
    ("bubbles", r"bubbles?"),
    ("river", r"rivers?|streams?|brook|creek"),
    ("drifting clouds", r"clouds?|cloudy"),
    ("ocean waves", r"waves?|ocean|sea|surf|swell"),
)
GROUNDS: Words = {
    "forest": ("forest", "woods", "trees", "woodland", "woodlands", "pines"),
    "mountains": ("mountains", "mountain", "snowy peaks", "peaks", "alps"),
    "desert": ("desert", "dunes", "sand dunes"),
    "city": ("city", "town", "skyline", "skyscrapers", "buildings"),
    "beach": ("beach", "seaside", "seashore", "shore", "coast", "sea"),
}
TIMES: Words = {
    "day": ("by day", "during the day", "daylight", "daytime", "noon", "sunny"),
    "dusk": ("dusk", "evening", "twilight", "nightfall"),
    "night": ("night", "dark", "moonlight"),
}


def parse(text: str, options: Mapping[str, Words]) -> Description | None:
    """What a text asks for; None where it names no scene.

    Args:
        options: for every scene, the values of its attributes.
    """
    words = " ".join(re.findall(r"[\w]+", text.lower()))
    for kind, pattern in NAMES:
        if _has(words, pattern):
            return Description(kind, _attributes(kind, words, options[kind]))
    return None


def _attributes(kind: str, words: str, options: Words) -> dict[str, str]:
    found = {}
    camera, words = _take(words, MOVES)
    if camera:
        found["camera"] = camera
    tables = {"setting": GROUNDS, "time": TIMES, "strength": STRENGTHS.get(kind, {}), "colour": LIGHTS, "direction": DIRECTIONS}
    for key, table in tables.items():
        value = _take(words, {value: table[value] for value in options.get(key, ())})[0]
        if value:
            found[key] = value
    return found


def _take(words: str, table: Words) -> tuple[str, str]:
    """The value whose longest phrase stands in the text, and the text without the phrase; "" where there is none."""
    phrases = [(re.sub(r"[\W_]+", " ", phrase), value) for value, spoken in table.items() for phrase in spoken]
    for phrase, value in sorted(phrases, key=lambda pair: -len(pair[0])):
        if _has(words, phrase):
            return value, words.replace(phrase, " ")
    return "", words


def _has(words: str, pattern: str) -> bool:
    return re.search(rf"\b(?:{pattern})\b", words) is not None
