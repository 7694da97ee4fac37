# SPDX-License-Identifier: Apache-2.0
"""Label spaces of the data sets that DeepLab2's textprotos name, for records that come without `dataset.json`.

Class ids, ignore labels and label divisors are those of DeepLab2's records; names and category ids those of the data
sets.
"""

import functools

from deeplab_axial.data.label_space import LabelClass, LabelSpace, distinct_color

# Category id, name and colour of the 19 classes of Cityscapes that are evaluated, in the order of their class ids.
_CITYSCAPES = """
7 road 128 64 128; 8 sidewalk 244 35 232; 11 building 70 70 70; 12 wall 102 102 156; 13 fence 190 153 153;
17 pole 153 153 153; 19 traffic_light 250 170 30; 20 traffic_sign 220 220 0; 21 vegetation 107 142 35;
22 terrain 152 251 152; 23 sky 70 130 180; 24 person 220 20 60; 25 rider 255 0 0; 26 car 0 0 142; 27 truck 0 0 70;
28 bus 0 60 100; 31 train 0 80 100; 32 motorcycle 0 0 230; 33 bicycle 119 11 32
"""
# MOTChallenge-STEP has seven of them.
_MOTCHALLENGE = ("sidewalk", "building", "vegetation", "sky", "person", "rider", "bicycle")

# Category id and name, things first; the class id is the position plus 1.
_COCO_THINGS = """
1 person; 2 bicycle; 3 car; 4 motorcycle; 5 airplane; 6 bus; 7 train; 8 truck; 9 boat; 10 traffic light;
11 fire hydrant; 13 stop sign; 14 parking meter; 15 bench; 16 bird; 17 cat; 18 dog; 19 horse; 20 sheep; 21 cow;
22 elephant; 23 bear; 24 zebra; 25 giraffe; 27 backpack; 28 umbrella; 31 handbag; 32 tie; 33 suitcase; 34 frisbee;
35 skis; 36 snowboard; 37 sports ball; 38 kite; 39 baseball bat; 40 baseball glove; 41 skateboard; 42 surfboard;
43 tennis racket; 44 bottle; 46 wine glass; 47 cup; 48 fork; 49 knife; 50 spoon; 51 bowl; 52 banana; 53 apple;
54 sandwich; 55 orange; 56 broccoli; 57 carrot; 58 hot dog; 59 pizza; 60 donut; 61 cake; 62 chair; 63 couch;
64 potted plant; 65 bed; 67 dining table; 70 toilet; 72 tv; 73 laptop; 74 mouse; 75 remote; 76 keyboard;
77 cell phone; 78 microwave; 79 oven; 80 toaster; 81 sink; 82 refrigerator; 84 book; 85 clock; 86 vase; 87 scissors;
88 teddy bear; 89 hair drier; 90 toothbrush
"""
_COCO_STUFF = """
92 banner; 93 blanket; 95 bridge; 100 cardboard; 107 counter; 109 curtain; 112 door-stuff; 118 floor-wood;
119 flower; 122 fruit; 125 gravel; 128 house; 130 light; 133 mirror-stuff; 138 net; 141 pillow; 144 platform;
145 playingfield; 147 railroad; 148 river; 149 road; 151 roof; 154 sand; 155 sea; 156 shelf; 159 snow; 161 stairs;
166 tent; 168 towel; 171 wall-brick; 175 wall-stone; 176 wall-tile; 177 wall-wood; 178 water-other; 180 window-blind;
181 window-other; 184 tree-merged; 185 fence-merged; 186 ceiling-merged; 187 sky-other-merged; 188 cabinet-merged;
189 table-merged; 190 floor-other-merged; 191 pavement-merged; 192 mountain-merged; 193 grass-merged; 194 dirt-merged;
195 paper-merged; 196 food-other-merged; 197 building-other-merged; 198 rock-merged; 199 wall-other-merged;
200 rug-merged
"""


def _cityscapes(name: str, thing_names: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> LabelSpace:
    """The classes of Cityscapes, or only some of them; things are the named ones, by default those of Cityscapes."""
    rows = [entry.split() for entry in _CITYSCAPES.replace("\n", " ").split(";")]
    things = thing_names or tuple(row[1] for row in rows[11:])
    rows = [row for row in rows if not only or row[1] in only]
    classes = tuple(
        LabelClass(i, label.replace("_", " "), label in things, (int(red), int(green), int(blue)), int(category))
        for i, (category, label, red, green, blue) in enumerate(rows)
    )
    return LabelSpace(name, classes, num_classes=len(classes), ignore_label=255, label_divisor=1000)


def _coco(name: str) -> LabelSpace:
    classes = []
    for text, is_thing in ((_COCO_THINGS, True), (_COCO_STUFF, False)):
        for entry in text.replace("\n", " ").split(";"):
            category, label = entry.strip().split(" ", 1)
            i = len(classes) + 1
            classes.append(LabelClass(i, label, is_thing, distinct_color(i), int(category)))
    return LabelSpace(name, tuple(classes), num_classes=len(classes) + 1, ignore_label=0, label_divisor=256)


_MAKERS = {
    "cityscapes_panoptic": _cityscapes,
    "coco_panoptic": _coco,
    "kitti_step": functools.partial(_cityscapes, thing_names=("person", "car")),
    "motchallenge_step": functools.partial(_cityscapes, thing_names=("person",), only=_MOTCHALLENGE),
}
NAMES = tuple(_MAKERS)


@functools.cache
def known_label_space(name: str) -> LabelSpace | None:
    """The label space of a data set that DeepLab2 knows by this name, one of NAMES; None for any other name."""
    return _MAKERS[name](name) if name in _MAKERS else None
