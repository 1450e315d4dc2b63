"""One clause for one statement, in one of three moods, with the operation that the words express.

The same change is a different operation in other words: "the star is blue" addresses the target directly, "make the
star blue instead of red" compares and changes. The truth file labels the words, not the change.
"""

from __future__ import annotations

from collections.abc import Callable

from neucore_xl.data.shapes import say_layout, say_looks, say_scene
from neucore_xl.data.shapes.claims import Statement
from neucore_xl.data.shapes.clause import Clause, Mood
from neucore_xl.data.shapes.nouns import Context

Speaker = Callable[[Statement, Context, Mood], Clause]

_BY_ATTRIBUTE: dict[str, Speaker] = {
    "colour": say_looks.colour,
    "texture": say_looks.texture,
    "shape": say_looks.shape,
    "count": say_layout.number,
    "place": say_layout.place,
}
_BY_KIND: dict[str, Speaker] = {
    "direct": say_looks.several,
    "size": say_layout.size,
    "move": say_layout.move,
    "exchange": say_layout.exchange,
    "add": say_scene.addition,
    "remove": say_scene.removal,
    "replace": say_scene.replacement,
    "view": say_scene.view,
    "brightness": say_scene.brightness,
    "zoom": say_scene.zoom,
    "mirror": say_scene.mirror,
    "keep rest": say_scene.keep,
    "keep background": say_scene.keep,
    "keep view": say_scene.keep,
    "keep group": say_scene.keep,
    "keep attribute": say_scene.keep,
}


def clause(statement: Statement, context: Context, mood: Mood) -> Clause:
    """Put one statement into words; ``context`` then knows what has been spoken of."""
    speak = _BY_ATTRIBUTE[statement.said[0][0]] if statement.kind == "set" else _BY_KIND[statement.kind]
    earlier = context.last
    made = speak(statement, context, mood)
    if context.last == earlier:  # unless the wording itself turned to another group ("everything except …")
        context.last = None if statement.kind in ("replace", "exchange") else statement.group
    context.counted = statement.kind == "set" and statement.said[0][0] == "count"
    context.begun = True
    return made
