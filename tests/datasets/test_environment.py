"""Captions labelled by hand: does the rule agree?"""

import pytest

from atr.datasets.environment import PLACES, VEHICLES, names_environment

NAMING = """
A man speaks in a small room
People walk on a busy street
Waves roll in at the beach
Children are shouting in a school playground while a bell rings
A choir sings in a large, echoing cathedral
Birds are chirping in the forest as the wind blows
Footsteps echo through an empty hallway
A radio plays inside a moving car
Announcements are made at a train station
A train station announcement is heard over a crowd
Dishes clatter and people chat in a restaurant kitchen
Someone hammers outdoors while insects buzz
Muffled bubbling is heard underwater
A dog barks outside
People are talking and laughing inside, and a door closes
A busy street with cars and people passing by
Quiet forest at night with crickets
Traffic passes by on a wet highway
Frogs croak near a pond
A crowd cheers in a sports stadium
Someone is typing in an office
Cows moo on a farm
A baby cries at home
A woman talks in an enclosed space
A jackhammer is used at a construction site
An engine hums inside an airplane cabin
Passengers are chatting on a bus
Water drips in a deep cave
A man sings along a city street, and coins clink
Seagulls call over a harbour
The sound of a crowded market
Kids are splashing in a swimming pool
A vendor shouts as people walk through a market square
A lecture is given in a university classroom
Sheep bleat in a meadow in the countryside
A bell tolls in the middle of a village
Ambience of a shopping mall
A violin is played on a stage
The supermarket is noisy and a scanner beeps
A tractor drives across a field
""".strip().splitlines()
NOT_NAMING = """
A bell rings in the background
A car passes by
Water drips in a sink
A church bell rings
A room-tone hum
A man speaks in the distance
A dog barks and a cat meows
Someone speaks on the radio
A train horn blows twice
Coins are dropped in a metal box
Food is frying in a pan
A clock ticks at a steady pace
A door is opened in front of a microphone
Water is poured into a glass
A motorcycle accelerates in the foreground
Paper is crumpled by hand
A helicopter flies overhead
An emergency siren is wailing
Someone knocks on a wooden door
A woman speaks on the phone
A toilet is flushed
Wind blows into a microphone
Thunder rumbles in the rain
A truck engine idles and then revs up
A piano is played in a minor key
A key turns in a car door
Music plays in the background while a man is speaking
A sewing machine runs in short bursts
A ball is hit with a bat, and people applaud
A kitchen timer goes off
A street musician plays the accordion
A house sparrow chirps
Someone stirs a cup of tea with a spoon
A man shouts at the same time as a horn honks
A train passes on a railroad track
Something is dropped inside a box
Someone is walking on gravel
The volume goes up and down
A police car siren approaches
A man talks while a toy train runs
A sea lion barks
A group of people in a stream of water
""".strip().splitlines()


def test_precision_and_recall_on_the_labelled_captions():
    found = [caption for caption in NAMING if names_environment(caption)]
    wrong = [caption for caption in NOT_NAMING if names_environment(caption)]
    missed = [caption for caption in NAMING if caption not in found]
    assert (len(NAMING), len(NOT_NAMING)) == (40, 42)
    assert missed == ["The supermarket is noisy and a scanner beeps"]  # a place as the subject: not in the rule
    assert wrong == []


@pytest.mark.parametrize("caption", ["", " ", "…", "在房间里", "in", "in a", "A\nman", "a " * 5000, "in the " * 5000])
def test_odd_captions_name_none(caption):
    assert names_environment(caption) is False


def test_case_and_plural_do_not_matter():
    assert names_environment("PEOPLE TALK IN CROWDED RESTAURANTS") and names_environment("on city streets")


def test_the_lists_hold_no_word_twice():
    assert len(set(PLACES)) == len(PLACES) and len(set(VEHICLES)) == len(VEHICLES)
