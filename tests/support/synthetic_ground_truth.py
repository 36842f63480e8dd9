"""Answers to questions about synthetic images, worked out a second time from the ground truth."""

from monkeylib.data.synthetic import scenes


def answer_from_ground_truth(sample, question):
    """Return the answer to a question from objects, signs or facts."""
    if sample.family == "general":
        return _answer_about_objects(sample.objects, question.removesuffix("?"))
    if sample.family == "scene_text":
        return _answer_about_signs(sample.signs, question)
    return _answer_about_document(sample.facts, question)


def _answer_about_objects(objects, question):
    if question.startswith("how many "):
        plural = question.removeprefix("how many ").removesuffix(" are there")
        irregular = {"fish": "fish", "boxes": "box", "crosses": "cross"}
        name = irregular.get(plural, plural.removesuffix("s"))
        return scenes.NUMBERS[sum(drawn.name == name for drawn in objects)]

    if question.startswith("what is at the "):
        location = question.removeprefix("what is at the ")
        (drawn,) = (drawn for drawn in objects if drawn.location == location)
        return drawn.name

    name = question.rsplit(" ", 1)[1]
    (drawn,) = (drawn for drawn in objects if drawn.name == name)
    return drawn.colour if question.startswith("what colour") else drawn.location


def _answer_about_signs(signs, question):
    if question == "what does the sign say?":
        (sign,) = signs
    elif question.startswith("what does the "):
        (sign,) = (sign for sign in signs if question == f"what does the {sign.colour} sign say?")
    else:
        (sign,) = (sign for sign in signs if question == f"what is written at the {sign.location}?")

    return sign.text.string


def _answer_about_document(facts, question):
    *facts_of_lines, (_, title) = facts
    if question in ("what shop is this?", "what is the title?"):
        return title

    if question.startswith("which is the"):
        values = {key: int(value) for key, value in facts_of_lines}
        extreme = max if "highest" in question else min
        return extreme(values, key=values.get)

    key = question.removesuffix("?")
    for prefix in ("what is the value of ", "how much is the ", "what is the ", "what is "):
        key = key.removeprefix(prefix)
    if " for " in key:  # a column and a line of a table
        column, line = key.split(" for ")
        key = f"{line} {column}"

    return dict(facts)[key]
