"""System `random-image-text`: f = MLP([j ; t̂]), the head `concat` with a random image j in place of the reference.

Source: baseline "Random Image+Text" of Vo et al. (CVPR 2019) and of Liu et al. (ICCV 2021), "randomly sampling images
to pair with text during training and validation". j is the reference of another query of the same split: drawn anew
in every batch of training, the same in every evaluation of a run (`encoding/collate.py`).
"""

from __future__ import annotations

from neucore_xl.models.composers.concat import Concat


class RandomImageText(Concat):
    """What the head makes of a text with an image that has nothing to do with it."""

    random_reference = True
