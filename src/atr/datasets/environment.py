"""Does a caption name an environment? The rule behind "Env." in the Auto-ACD paper, which gives none of its own.

A caption names one where it says *where* the sound is: "in a small room", "on a busy street", "outdoors", "a quiet
forest with birds". What sounds ("a church bell"), what holds it ("in a sink"), and where it stands in the mix ("in the
background") are no environments. English only; a list of words and a few patterns, so that everyone can check it.
"""

import re

# Singular; the patterns take the plural, too.
PLACES = (
    # rooms and parts of a house
    "room", "bathroom", "restroom", "washroom", "bedroom", "kitchen", "garage", "basement", "cellar", "attic",
    "hallway", "corridor", "hall", "lobby", "foyer", "staircase", "stairwell", "balcony", "porch", "patio",
    "apartment", "house", "home", "cabin", "cottage", "barn", "shed", "stable", "greenhouse", "tent", "courtyard",
    "yard", "backyard", "garden", "lawn", "driveway", "doorway", "rooftop", "chamber", "closet", "elevator",
    "dormitory", "nursery",
    # buildings and businesses
    "building", "office", "factory", "workshop", "warehouse", "studio", "church", "cathedral", "chapel", "temple",
    "monastery", "mosque", "school", "classroom", "university", "college", "campus", "kindergarten", "library",
    "museum", "gallery", "theater", "theatre", "auditorium", "cinema", "restaurant", "cafe", "café", "cafeteria",
    "canteen", "diner", "bar", "pub", "tavern", "nightclub", "club", "casino", "arcade", "hotel", "hospital",
    "clinic", "prison", "jail", "shop", "store", "supermarket", "market", "marketplace", "mall", "bakery",
    "laundromat", "salon", "pharmacy", "gym", "gymnasium", "stadium", "arena", "ballroom", "courtroom",
    "laboratory", "lab", "facility", "castle", "hangar", "mill", "kennel", "aviary", "coop", "zoo", "aquarium",
    "sanctuary", "bunker", "dungeon", "sauna", "playroom",
    # traffic
    "street", "road", "roadway", "roadside", "highway", "freeway", "motorway", "expressway", "avenue", "alley",
    "alleyway", "lane", "intersection", "crossroads", "crosswalk", "sidewalk", "pavement", "traffic", "station",
    "airport", "terminal", "runway", "airfield", "tarmac", "harbor", "harbour", "port", "marina", "dock", "pier",
    "wharf", "shipyard", "subway", "metro", "underpass", "tunnel", "bridge", "parking lot", "car park", "racetrack",
    "speedway", "race track", "raceway", "platform",
    # towns and grounds
    "city", "town", "village", "suburb", "neighborhood", "neighbourhood", "square", "plaza", "park", "playground",
    "schoolyard", "churchyard", "cemetery", "graveyard", "fairground", "campground", "campsite", "farm", "farmyard",
    "barnyard", "ranch", "field", "pasture", "meadow", "orchard", "vineyard", "pool", "court", "rink",
    "golf course", "shooting range", "firing range", "battlefield", "construction site", "junkyard", "quarry",
    "mine", "stage", "amusement park", "arboretum", "promenade", "boardwalk", "path", "pathway", "trail",
    "driving range",
    # nature
    "forest", "woods", "woodland", "jungle", "rainforest", "swamp", "marsh", "wetland", "bog", "desert", "prairie",
    "savanna", "grassland", "countryside", "wilderness", "outback", "mountain", "hill", "hillside", "valley",
    "canyon", "cliff", "cave", "cavern", "beach", "shore", "seashore", "shoreline", "coast", "coastline", "seaside",
    "riverbank", "riverside", "lakeside", "river", "stream", "creek", "brook", "lake", "pond", "lagoon", "bay",
    "ocean", "sea", "waterfall", "island", "glacier", "volcano", "wild", "nature",
    # occasions that are a place for the ear
    "concert", "festival", "fair", "carnival", "party", "parade", "ceremony", "wedding", "conference",
    "sporting event",
)  # fmt: skip
VEHICLES = (
    "car", "vehicle", "truck", "van", "bus", "taxi", "train", "tram", "trolley", "airplane", "aeroplane", "plane",
    "aircraft", "helicopter", "jet", "boat", "ship", "ferry", "submarine", "cockpit", "cab", "carriage", "spaceship",
)  # fmt: skip
_VAGUE = "space|area|environment|setting|location|place|venue|establishment|structure|scene"
_DETERMINER = r"(?:(?:an?|the|this|that|these|those|some|his|her|its|their|one|another|someone's)\W+)?"
# Words that cannot stand between a preposition and its place: another phrase begins with them.
_BREAK = (
    "an?|the|and|or|but|as|while|when|with|without|of|to|then|followed|by|in|inside|on|at|near|from|into|through|over|under|"
    "behind|is|are|was|were|be|his|her|its|their|front|background|foreground|distance|radio|tv|television|toy|"
    "who|which|that|for|off|out|up|down|it|he|she|they|video|someone|people"
)
_ADJECTIVES = rf"(?:(?!(?:{_BREAK})\b)[\w'’]+(?:\W{{1,2}}(?=\w))){{0,3}}?"
# A place's name is followed by what it gives its name to: that is what sounds, not where.
_OTHER_HEAD = (
    r"(?!\W(?:bells?|organs?|clocks?|doors?|tracks?|horns?|whistles?|engines?|keys?|motors?|windows?|sirens?|"
    r"toys?|signals?|models?|alarms?|tones?|radios?|wheels?|seats?|boards?|hood|trunk|sinks?|appliances?|blenders?|phones?)\b|\W+of\W+(?:water|liquid|fluid|air)\b)"
)
_PLACE = "(?:" + "|".join(sorted(PLACES, key=len, reverse=True)) + ")(?:e?s)?"
_VEHICLE = "(?:" + "|".join(VEHICLES) + ")s?"
_WHERE = (
    "in|inside|within|outside|at|on|near|nearby|through|throughout|across|around|along|alongside|into|beside|down|past|over|"
    "under|from|by|behind|amid|amidst|entering|enters|leaving|exiting|onto|against|hits?|hitting|"
    r"(?:sounds?|noises?|ambien[ct]e|atmosphere|middle|edge|corner|front|side|outskirts|end|bank|inside|outside)\W+of"
)
_PATTERNS = (
    # "in a small room", "near a busy city street", "at home"
    rf"\b(?:{_WHERE})\W+{_DETERMINER}{_ADJECTIVES}\b{_PLACE}\b{_OTHER_HEAD}",
    # "in a large, open space", but not "in the area"
    rf"\b(?:in|inside|within|into|through)\W+{_DETERMINER}(?!(?:same|different|other|first|second)\b)"
    rf"(?:(?!(?:{_BREAK})\b)\w+\W{{1,2}}){{1,3}}(?:{_VAGUE})s?\b",
    # "inside a moving car", "on a train", but not "a horn on a train track"
    rf"\b(?:in|inside|aboard|within)\W+{_DETERMINER}{_ADJECTIVES}\b{_VEHICLE}\b{_OTHER_HEAD}",
    rf"\b(?:on|onboard|on\W+board)\W+{_DETERMINER}{_ADJECTIVES}\b(?:bus|train|tram|airplane|plane|boat|ship|ferry|subway)\b"
    rf"{_OTHER_HEAD}",
    # "A busy street with cars", "Quiet forest." : a place opens the caption and nothing else is its subject
    rf"^\W*{_DETERMINER}{_ADJECTIVES}\b{_PLACE}\b(?=\W*$|[,;:.]|\W+(?:with|where|full|filled|as|while|during|ambien|"
    r"atmosphere|at\W+(?:night|dawn|dusk)))",
    # "a crowded restaurant" anywhere
    rf"\b(?:busy|crowded|bustling|noisy|quiet|empty|deserted|echoing|reverberant|dense|tropical|rural|urban)\W+"
    rf"(?:\w+\W+)?{_PLACE}\b{_OTHER_HEAD}",
    # places of two words that need no preposition
    r"\b(?:train|railway|bus|subway|metro|gas|petrol|police)\W+station\b|\bswimming\W+pool\b|\bliving\W+room\b",
    r"\b(?:outdoors?|indoors?|underwater|downtown|backstage|upstairs|downstairs|open\W+air)\b",
    # "talking inside", "outside, as …": not "inside a box"
    r"\b(?:inside|outside)(?=\W*$|\s*[,;:.]|\W+(?:and|as|while|with|in|on|near|at|during|when|then|followed|nearby)\b)",
)
_ENVIRONMENT = re.compile("|".join(_PATTERNS), re.IGNORECASE)


def names_environment(caption: str) -> bool:
    """Does the caption say where the sound is?

    >>> names_environment("A man speaks in a small room"), names_environment("A bell rings in the background")
    (True, False)
    """
    return _ENVIRONMENT.search(caption) is not None
