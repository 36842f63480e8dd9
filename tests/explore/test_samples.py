"""Questions about the shipped images."""

from monkeylib.explore.samples import sample_questions


def test_questions_have_images_and_ground_truth():
    questions = sample_questions()
    assert all(question.image.is_file() for question in questions)
    assert {question.image.suffix for question in questions if not question.ground_truth} == {".jpg"}
    juice = next(question for question in questions if question.question == "how much is the juice?")
    assert (juice.image.name, juice.ground_truth, juice.text_size) == ("receipt.png", "1.75", "fine")
